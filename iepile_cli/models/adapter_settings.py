"""What an adapter folder records of itself: ``iepile.json``, written by ``train``.

``extract``, ``export`` and ``train --adapter`` read it, so that an adapter is always used with the
template and the base model that it was trained with.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from iepile_cli.errors import ModelError

FILE = "iepile.json"


@dataclass(frozen=True)
class AdapterSettings:
    """Template name and hash, base model, rank and alpha, tasks and languages of its data.

    ``system`` is the system text it was trained with, ``None`` for the template's own.
    ``over`` are adapters that were merged into the base model before: it needs them beneath.
    ``method`` is ``lora``, ``full`` or ``freeze``; rank and alpha are 0 without LoRA.
    """

    template: str
    template_hash: str
    base_model: str
    method: str = "lora"
    system: str | None = None
    lora_r: int = 0
    lora_alpha: float = 0
    max_length: int = 0
    tasks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    version: str = ""

    def write(self, folder: Path) -> None:
        """Write ``iepile.json`` into a folder, atomically."""
        partial = folder / f".{FILE}.{os.getpid()}"
        partial.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n", "utf-8")
        os.replace(partial, folder / FILE)

    def check_template(self, name: str, template_hash: str, adapter: object) -> None:
        """Raise ``ModelError`` when another template is about to be used."""
        if template_hash != self.template_hash:
            same = " of another form" if name == self.template else ""
            raise ModelError(
                f"{adapter} was trained with the template {self.template!r}, not with "
                f"{name!r}{same}",
                hint="leave --template out to use that one, or name another to insist",
            )


def read_adapter_settings(path: Path) -> AdapterSettings | None:
    """The settings of an adapter folder, or of the folder that a GGUF adapter lies in.

    ``None`` when none are recorded. Raises ``ModelError`` for a file that cannot be read.
    """
    file = (path if path.is_dir() else path.parent) / FILE
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known = {item.name for item in fields(AdapterSettings)}
        values = {key: value for key, value in content.items() if key in known}
        for key in ("tasks", "languages", "over"):
            values[key] = tuple(values.get(key, ()))
        return AdapterSettings(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{file}: not an adapter's settings: {error}") from None

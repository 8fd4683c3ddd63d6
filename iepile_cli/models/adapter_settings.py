"""What an adapter folder records of itself: ``iepile.json``, written by ``train``.

``extract``, ``export`` and ``train --adapter`` read it, so that an adapter is always used with the
template and the base model that it was trained with.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from iepile_cli.errors import ModelError
from iepile_cli.writing import write_atomic

FILE = "iepile.json"
# The key of a GGUF file that holds the same; it comes before all that takes long to read.
GGUF_KEY = "iepile.settings"
# What llama.cpp reads of a folder: train writes it beside the adapter of a GGUF model.
GGUF_ADAPTER = "adapter.gguf"
_GGUF_STRING = 8
_FIRST_KEYS = 4


@dataclass(frozen=True)
class TaskSettings:
    """How a model is best used for one task, as found on development data.

    ``min_score`` is the score (0..1) below which answers are not worth showing, ``near_score`` the
    share (0..1) of the best score at a place that other types there must reach, and ``split_num``
    how many types are put at once (-1: all; none: as many as the task has by default). Of several
    numbers, as a list in files, each is one reading of a text, and the mean of their scores counts.
    """

    min_score: float = 0.0
    near_score: float = 0.0
    split_num: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("min_score", "near_score"):
            score = getattr(self, name)
            if type(score) not in (int, float) or not 0 <= score <= 1:
                raise ValueError(f"{name}: a score (0..1) is expected, not {score!r}")
        given: Any = self.split_num
        sizes = tuple(given or ()) if isinstance(given, (list, tuple, type(None))) else (given,)
        for number in sizes:
            if type(number) is not int or number < -1 or number == 0:
                raise ValueError(
                    f"split_num: a number of types, or -1, is expected, not {number!r}"
                )
        object.__setattr__(self, "split_num", sizes)


@dataclass(frozen=True)
class AdapterSettings:
    """Template name and hash, base model, rank and alpha, tasks and languages of its data.

    ``system`` is the system text it was trained with, ``None`` for the template's own.
    ``over`` are adapters that were merged into the base model before: it needs them beneath.
    ``passage_tokens`` is the longest passage, in tokens, that it answers well (0: not known), and
    ``by_task`` has how it is best used for each task.
    ``method`` is ``lora``, ``full``, ``freeze`` or ``merged``; rank and alpha are 0 without LoRA.
    """

    template: str
    template_hash: str
    base_model: str
    method: str = "lora"
    system: str | None = None
    lora_r: int = 0
    lora_alpha: float = 0
    max_length: int = 0
    passage_tokens: int = 0
    by_task: Mapping[str, TaskSettings] = field(default_factory=dict, hash=False)
    tasks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    version: str = ""

    def as_json(self, indent: int | None = None) -> str:
        """The settings as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=indent)

    def write(self, folder: Path) -> None:
        """Write ``iepile.json`` into a folder, atomically."""
        write_atomic(folder / FILE, self.as_json(1) + "\n")

    def check_template(self, name: str, template_hash: str, adapter: object) -> None:
        """Raise ``ModelError`` when another template is about to be used."""
        if template_hash == self.template_hash:
            return
        if name == self.template:
            raise ModelError(
                f"{adapter} was trained with another form of the template {name!r}",
                hint="the tokenizer in use brings another chat template than its base model's; "
                "name a --template to insist",
            )
        raise ModelError(
            f"{adapter} was trained with the template {self.template!r}, not with {name!r}",
            hint="leave --template out to use that one, or name another to insist",
        )


def read_adapter_settings(path: Path) -> AdapterSettings | None:
    """The settings of a folder or GGUF file that this program made; ``None`` of any other.

    Raises ``ModelError`` for settings that cannot be read.
    """
    if path.is_dir():
        file = path / FILE
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    else:
        text = _gguf_settings(path)
    if not text:
        return None
    try:
        content: dict[str, Any] = json.loads(text)
        known = {item.name for item in fields(AdapterSettings)}
        values = {key: value for key, value in content.items() if key in known}
        for key in ("tasks", "languages", "over"):
            values[key] = tuple(values.get(key, ()))
        by_task = content.get("by_task", {})
        values["by_task"] = {task: TaskSettings(**known) for task, known in by_task.items()}
        return AdapterSettings(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not an adapter's settings: {error}") from None


def _gguf_settings(path: Path) -> str:
    """The text under our key, if it is among the first of a GGUF file."""
    try:
        with path.open("rb") as file:
            magic, _, _, keys = struct.unpack("<4sIQQ", file.read(24))
            for _ in range(min(keys, _FIRST_KEYS) if magic == b"GGUF" else 0):
                key = _string(file)
                (kind,) = struct.unpack("<I", file.read(4))
                if kind != _GGUF_STRING:
                    return ""
                value = _string(file)
                if key == GGUF_KEY:
                    return value
    except (OSError, struct.error, UnicodeDecodeError):
        pass
    return ""


def _string(file: BinaryIO) -> str:
    (size,) = struct.unpack("<Q", file.read(8))
    # No key or value of ours is longer; a broken file must not be read whole.
    return file.read(min(size, 1 << 20)).decode("utf-8")

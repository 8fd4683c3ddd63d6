"""Report files: written beside their place and moved there when whole."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import UsageError

if TYPE_CHECKING:
    from iepile_cli.evaluation.evaluate import Evaluation


def check_targets(targets: list[str | None], sources: list[str | None]) -> None:
    """Raise ``UsageError`` before any work for a file that cannot be written.

    That is one whose folder is not there, that is a folder, or that is read as well or written
    twice.
    """
    read = {os.path.realpath(path) for path in sources if path not in (None, "-")}
    written: set[str] = set()
    for target in targets:
        if target is None or target == "-":
            continue
        real = os.path.realpath(target)
        if real in read:
            raise UsageError(f"{target} would overwrite what is read from it")
        if real in written and not _is_device(real):
            raise UsageError(f"two reports cannot both be written to {target}")
        written.add(real)
        if os.path.isdir(target):
            raise UsageError(f"{target} is a folder", hint="name a file")
        if not Path(target).absolute().parent.is_dir():
            raise UsageError(f"{Path(target).parent} is not there", hint="make the folder first")


def write_json(value: Any, path: Path) -> None:
    """Write a JSON file, as a whole or not at all."""
    _write([json.dumps(value, ensure_ascii=False, indent=2), "\n"], path)


def write_html(evaluation: Evaluation, path: Path, most: int) -> None:
    """Write the HTML report with at most ``most`` documents that have errors."""
    from iepile_cli.evaluation.page import page

    _write(page(evaluation, most), path)


def _write(parts: Iterable[str], path: Path) -> None:
    if _is_device(path):
        # There is nothing to replace.
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(parts)
        return
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(parts)
        # A temporary file is private; the finished one is as open as the user's files are.
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _is_device(path: str | Path) -> bool:
    """Whether a path is there and is a pipe or a device."""
    return os.path.exists(path) and not os.path.isfile(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

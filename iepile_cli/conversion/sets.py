"""What a path says about a set: its task, its language, its name, and what its files are for.

The layout is that of the IEPile download: ``IE-en/NER/CoNLL2003/test.json`` with ``schema.json``
beside, sets nested deeper as in ``EE/RAMS/life``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iepile_cli.task.table import TASKS, Task

SCHEMA = "schema.json"

_FILE = re.compile(r"(train|dev|valid|test)\.jsonl?(\.gz|\.zst)?")
_LANGUAGE = re.compile(r"(?:.*[-_])?(en|zh)")


@dataclass(frozen=True)
class DataSet:
    """One set of a corpus: its folder, that folder within the corpus, and its files."""

    folder: Path
    inside: Path
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """How the set is named in messages."""
        return str(self.inside) if self.inside.parts else self.folder.resolve().name

    @property
    def size(self) -> int:
        """Bytes in its files."""
        return sum(path.stat().st_size for path in self.files)


def find_sets(root: Path) -> list[DataSet]:
    """Every folder at or below ``root`` that holds train, dev, valid or test files, sorted."""
    return sorted(_sets(root), key=lambda one: one.inside.as_posix())


def _sets(root: Path) -> Iterator[DataSet]:
    for here, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = [name for name in names if _FILE.fullmatch(name)]
        if files:
            folder = Path(here)
            paths = tuple(folder / name for name in sorted(files, key=_usual_order))
            yield DataSet(folder, folder.relative_to(root), paths)


def _usual_order(name: str) -> tuple[int, str]:
    return ("train", "dev", "valid", "test").index(name.partition(".")[0]), name


def split_of(path: Path | None) -> str:
    """What a file is for by its name: ``test`` for test files, ``train`` for all others."""
    return "test" if path is not None and path.name.partition(".")[0] == "test" else "train"


def task_of(folder: Path) -> Task | None:
    """The task that a folder's path names, the innermost one."""
    for part in reversed(folder.resolve().parts):
        if part.upper() in TASKS:
            return TASKS[part.upper()]
    return None


def language_of_path(folder: Path) -> str | None:
    """The language that a folder's path names, as in ``IE-en``."""
    for part in reversed(folder.resolve().parts):
        found = _LANGUAGE.fullmatch(part.lower())
        if found and task_of(folder):
            return found[1]
    return None


def source_of(path: Path | None) -> str:
    """The name of a set: its file's folder, or the file's own stem when it is named without one."""
    if path is None:
        return "stdin"
    named = path.parent.name
    return named if named not in ("", ".", "..") else path.name.partition(".")[0]

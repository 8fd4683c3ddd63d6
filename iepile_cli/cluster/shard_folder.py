"""The folder of a run: a file for each shard, what failed, and what the run was made with.

``part-00003-of-00100.jsonl`` is there when shard 3 is done, and never before. Texts that could not
be used are in ``failed-00003-of-00100.jsonl``, each with its reason. ``run.json`` tells what the
shards were made with, so that going on with something else is refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from iepile_cli.errors import DataError, UsageError
from iepile_cli.files import read_text
from iepile_cli.writing import write_atomic

SETTINGS = "run.json"
_PART = re.compile(r"part-(\d+)-of-(\d+)\..*")


class ShardFolder:
    """The output folder of a run of ``of`` shards; ``ending`` is the suffix of their files."""

    def __init__(self, path: str, of: int, ending: str = "jsonl") -> None:
        self.path, self.of, self.ending = Path(path), of, ending

    def part(self, number: int) -> Path:
        """The file of a shard."""
        return self.path / f"part-{number:05}-of-{self.of:05}.{self.ending}"

    def failed(self, number: int) -> Path:
        """What of a shard failed, with the reasons."""
        return self.path / f"failed-{number:05}-of-{self.of:05}.jsonl"

    def unfinished(self) -> list[int]:
        """The numbers of the shards that are still to do."""
        return [number for number in range(1, self.of + 1) if not self.part(number).exists()]

    def begin(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder ready for a run with these settings.

        Raises ``UsageError`` for a folder with results when nothing is resumed, and for a run that
        was made with other settings, naming the first that differs.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file", hint="shards go to a folder: name one")
        before = self._settings()
        if before is None and any(_PART.fullmatch(name) for name in self._names()):
            raise UsageError(
                f"{self.path} holds shards of another run", hint="name another folder with -o"
            )
        if before is not None:
            if not resume:
                raise UsageError(
                    f"{self.path} holds shards of an earlier run",
                    hint="--resume goes on with them; to begin again, remove it",
                )
            _compare(self.path, before, settings)
        text = json.dumps(settings, ensure_ascii=False, indent=1)
        write_atomic(self.path / SETTINGS, text + "\n")

    def failures(self) -> Iterator[dict[str, Any]]:
        """What failed in all shards that are done: source, line and reason of each."""
        for number in range(1, self.of + 1):
            if self.failed(number).exists():
                for line in read_text(self.failed(number)).splitlines():
                    yield json.loads(line)

    def _names(self) -> list[str]:
        return os.listdir(self.path) if self.path.is_dir() else []

    def _settings(self) -> dict[str, Any] | None:
        path = self.path / SETTINGS
        if not path.is_file():
            return None
        try:
            found = json.loads(read_text(path))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise DataError("is no settings file of a run", path=path, hint="name another -o")
        return found


def _compare(path: Path, before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    # As JSON has them: tuples are lists.
    now = json.loads(json.dumps(settings))
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise UsageError(
                f"{path} was written with another {name}: "
                f"{_shown(before.get(name))}, not {_shown(now.get(name))}",
                hint="resume with the same, or name another -o",
            )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

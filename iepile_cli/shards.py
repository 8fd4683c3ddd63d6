"""Shards: the contiguous parts that a job array divides its input into.

Part ``i`` of ``n`` holds what comes after part ``i - 1``; all parts one after the other are the
whole, each item once and in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from iepile_cli.errors import UsageError
from iepile_cli.files import STDIN, StrPath
from iepile_cli.writing import is_device


@dataclass(frozen=True)
class Shard:
    """One part of several: ``number`` from 1 to ``of``."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def first(self) -> bool:
        """Whether nothing comes before this part."""
        return self.number == 1

    @property
    def last(self) -> bool:
        """Whether nothing comes after this part."""
        return self.number == self.of

    def bounds(self, total: int) -> tuple[int, int]:
        """Which of ``total`` items are in this part: from the first number up to the second."""
        return total * (self.number - 1) // self.of, total * self.number // self.of


def parse_shard(text: str) -> Shard:
    """Read ``"3/10"``; raises ``UsageError`` for what is no part of several."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
    shard = Shard(int(found[1]), int(found[2])) if found else None
    if shard is None or not 1 <= shard.number <= shard.of:
        raise UsageError(f"--shard {text} is no part of several", hint="I/N, from 1/N to N/N")
    return shard


def refuse_streams(paths: Iterable[StrPath | None]) -> None:
    """Raise ``UsageError`` for what cannot be read twice, as taking a part of it needs."""
    if any(path in (None, STDIN) or is_device(path or "") for path in paths):
        raise UsageError(
            "--shard: a part can only be taken of files, which are read twice",
            hint="write the stream to a file first",
        )

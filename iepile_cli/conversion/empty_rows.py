"""Keeps the share of rows with an all-empty answer at or under a limit."""

from __future__ import annotations

import random
from collections.abc import Sequence


class EmptyLimit:
    """Decides row by row which empty ones stay; at no point is their share over ``limit``.

    Row order decides, not chunks or processes, and chance comes from ``seed`` alone. Empty rows
    are drawn with the probability that the counts so far ask for, so that they come from all of
    the file and not only from after a row with an answer.
    """

    def __init__(self, limit: float, seed: int) -> None:
        # Empty rows allowed for each row with an answer.
        self.each = limit / (1 - limit) if limit < 1 else float("inf")
        self.random = random.Random(seed)
        self.full = 0
        self.empty_seen = 0
        self.empty_kept = 0

    def keeps(self, empty: bool) -> bool:
        """Whether the next row stays."""
        if not empty:
            self.full += 1
            return True
        self.empty_seen += 1
        room = self.full * self.each - self.empty_kept
        if room < 1:
            return False
        # Room that is left over from stretches with few empty rows is used up over the next ones.
        wanted = self.full * self.each / self.empty_seen + room / 64
        if self.random.random() >= wanted:
            return False
        self.empty_kept += 1
        return True

    def filtered(self, data: bytes, lengths: Sequence[int], empty: Sequence[bool]) -> list[bytes]:
        """The rows of ``data`` that stay."""
        kept = []
        start = 0
        for length, is_empty in zip(lengths, empty, strict=True):
            if self.keeps(is_empty):
                kept.append(data[start : start + length])
            start += length
        return kept

"""Long texts cut into passages that a model can take, with their places in the text.

Nothing is dropped: every character that is not white space stands in exactly one passage. Cuts
are made where they harm least: after a paragraph, else a sentence, else a line, else a word; only
what is longer than a whole passage is cut inside.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from iepile_cli.errors import ModelError
from iepile_cli.task.sentences import (
    LINE,
    LONG_GAP,
    PARAGRAPH,
    SENTENCE,
    WORD,
    Unit,
    finer,
    units,
)

Measure: TypeAlias = Callable[[str], int]

# How full a passage must be to end at a place of that kind when a worse one comes later.
_FULL_ENOUGH = {PARAGRAPH: 0.5, SENTENCE: 0.25, LINE: 0.1, WORD: 0.0}
# Text is measured in stretches of at most so many characters for each unit of budget: no tokenizer
# makes so few tokens of writing, and so no stretch costs much more than a passage.
_LONGEST = 16
_SHORTEST_STRETCH = 256


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document: ``document.text[start:start + len(text)] == text``."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """Where it ends in the document, half-open."""
        return self.start + len(self.text)


class _Sized(NamedTuple):
    unit: Unit
    size: int


def passages(text: str, budget: int, measure: Measure) -> Iterator[Passage]:
    """Cut a text into passages with ``measure(passage.text) <= budget``, in order, lazily.

    ``measure`` gives the tokens of a string. It is asked for every sentence and every passage
    once, so the whole costs as much as measuring the text about twice. Raises ``ModelError`` when
    the budget does not hold even one character.
    """
    longest = max(_SHORTEST_STRETCH, _LONGEST * budget)
    stripped = text.strip()
    if len(text) <= longest and stripped and measure(stripped) <= budget:
        yield Passage(stripped, len(text) - len(text.lstrip()))
        return
    packed = _Packing(text, budget, measure)
    for sized in _sized(text, budget, longest, measure):
        yield from packed.make_room(sized)
        packed.add(sized)
    yield from packed.rest()


class _Packing:
    """Units that wait to be put into one passage.

    A passage's size is foretold from the sizes of its units. Tokens join or split at the seams, so
    each passage is measured too, and how far off it was corrects the next.
    """

    def __init__(self, text: str, budget: int, measure: Measure) -> None:
        self._text, self._budget, self._measure = text, budget, measure
        self._waiting: deque[_Sized] = deque()
        self._filled = 0
        self._correction = 1.0

    def add(self, sized: _Sized) -> None:
        """Let one more unit wait."""
        self._filled += self._gap_size(sized) + sized.size
        self._waiting.append(sized)

    def make_room(self, sized: _Sized) -> Iterator[Passage]:
        """Give passages until the next unit fits in with those that wait."""
        while self._waiting:
            if self._gap(sized) >= LONG_GAP:
                yield self._take(len(self._waiting))
                continue
            filled = self._filled + self._gap_size(sized) + sized.size
            if filled * self._correction <= self._budget:
                return
            yield self._take(self._best_cut())

    def rest(self) -> Iterator[Passage]:
        """Give passages until nothing waits."""
        while self._waiting:
            yield self._take(len(self._waiting))

    def _gap(self, sized: _Sized) -> int:
        return sized.unit.start - self._waiting[-1].unit.end if self._waiting else 0

    def _gap_size(self, sized: _Sized) -> int:
        """A guess, on the safe side, at the tokens of the white space before a unit."""
        gap = self._gap(sized)
        return gap if gap > 2 else 0

    def _best_cut(self) -> int:
        """After how many of the waiting units a passage had best end."""
        sums = list(accumulate(size for _, size in self._waiting))
        for kind in (PARAGRAPH, SENTENCE, LINE):
            for count in range(len(sums), 0, -1):
                if sums[count - 1] * self._correction < _FULL_ENOUGH[kind] * self._budget:
                    break
                if self._waiting[count - 1].unit.cut >= kind:
                    return count
        return len(sums)

    def _take(self, count: int) -> Passage:
        """Take a passage of ``count`` units off the front, of fewer when they do not fit."""
        start = self._waiting[0].unit.start
        sums = list(accumulate(size for _, size in self._waiting))
        while True:
            passage = self._text[start : self._waiting[count - 1].unit.end]
            if count == 1:
                self._correction = 1.0
                break
            size = self._measure(passage)
            self._correction = max(size, 1) / max(sums[count - 1], 1)
            if size <= self._budget:
                break
            fits = bisect_right(sums, self._budget / self._correction)
            count = max(1, min(fits, count - 1))
        for _ in range(count):
            self._waiting.popleft()
        waiting, self._waiting, self._filled = self._waiting, deque(), 0
        for sized in waiting:
            self.add(sized)
        return Passage(passage, start)


def _sized(text: str, budget: int, longest: int, measure: Measure) -> Iterator[_Sized]:
    """The units of a text with their sizes, none larger than the budget."""
    for unit in units(text):
        parts = finer(text, unit, longest) if unit.end - unit.start > longest else (unit,)
        for part in parts:
            yield from _fitting(text, part, budget, measure)


def _fitting(text: str, unit: Unit, budget: int, measure: Measure) -> Iterator[_Sized]:
    """The unit, or the finer ones that it must be cut into, each with its size."""
    stack = [unit]
    while stack:
        part = stack.pop()
        size = measure(text[part.start : part.end])
        if size <= budget:
            yield _Sized(part, size)
            continue
        length = part.end - part.start
        # Quarters of a passage: coarse enough to be cheap, fine enough to fill passages well.
        target = min(length - 1, max(1, int(length * budget / size / 4)))
        smaller = list(finer(text, part, target)) if target else []
        if smaller in ([], [part]):
            raise ModelError(
                f"a passage of {budget} tokens does not hold even {text[part.start : part.end]!r}",
                hint="a larger context, fewer schema items at once, or shorter descriptions",
            )
        stack += reversed(smaller)

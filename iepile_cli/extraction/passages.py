"""Long texts cut into passages that a model can take, with their places in the text.

Nothing is dropped: every character that is not white space stands in exactly one passage. Cuts
are made where they harm least: after a paragraph, else a sentence, else a line, else a word; only
what is longer than a whole passage is cut inside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from iepile_cli.errors import ModelError
from iepile_cli.extraction.sentences import (
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
    waiting: deque[_Sized] = deque()
    filled = 0
    for sized in _sized(text, budget, longest, measure):
        gap = sized.unit.start - waiting[-1].unit.end if waiting else 0
        while waiting and (filled + _gap_size(gap) + sized.size > budget or gap >= LONG_GAP):
            count = len(waiting) if gap >= LONG_GAP else _best_cut(waiting, budget)
            yield _taken(text, waiting, count, budget, measure)
            filled = _filled(waiting)
            gap = sized.unit.start - waiting[-1].unit.end if waiting else 0
        filled += (_gap_size(gap) if waiting else 0) + sized.size
        waiting.append(sized)
    while waiting:
        yield _taken(text, waiting, len(waiting), budget, measure)


def _gap_size(gap: int) -> int:
    """A guess, on the safe side, at the tokens of white space between two units."""
    return gap if gap > 2 else 0


def _filled(waiting: deque[_Sized]) -> int:
    total, end = 0, None
    for unit, size in waiting:
        total += size + (0 if end is None else _gap_size(unit.start - end))
        end = unit.end
    return total


def _best_cut(waiting: deque[_Sized], budget: int) -> int:
    """After how many of the waiting units a passage had best end."""
    sums: list[int] = []
    for _, size in waiting:
        sums.append((sums[-1] if sums else 0) + size)
    for kind in (PARAGRAPH, SENTENCE, LINE):
        for count in range(len(waiting), 0, -1):
            if sums[count - 1] < _FULL_ENOUGH[kind] * budget:
                break
            if waiting[count - 1].unit.cut >= kind:
                return count
    return len(waiting)


def _taken(text: str, waiting: deque[_Sized], count: int, budget: int, measure: Measure) -> Passage:
    """Take a passage of up to ``count`` units off the front, fewer when they do not fit."""
    start = waiting[0].unit.start
    while True:
        passage = text[start : waiting[count - 1].unit.end]
        over = measure(passage) - budget if count > 1 else 0
        if over <= 0:
            break
        # The units' own sizes add up to less than the whole: leave out as many as it is over.
        while over > 0 and count > 1:
            count -= 1
            over -= waiting[count].size
    for _ in range(count):
        waiting.popleft()
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

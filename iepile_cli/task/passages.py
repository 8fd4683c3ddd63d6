"""Long texts cut into passages that a model can take, with their places in the text.

Nothing is dropped: every character that is not white space stands in exactly one passage. Cuts
are made where they harm least: after a paragraph, else a sentence, else a line, else a word. A
sentence that fits into a passage is not cut; only what is longer than a whole passage is.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import NamedTuple, TypeAlias

from iepile_cli.errors import ModelError
from iepile_cli.task.segment import segment

Measure: TypeAlias = Callable[[str], int]

# How good a cut after a unit is.
PARAGRAPH, SENTENCE, LINE, WORD = 3, 2, 1, 0

# A gap of white space this long ends a passage: it would only cost tokens.
LONG_GAP = 1000

# How full a passage must be to end at a place of that kind when a worse one comes later. A
# sentence goes to the next passage rather than being cut at the end of one of its lines.
_FULL_ENOUGH = {PARAGRAPH: 0.5, SENTENCE: 0.0, LINE: 0.1, WORD: 0.0}
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


class Unit(NamedTuple):
    """A stretch ``text[start:end]`` of a text, and how good a place its end is for a cut."""

    start: int
    end: int
    cut: int


class _Sized(NamedTuple):
    unit: Unit
    size: int


def passages(
    text: str, budget: int, measure: Measure, *, sentence_budget: int = 0, first: float = 0
) -> Iterator[Passage]:
    """Cut a text into passages with ``measure(passage.text) <= budget``, in order, lazily.

    A sentence of up to ``sentence_budget`` that does not fit is a passage of its own, uncut.
    ``first``, if not 0, is the share of the budget that the first passage may have: those after it
    then begin elsewhere than without it.
    ``measure`` gives the tokens of a string; each sentence and each passage is measured once.
    Raises ``ModelError`` when the budget does not hold even one character.
    """
    if first:
        short = max(1, int(budget * first))
        head = next(passages(text, short, measure, sentence_budget=sentence_budget or budget), None)
        if head is not None:
            yield head
            rest = passages(text[head.end :], budget, measure, sentence_budget=sentence_budget)
            yield from (Passage(found.text, head.end + found.start) for found in rest)
        return
    largest = max(budget, sentence_budget) if sentence_budget else budget
    longest = max(_SHORTEST_STRETCH, _LONGEST * largest)
    stripped = text.strip()
    if len(text) <= longest and stripped and measure(stripped) <= budget:
        yield Passage(stripped, len(text) - len(text.lstrip()))
        return
    packed = _Packing(text, budget, measure)
    for sized in _sized(text, largest, longest, measure):
        yield from packed.make_room(sized)
        packed.add(sized)
    yield from packed.rest()


def overlapping(
    text: str, cut: Iterable[Passage], sentences: int, largest: int, measure: Measure
) -> Iterator[Passage]:
    """The passages of a text, each with so many of the sentences before it in front.

    With fewer, or none, where the passage would measure more than ``largest``.
    """
    starts: list[int] = []
    ended = True
    for unit in units(text):
        if ended:
            starts.append(unit.start)
        ended = unit.cut >= SENTENCE
    for passage in cut:
        before = bisect_left(starts, passage.start)
        for start in starts[max(0, before - sentences) : before]:
            longer = text[start : passage.end]
            if len(longer) <= _LONGEST * largest and measure(longer) <= largest:
                yield Passage(longer, start)
                break
        else:
            yield passage


class _Packing:
    """Units that wait to be put into one passage.

    A passage's size is estimated from the sizes of its units. Tokens join or split at the seams, so
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
            count = self._best_cut()
            if self._waiting[count - 1].unit.cut < SENTENCE and self._fits_with(sized):
                return
            yield self._take(count)

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

    def _fits_with(self, sized: _Sized) -> bool:
        """Whether the waiting units and one more are a passage after all, measured together."""
        text = self._text[self._waiting[0].unit.start : sized.unit.end]
        return len(text) <= _LONGEST * self._budget and self._measure(text) <= self._budget

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
            fits = max(1, min(bisect_right(sums, self._budget / self._correction), count - 1))
            ends = (n for n in range(fits, 0, -1) if self._waiting[n - 1].unit.cut >= SENTENCE)
            count = next(ends, fits)
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


# ------------------------------------------------------------------- sentences, lines and clauses

# Where a sentence that is too long is rather cut than between any two words.
_CLAUSE_ENDS = frozenset(",;:\uff0c\u3001\uff1b\uff1a\u060c\u061b")

_CLOSERS = "\"'\u2019\u201d\u00bb)\\]}\u300d\u300f\uff09\u3011\u300b\u3009"
# Each alternative reads a run once, from its beginning: hostile text costs no more than any other.
_BREAK = re.compile(
    r"(?P<gap>[\n\r\x0b\x0c\x85\u2028\u2029]\s*)"
    rf"|(?P<full>[\u3002\uff01\uff1f\uff61\u0964\u06d4\u2026]+[{_CLOSERS}]*)"
    rf"|(?P<stop>(?<![.!?])[.!?]+[{_CLOSERS}]*(?=\s))"
)
_BLANK_LINE = re.compile(r"[\x0c\u2029]|\n[^\n]*\n|\r[^\n\r]*\r")
_LINE = re.compile(r"[^\n\r\x0b\x0c\x85\u2028\u2029]+")
# Paragraphs wrapped at fewer characters are lists or verse. So many lines are looked at together,
# and each but the last is filled to this share of the longest.
_LEAST_WIDTH = 40
_LINES_TOGETHER = 40
_FILLED = 0.8
# The word before a full stop, when it decides whether a sentence ends there.
_LAST_WORD = re.compile(r"[\w.]*$")
_ABBREVIATED = """
    mr mrs ms dr prof st rev hon gen col lt sgt capt sen rep gov pres jr sr messrs
    vs etc e.g i.e cf al viz approx ca inc ltd co corp bros dept univ assn
    nos fig figs eq eqs sec ch vol vols pp ed eds
    jan feb mar apr jun jul aug sep sept oct nov dec
    a.m p.m u.s u.k u.n e.u d.c ph.d b.a m.a m.d
"""
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())


def units(text: str) -> Iterator[Unit]:
    """The sentences and lines of a text, in order; a line that is only wrapped does not end."""
    start = line = known = 0
    wrapped = False
    for found in _BREAK.finditer(text):
        if found.lastgroup == "gap":
            cut = PARAGRAPH if _BLANK_LINE.search(found.group()) else LINE
            if cut == LINE and found.start() >= known:
                known, wrapped = _wrapping(text, line)
            line = found.end()
            if cut == LINE and wrapped:
                continue
            yield from _trimmed(text, start, found.start(), cut)
        elif found.lastgroup == "full" or _ends_sentence(text, found.start(), found.end()):
            yield from _trimmed(text, start, found.end(), SENTENCE)
        else:
            continue
        start = found.end()
    yield from _trimmed(text, start, len(text), PARAGRAPH)


def _wrapping(text: str, start: int) -> tuple[int, bool]:
    """Where the next lines of a paragraph end, and whether they are one text wrapped at a width.

    Then each goes on until the next word has no room, and most begin in the middle of a sentence.
    """
    lines: list[tuple[int, int]] = []
    for line in islice(_LINE.finditer(text, start), _LINES_TOGETHER):
        if line.group().isspace() or _BLANK_LINE.search(text, start, line.start()):
            break
        lines.append(line.span())
        start = line.end()
    width = max((end - begin for begin, end in lines), default=0)
    words = [[*text[at : at + _LEAST_WIDTH].split(), ""][0] for at, _ in lines[1:]]
    room = [_FILLED * width - len(word) - 1 for word in words]
    filled = all(end - begin > least for (begin, end), least in zip(lines, room, strict=False))
    within = 2 * sum(word[:1].islower() for word in words) >= max(1, len(words))
    return start, width >= _LEAST_WIDTH and filled and within


def full_stop(text: str, start: int, end: int) -> int:
    """How long the full stop of a sentence is that ends the mention ``text[start:end]``: 0 or 1.

    The stop of an abbreviation or an initial belongs to it.
    """
    if end - start < 2:
        return 0
    if text[end - 1] in "\u3002\uff61\u0964\u06d4":
        return 1
    following = text[end : end + 1]
    if text[end - 1] != "." or following == "." or following.isalnum():
        return 0
    last_word = text[start : end - 1].rpartition(" ")[2]
    # "L.A.", an ellipsis, and a stop that stands apart, as in tokenized text: "Inc .".
    if not last_word or "." in last_word or last_word[-1] in "!?":
        return 0
    return int(_ends_sentence(text, end - 1, end))


def _ends_sentence(text: str, stop: int, end: int) -> bool:
    if text[stop] != ".":
        return True
    following = text[end : end + 200].lstrip()[:1]
    if following.islower():
        return False
    match = _LAST_WORD.search(text[max(0, stop - 30) : stop])
    word = match.group().lower() if match else ""
    # One letter is an initial: "J. K. Rowling".
    initial = len(word) == 1 and word.isalpha()
    return not initial and word not in _ABBREVIATIONS


def _trimmed(text: str, start: int, end: int, cut: int) -> Iterator[Unit]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield Unit(start, end, cut)


def finer(text: str, unit: Unit, size: int) -> Iterator[Unit]:
    """Cut a unit into ones of about ``size`` characters, between pieces.

    The end of a clause is the first choice, white space the second, any piece the third; a piece
    that is longer than ``size`` is cut between characters, where no mark or joiner clings to the
    one before. Reads on as it goes: memory is used for ``size`` characters only.
    """
    start = unit.start
    while start < unit.end:
        stop = _stop(text, start, unit.end, size)
        cut = WORD if stop < unit.end else unit.cut
        yield from _trimmed(text, start, stop, cut)
        start = stop


# A cluster of marks and joiners longer than this is no writing: it is cut anyhow.
_LONGEST_CLUSTER = 64


def _stop(text: str, start: int, end: int, size: int) -> int:
    """Where the stretch that begins at ``start`` ends: at most about ``size`` characters on."""
    if end - start <= size:
        return end
    # The last piece may go on after the window, so its end is no place to cut.
    window = segment(text[start : min(end, start + size + 1)])[:-1]
    if not window:
        return _inside_piece(text, start, end, size)
    stop = position = start + sum(map(len, window))
    best, quality = stop, 0
    for piece in reversed(window):
        if position - start <= size // 2:
            break
        better = 2 if piece in _CLAUSE_ENDS else 1 if piece.isspace() else 0
        if better > quality:
            best, quality = position, better
        position -= len(piece)
    return best


def _inside_piece(text: str, start: int, end: int, size: int) -> int:
    stop = start + size
    for shorter in range(stop, max(start, stop - _LONGEST_CLUSTER), -1):
        if _may_cut(text, shorter):
            return shorter
    for longer in range(stop, min(end, stop + _LONGEST_CLUSTER)):
        if _may_cut(text, longer):
            return longer
    return min(end, max(stop, start + _LONGEST_CLUSTER))


def _may_cut(text: str, position: int) -> bool:
    """Whether two neighbours are pieces of their own when nothing joins them to a word."""
    before, after = text[position - 1], text[position]
    joined = segment(f"!{after}")
    return len(joined) == 2 and len(segment(f"{before}!")) == 2

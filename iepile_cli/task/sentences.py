"""Where a text may be cut: paragraphs, sentences, lines, and at need words and characters.

Goes in: a text. Comes out: its units in order, each with how good a place its end is for a cut.
A unit neither starts nor ends with white space, and the units hold all that is not white space.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from iepile_cli.task.segment import segment

# Where a sentence that is too long is rather cut than between any two words.
_CLAUSE_ENDS = frozenset(",;:\uff0c\u3001\uff1b\uff1a\u060c\u061b")

# How good a cut after a unit is.
PARAGRAPH, SENTENCE, LINE, WORD = 3, 2, 1, 0

# A gap of white space this long ends a passage: it would only cost tokens.
LONG_GAP = 1000

_CLOSERS = "\"'\u2019\u201d\u00bb)\\]}\u300d\u300f\uff09\u3011\u300b\u3009"
# Each alternative reads a run once, from its beginning: hostile text costs no more than any other.
_BREAK = re.compile(
    r"(?P<gap>[\n\r\x0b\x0c\x85\u2028\u2029]\s*)"
    rf"|(?P<full>[\u3002\uff01\uff1f\uff61\u0964\u06d4\u2026]+[{_CLOSERS}]*)"
    rf"|(?P<stop>(?<![.!?])[.!?]+[{_CLOSERS}]*(?=\s))"
)
_BLANK_LINE = re.compile(r"[\x0c\u2029]|\n[^\n]*\n|\r[^\n\r]*\r")
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


class Unit(NamedTuple):
    """A stretch ``text[start:end]`` of a text, and how good a place its end is for a cut."""

    start: int
    end: int
    cut: int


def units(text: str) -> Iterator[Unit]:
    """The sentences and lines of a text, in order."""
    start = 0
    for found in _BREAK.finditer(text):
        if found.lastgroup == "gap":
            cut = PARAGRAPH if _BLANK_LINE.search(found.group()) else LINE
            yield from _trimmed(text, start, found.start(), cut)
        elif found.lastgroup == "full" or _ends_sentence(text, found.start(), found.end()):
            yield from _trimmed(text, start, found.end(), SENTENCE)
        else:
            continue
        start = found.end()
    yield from _trimmed(text, start, len(text), PARAGRAPH)


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
    # The last piece may go on behind the window, so its end is no place to cut.
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

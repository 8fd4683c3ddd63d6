"""A text with gold and predicted mentions marked in it, as HTML, every character escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

from iepile_cli.evaluation.document import Document, pairs
from iepile_cli.evaluation.facts import Fact
from iepile_cli.evaluation.matching import FULL, OCCURRENCES
from iepile_cli.evaluation.plan import Plan

# From here on are the scripts that put no spaces between words.
_CJK = "\u2e80"

# Characters of a text, and errors of a document, that are shown.
MOST_TEXT = 6000
MOST_ERRORS = 200

CORRECT, PARTIAL, MISSED, SPURIOUS = "correct", "partial", "missed", "spurious"


class Judged(NamedTuple):
    """One fact with its verdict; ``unit`` is the place of its unit in the task."""

    verdict: str
    unit: int
    fact: Fact


class Mark(NamedTuple):
    """A piece [start, end) of the text, its verdict and the label to show for it."""

    start: int
    end: int
    verdict: str
    label: str


def judged(document: Document, plan: Plan) -> list[Judged]:
    """Every gold and predicted fact once, with its verdict."""
    found: list[Judged] = []
    for number in range(len(document.reader.task.units)):
        for gold, predicted, credit in pairs(document, plan, number):
            if gold is not None and predicted is not None:
                found.append(Judged(CORRECT if credit == FULL else PARTIAL, number, predicted))
            elif gold is not None:
                found.append(Judged(MISSED, number, gold))
            elif predicted is not None:
                found.append(Judged(SPURIOUS, number, predicted))
    return found


def label_of(document: Document, entry: Judged) -> str:
    """What a fact says of its mentions, in words."""
    labels = len(document.reader.task.units[entry.unit].label)
    return " / ".join(str(part) for part in entry.fact[:labels] if part)


def mentions_of(document: Document, entry: Judged) -> list[str]:
    """The texts of a fact's mentions."""
    labels = len(document.reader.task.units[entry.unit].label)
    return [_surface(document, mention) for mention in entry.fact[labels:]]


def _surface(document: Document, mention: Any) -> str:
    if isinstance(mention, tuple) and mention in document.surfaces:
        return document.surfaces[mention]
    return str(mention)


def marks(document: Document, entries: Iterable[Judged]) -> list[Mark]:
    """Where the mentions stand; the n-th time a word is named it is its n-th occurrence."""
    text = document.text or ""
    after: dict[tuple[str, str], int] = {}
    found: list[Mark] = []
    for entry in entries:
        labels = len(document.reader.task.units[entry.unit].label)
        for mention in entry.fact[labels:]:
            # A gold mention that is a list or an object is a tuple of strings, and nowhere.
            if isinstance(mention, tuple) and isinstance(mention[0], int):
                start, end = mention
            elif isinstance(mention, str) and mention:
                # Gold and predictions count their occurrences apart, so that they meet.
                key = (mention, "gold" if entry.verdict == MISSED else "predicted")
                start = _place(mention, text, after.get(key, 0))
                if start < 0:
                    continue
                end = after[key] = start + len(mention)
            else:
                continue
            found.append(Mark(start, min(end, len(text)), entry.verdict, label_of(document, entry)))
    return found


def _place(mention: str, text: str, after: int) -> int:
    """Where to mark a mention: from ``after`` on or else anywhere, whole words before parts."""
    parts = -1
    for first in dict.fromkeys((after, 0)):
        start = text.find(mention, first)
        # A mark in the middle of a word ("a" in "case") is not what anybody meant.
        for _ in range(OCCURRENCES):
            if start < 0:
                break
            if not _in_word(text, start) and not _in_word(text, start + len(mention)):
                return start
            parts = start if parts < 0 else parts
            start = text.find(mention, start + 1)
    return parts


def _in_word(text: str, place: int) -> bool:
    """Whether letters that spaces would part stand on both sides of a place."""
    around = text[place - 1 : place + 1] if place else ""
    return len(around) == 2 and all(one.isalnum() and one < _CJK for one in around)


def marked(text: str, found: list[Mark]) -> str:
    """The text as HTML with its marks, which may overlap."""
    errors = [mark.start for mark in found if mark.verdict != CORRECT]
    first = 0
    if len(text) > MOST_TEXT and errors:
        first = max(0, min(errors) - 300)
    last = min(len(text), first + MOST_TEXT)
    found = sorted({m for m in found if m.end > first and m.start < last})[:MOST_ERRORS]
    bounds = sorted(
        {first, last, *(min(max(place, first), last) for m in found for place in (m.start, m.end))}
    )
    parts = ["… "] if first else []
    for start, end in pairwise(bounds):
        here = [mark for mark in found if mark.start <= start and mark.end >= end]
        parts.append(_piece(text[start:end], here, end))
    parts.append(" …" if last < len(text) else "")
    return "".join(parts)


def _piece(text: str, here: list[Mark], end: int) -> str:
    if not here:
        return escape(text)
    verdicts = sorted({mark.verdict for mark in here})
    title = "; ".join(f"{mark.verdict}: {mark.label}" for mark in here)
    tags = "".join(_tags(mark for mark in here if mark.end == end))
    return f'<mark class="{" ".join(verdicts)}" title="{escape(title)}">{escape(text)}</mark>{tags}'


def _tags(ending: Iterable[Mark]) -> Iterator[str]:
    """Labels of wrong mentions, where they end; right ones have theirs in the tooltip only."""
    for verdict, label in dict.fromkeys((mark.verdict, mark.label) for mark in ending):
        if verdict != CORRECT:
            yield f'<sub class="{verdict}">{escape(label)}</sub>'

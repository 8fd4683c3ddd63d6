"""Every gold and predicted fact of a document with its outcome, and where its mentions stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from iepile_cli.evaluation.documents import Document
from iepile_cli.evaluation.facts import Fact
from iepile_cli.evaluation.matching import FULL, OCCURRENCES, match_facts
from iepile_cli.evaluation.normalise import Normalised
from iepile_cli.evaluation.options import EvalOptions

# The first letter of the scripts that put no spaces between words.
_CJK = "\u2e80"

CORRECT, PARTIAL, MISSED, SPURIOUS = "correct", "partial", "missed", "spurious"
WRONG_TYPE, BOUNDARY = "wrong type", "boundary"


class Outcome(NamedTuple):
    """One fact and what became of it.

    ``unit`` is the place of its unit in the task. ``other`` is the gold fact that a predicted one
    got partial credit for, that has the same mentions and another label (``WRONG_TYPE``), or that
    has the same label and mentions that overlap (``BOUNDARY``); such a fact has no outcome of its
    own.
    """

    kind: str
    unit: int
    fact: Fact
    other: Fact | None = None


class Mark(NamedTuple):
    """A piece [start, end) of the text, what became of it and the label to show for it."""

    start: int
    end: int
    kind: str
    label: str


def outcomes(document: Document, options: EvalOptions) -> list[Outcome]:
    """What became of every gold and predicted fact; a pair that belongs together is one outcome."""
    found: list[Outcome] = []
    for unit, labels in enumerate(document.reader.labels):
        hits, pairs, missed, spurious = match_facts(
            document.gold[unit] if document.gold else [],
            document.predicted[unit],
            labels,
            options.mode,
            document.comparable_text,
        )
        found += [Outcome(CORRECT, unit, fact) for fact in hits]
        for gold, predicted, credit in pairs:
            kind = CORRECT if credit == FULL else PARTIAL
            found.append(Outcome(kind, unit, predicted, gold))
        _, mixed, missed, spurious = match_facts(missed, spurious, labels, "boundary", None)
        found += [Outcome(WRONG_TYPE, unit, predicted, gold) for gold, predicted, _ in mixed]
        _, near, missed, spurious = match_facts(
            missed, spurious, labels, "type", document.comparable_text
        )
        found += [Outcome(BOUNDARY, unit, predicted, gold) for gold, predicted, _ in near]
        found += [Outcome(SPURIOUS, unit, fact) for fact in spurious]
        found += [Outcome(MISSED, unit, fact) for fact in missed]
    return found


def label_of(document: Document, unit: int, fact: Fact) -> str:
    """What a fact says of its mentions, in words."""
    return " / ".join(str(part) for part in fact[: document.reader.labels[unit]] if part)


def mentions_of(document: Document, unit: int, fact: Fact) -> list[str]:
    """The texts of a fact's mentions, as they were written."""
    return [_surface(document, mention) for mention in fact[document.reader.labels[unit] :]]


def _surface(document: Document, mention: Any) -> str:
    if isinstance(mention, tuple) and mention in document.surfaces:
        return document.surfaces[mention]
    return mention.original if isinstance(mention, Normalised) else str(mention)


def marks(document: Document, entries: Iterable[Outcome]) -> list[Mark]:
    """Where the mentions stand; the n-th time a word is named it is its n-th occurrence."""
    after: dict[tuple[str, str], int] = {}
    found: list[Mark] = []
    for entry in entries:
        # A wrong type is marked as what it is: something spurious where something is missed.
        sides = [(SPURIOUS if entry.kind == WRONG_TYPE else entry.kind, entry.fact)]
        if entry.kind in (WRONG_TYPE, BOUNDARY) and entry.other is not None:
            sides.append((MISSED, entry.other))
        for kind, fact in sides:
            # Gold and predictions count their occurrences apart, so that they meet.
            side = "gold" if kind == MISSED else "predicted"
            label = label_of(document, entry.unit, fact)
            for span in spans(document, entry.unit, fact, after, side):
                if span is not None:
                    found.append(Mark(*span, kind, label))
    return found


def spans(
    document: Document,
    unit: int,
    fact: Fact,
    after: dict[tuple[str, str], int],
    side: str = "",
) -> Iterator[tuple[int, int] | None]:
    """Where each mention of a fact stands in the text, or None.

    ``after`` holds how far each mention was found on each side, and is brought up to date.
    """
    text = document.text or ""
    for mention in fact[document.reader.labels[unit] :]:
        # A gold mention that is a list or an object is a tuple of strings, and nowhere.
        if isinstance(mention, tuple) and isinstance(mention[0], int):
            yield mention[0], min(mention[1], len(text))
            continue
        written = mention.original if isinstance(mention, Normalised) else mention
        if not isinstance(written, str) or not written:
            yield None
            continue
        start = _place(written, text, after.get((written, side), 0))
        if start < 0:
            yield None
            continue
        end = after[written, side] = start + len(written)
        yield start, end


def _place(mention: str, text: str, after: int) -> int:
    """Where to mark a mention: from ``after`` on or else anywhere, whole words before parts."""
    parts = -1
    for first in dict.fromkeys((after, 0)):
        start = text.find(mention, first)
        # A mark inside a word ("a" in "case") would mislead.
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

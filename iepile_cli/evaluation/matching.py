"""What counts as correct: gold and predicted facts of a document matched one to one.

Modes after SemEval-2013 task 9.1 (Segura-Bedmar et al. 2013), which took them from MUC-5 (Chinchor
and Sundheim 1993): *strict* the same mentions and label; *boundary* the same mentions, whatever
the label; *partial* overlapping mentions, whatever the label, with half the credit unless they
are the same; *type* overlapping mentions with the same label. Credits are counted in halves.

Matching is greedy, in rounds from the strictest rule to the loosest: each predicted fact, in its
order, takes the first gold fact that is left and goes with it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, TypeAlias

from iepile_cli.evaluation.facts import Fact

# Occurrences of a mention in a text that are looked at for overlaps.
OCCURRENCES = 50
# Above this many facts a table is faster than looking through a list.
FEW = 12

FULL, HALF = 2, 1

# A gold fact, a predicted one and the credit for the two together.
Pair: TypeAlias = tuple[Fact, Fact, int]


class Matched(NamedTuple):
    """Facts that are the same on both sides, other pairs with credit, and what is left over."""

    hits: list[Fact]
    pairs: list[Pair]
    missed: list[Fact]
    spurious: list[Fact]


def match_facts(
    gold: list[Fact], predicted: list[Fact], labels: int, mode: str, text: str | None
) -> Matched:
    """Match the facts of one unit in one document.

    ``labels`` is how many values of a fact are its label. Where a unit has no mentions, only
    strict matching makes sense and is done.
    """
    hits, missed, spurious = same_facts(gold, predicted)
    pairs: list[Pair] = []
    if mode in ("boundary", "partial"):
        missed, spurious = _take(missed, spurious, FULL, _SameMentions(missed, labels), pairs)
    if mode in ("type", "partial") and missed and spurious and len(missed[0]) > labels:
        credit = FULL if mode == "type" else HALF
        rule = _Overlapping(missed, labels, text, same_label=mode == "type")
        missed, spurious = _take(missed, spurious, credit, rule, pairs)
    return Matched(hits, pairs, missed, spurious)


def same_facts(
    gold: list[Fact], predicted: list[Fact]
) -> tuple[list[Fact], list[Fact], list[Fact]]:
    """Predicted facts that are gold facts, gold facts that are left, predicted ones that are."""
    if not gold or not predicted:
        return [], gold, predicted
    if gold == predicted:
        return predicted, [], []
    hits: list[Fact] = []
    spurious: list[Fact] = []
    if len(gold) <= FEW:
        missed = gold.copy()
        for fact in predicted:
            if fact in missed:
                missed.remove(fact)
                hits.append(fact)
            else:
                spurious.append(fact)
        return hits, missed, spurious
    left = Counter(gold)
    for fact in predicted:
        if left[fact] > 0:
            left[fact] -= 1
            hits.append(fact)
        else:
            spurious.append(fact)
    missed = []
    # Of facts that are the same, the first ones were taken.
    for fact in reversed(gold):
        if left[fact] > 0:
            left[fact] -= 1
            missed.append(fact)
    missed.reverse()
    return hits, missed, spurious


def _take(
    missed: list[Fact],
    spurious: list[Fact],
    credit: int,
    rule: _SameMentions | _Overlapping,
    pairs: list[Pair],
) -> tuple[list[Fact], list[Fact]]:
    """One round: add pairs, and give the gold and the predicted facts that are left."""
    taken: set[int] = set()
    left: list[Fact] = []
    for fact in spurious:
        queues = [queue for queue in rule.queues(fact) if queue]
        if queues:
            place = min(queues, key=_first).popleft()
            taken.add(place)
            pairs.append((missed[place], fact, credit))
        else:
            left.append(fact)
    return [fact for place, fact in enumerate(missed) if place not in taken], left


def _first(queue: deque[int]) -> int:
    return queue[0]


def _queues(gold: list[Fact], key: Callable[[Fact], Hashable]) -> dict[Any, deque[int]]:
    """The places of gold facts by their key, in order."""
    queues: dict[Any, deque[int]] = {}
    for place, fact in enumerate(gold):
        queues.setdefault(key(fact), deque()).append(place)
    return queues


class _SameMentions:
    """Gold facts with the same mentions as a predicted one, whatever their label."""

    def __init__(self, gold: list[Fact], labels: int) -> None:
        self._labels = labels
        self._queues = _queues(gold, lambda fact: fact[labels:] or fact)

    def queues(self, fact: Fact) -> Iterable[deque[int]]:
        """Places of gold facts that go with a predicted one, in queues that are each in order."""
        queue = self._queues.get(fact[self._labels :] or fact)
        return (queue,) if queue else ()


class _Overlapping:
    """Gold facts each mention of which overlaps that of a predicted one.

    Facts that are alike are looked at together, so the time goes with the number of different
    facts and of those that overlap each other, not with the product of both sides.
    """

    def __init__(self, gold: list[Fact], labels: int, text: str | None, same_label: bool) -> None:
        self._labels = labels
        self._label_length = labels if same_label else 0
        queues = _queues(gold, self._key)
        # By what has to be equal, then by the first mention: the mentions and the places.
        self._groups: dict[Fact, dict[Any, list[tuple[Fact, deque[int]]]]] = {}
        for (label, mentions), queue in queues.items():
            of_label = self._groups.setdefault(label, {})
            of_label.setdefault(mentions[0], []).append((mentions, queue))
        columns = zip(*(fact[labels:] for fact in gold), strict=True)
        self._overlaps = [Overlaps(column, text) for column in columns]
        self._known: dict[tuple[Fact, Fact], list[deque[int]]] = {}

    def _key(self, fact: Fact) -> tuple[Fact, Fact]:
        return fact[: self._label_length], fact[self._labels :]

    def queues(self, fact: Fact) -> Iterable[deque[int]]:
        """Places of gold facts that go with a predicted one, in queues that are each in order."""
        key = self._key(fact)
        known = self._known.get(key, None)
        # What has been used up is not looked at again.
        found = self._find(*key) if known is None else [queue for queue in known if queue]
        self._known[key] = found
        return found

    def _find(self, label: Fact, mentions: Fact) -> list[deque[int]]:
        of_label = self._groups.get(label)
        if not of_label:
            return []
        first, *rest = (
            overlaps.of(mention) for overlaps, mention in zip(self._overlaps, mentions, strict=True)
        )
        return [
            queue
            for mention in first
            for others, queue in of_label.get(mention, ())
            if all(other in there for other, there in zip(others[1:], rest, strict=True))
        ]


def invented(predicted: list[Fact], labels: int, text: str) -> list[Fact]:
    """The predicted facts, at least one, with a mention that is not in the text."""
    mentions = len(predicted[0]) - labels
    try:
        if mentions == 1:
            return [fact for fact in predicted if fact[labels] not in text]
        if mentions == 2:
            other = labels + 1
            return [f for f in predicted if f[labels] not in text or f[other] not in text]
    except TypeError:
        # Spans stand in the text; numbers and other values are not looked for.
        pass
    return [
        fact
        for fact in predicted
        if any(isinstance(mention, str) and mention not in text for mention in fact[labels:])
    ]


# ------------------------------------------------------------------------------------- overlaps


class Overlaps:
    """Mentions, to be asked which of them share a character of the text with another mention.

    Spans ``(start, end)`` are compared as such. Strings overlap when one holds the other, or when
    an occurrence of one in the text overlaps an occurrence of the other; of either, the first
    ``OCCURRENCES`` are looked at. Any other values, and empty strings, overlap what equals them.
    """

    def __init__(self, mentions: Iterable[Any], text: str | None) -> None:
        self._text = text
        self._mentions = dict.fromkeys(mentions)
        self._known: dict[Any, set[Any]] = {}
        placed: list[tuple[int, int, Any]] = []
        # Strings that may hold another, or be in it, without an overlap of occurrences.
        self._elsewhere: list[str] = []
        self._strings: list[str] = []
        for mention in self._mentions:
            places, complete = self._places(mention)
            placed += [(start, end, mention) for start, end in places]
            if isinstance(mention, str) and mention:
                self._strings.append(mention)
                if not complete:
                    self._elsewhere.append(mention)
        placed.sort(key=lambda place: place[0])
        self._placed = placed
        self._starts = [start for start, _, _ in placed]
        self._longest = max((end - start for start, end, _ in placed), default=0)

    def of(self, mention: Any) -> set[Any]:
        """The mentions that overlap this one."""
        known = self._known.get(mention)
        if known is None:
            known = self._known[mention] = self._find(mention)
        return known

    def _find(self, mention: Any) -> set[Any]:
        places, complete = self._places(mention)
        found = {mention} if mention in self._mentions else set()
        of_kind = type(mention)
        for start, end in places:
            # Whatever begins further back than the longest is over before ``start``.
            at = bisect_left(self._starts, start - self._longest)
            while at < len(self._placed) and self._starts[at] < end:
                _, its_end, other = self._placed[at]
                if its_end > start and type(other) is of_kind:
                    found.add(other)
                at += 1
        if isinstance(mention, str) and mention:
            strings = self._elsewhere if complete else self._strings
            found.update(other for other in strings if other in mention or mention in other)
        return found

    def _places(self, mention: Any) -> tuple[list[tuple[int, int]], bool]:
        """The pieces of the text that a mention covers, and whether that is all to know of it."""
        if isinstance(mention, tuple) and len(mention) == 2 and type(mention[0]) is int:
            return [mention], True
        if not isinstance(mention, str) or not mention or self._text is None:
            return [], False
        starts = occurrences(mention, self._text)
        size = len(mention)
        pieces: list[tuple[int, int]] = []
        for start in starts:
            # Occurrences that touch are one piece: what meets it meets one of them.
            if pieces and start <= pieces[-1][1]:
                pieces[-1] = (pieces[-1][0], start + size)
            else:
                pieces.append((start, start + size))
        return pieces, 0 < len(starts) < OCCURRENCES


def occurrences(mention: str, text: str) -> list[int]:
    """Where a mention begins in a text, the first ``OCCURRENCES`` times."""
    places: list[int] = []
    at = text.find(mention)
    while at >= 0 and len(places) < OCCURRENCES:
        places.append(at)
        at = text.find(mention, at + 1)
    return places

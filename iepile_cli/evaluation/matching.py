"""Facts against facts: what of the predictions is credited.

Modes after SemEval-2013 task 9.1 (Segura-Bedmar et al. 2013), which took them from MUC-5 (Chinchor
and Sundheim 1993): *strict* the same mentions and label; *boundary* the same mentions, whatever
the label; *partial* overlapping mentions, whatever the label, with half the credit unless they
are the same; *type* overlapping mentions with the same label. Credits are counted in halves.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from iepile_cli.evaluation.facts import Fact

# Occurrences of a mention in a text that are looked at for overlaps.
OCCURRENCES = 50
# Above this many facts a table is faster than looking through a list.
FEW = 12

FULL, HALF = 2, 1

# A gold fact (or none), a predicted one (or none) and the credit for the two together.
Pair: TypeAlias = tuple[Fact | None, Fact | None, int]


def strict_hits(gold: list[Fact], predicted: list[Fact]) -> list[Fact]:
    """The predicted facts that are gold facts, each gold fact used once."""
    if gold == predicted:
        return predicted
    if len(gold) <= FEW:
        left = gold.copy()
        hits = []
        for fact in predicted:
            if fact in left:
                left.remove(fact)
                hits.append(fact)
        return hits
    counts = Counter(gold)
    hits = []
    for fact in predicted:
        if counts[fact] > 0:
            counts[fact] -= 1
            hits.append(fact)
    return hits


def align(
    gold: list[Fact], predicted: list[Fact], labels: int, mode: str, text: str | None
) -> list[Pair]:
    """Pair gold and predicted facts one to one, best pairs first; the rest is paired with None.

    ``labels`` is how many values of a fact are its label. A pair with credit 0 is never made
    here. Where a unit has no mentions, only strict matching makes sense and is done.
    """
    taken_gold: set[int] = set()
    taken_predicted: dict[int, tuple[int, int]] = {}
    for credit, same in _rounds(labels, mode, text):
        by_key: dict[Any, list[int]] = {}
        if same.key is not None:
            for place, fact in enumerate(gold):
                if place not in taken_gold:
                    by_key.setdefault(same.key(fact), []).append(place)
        for number, fact in enumerate(predicted):
            if number in taken_predicted:
                continue
            if same.key is not None:
                places = by_key.get(same.key(fact))
                match = places.pop(0) if places else None
            else:
                match = next(
                    (
                        place
                        for place, other in enumerate(gold)
                        if place not in taken_gold and same.test(other, fact)
                    ),
                    None,
                )
            if match is not None:
                taken_gold.add(match)
                taken_predicted[number] = match, credit
    pairs: list[Pair] = []
    for number, fact in enumerate(predicted):
        place, credit = taken_predicted.get(number, (-1, 0))
        pairs.append((gold[place] if credit else None, fact, credit))
    pairs += [(fact, None, 0) for place, fact in enumerate(gold) if place not in taken_gold]
    return pairs


class _Same:
    """When two facts go together: equal keys, or a test of both."""

    def __init__(
        self,
        key: Callable[[Fact], Any] | None = None,
        test: Callable[[Fact, Fact], bool] = lambda gold, predicted: False,
    ) -> None:
        self.key = key
        self.test = test


def _rounds(labels: int, mode: str, text: str | None) -> Iterable[tuple[int, _Same]]:
    """The ways to pair, best first: whole facts, then what the mode allows."""
    meet = functools.cache(functools.partial(overlap, text=text))

    def all_meet(gold: Fact, predicted: Fact) -> bool:
        mentions = zip(gold[labels:], predicted[labels:], strict=True)
        return len(gold) > labels and all(meet(one, other) for one, other in mentions)

    yield FULL, _Same(key=lambda fact: fact)
    if mode == "boundary" or mode == "partial":
        yield FULL, _Same(key=lambda fact: fact[labels:] or fact)
    if mode == "type":
        yield (
            FULL,
            _Same(test=lambda one, other: one[:labels] == other[:labels] and all_meet(one, other)),
        )
    if mode == "partial":
        yield HALF, _Same(test=all_meet)


def overlap(one: Any, other: Any, text: str | None) -> bool:
    """Whether two mentions share a character of the text.

    Spans ``(start, end)`` are compared as such. Strings overlap when one holds the other, or when
    an occurrence of one in the text overlaps an occurrence of the other.
    """
    if isinstance(one, tuple) and isinstance(other, tuple):
        return bool(max(one[0], other[0]) < min(one[1], other[1]))
    if not isinstance(one, str) or not isinstance(other, str):
        return bool(one == other)
    if not one or not other:
        return one == other
    if one in other or other in one:
        return True
    if text is None:
        return False
    there = _occurrences(other, text)
    number = 0
    for start in _occurrences(one, text):
        while number < len(there) and there[number] + len(other) <= start:
            number += 1
        if number < len(there) and there[number] < start + len(one):
            return True
    return False


def _occurrences(mention: str, text: str) -> list[int]:
    places: list[int] = []
    at = text.find(mention)
    while at >= 0 and len(places) < OCCURRENCES:
        places.append(at)
        at = text.find(mention, at + 1)
    return places


def confused(
    gold: list[Fact], predicted: list[Fact], labels: int
) -> tuple[list[tuple[Fact, Fact]], list[Fact], list[Fact]]:
    """Pairs with the same mentions and another label; and what is missed, and spurious."""
    left_gold, left_predicted = Counter(gold), Counter(predicted)
    both = left_gold & left_predicted
    missed = list((left_gold - both).elements())
    spurious = list((left_predicted - both).elements())
    pairs: list[tuple[Fact, Fact]] = []
    by_mentions: dict[Fact, list[Fact]] = {}
    for fact in missed:
        if fact[labels:]:
            by_mentions.setdefault(fact[labels:], []).append(fact)
    alone: list[Fact] = []
    for fact in spurious:
        others = by_mentions.get(fact[labels:])
        if others:
            pairs.append((others.pop(0), fact))
        else:
            alone.append(fact)
    used = Counter(pair[0] for pair in pairs)
    return pairs, list((Counter(missed) - used).elements()), alone

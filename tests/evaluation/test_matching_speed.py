"""Matching of very many facts: the same pairs as trying all of them, in little time."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from iepile_cli.evaluation.facts import Fact
from iepile_cli.evaluation.matching import OCCURRENCES, match_facts

MODES = ("boundary", "partial", "type")


def occurrences(mention: str, text: str) -> list[tuple[int, int]]:
    starts = [n for n in range(len(text)) if text.startswith(mention, n)][:OCCURRENCES]
    return [(start, start + len(mention)) for start in starts]


def meet(one: Any, other: Any, text: str | None) -> bool:
    """Whether two mentions overlap, found out by trying everything."""
    if isinstance(one, tuple) and isinstance(other, tuple) and isinstance(one[0], int):
        return bool(max(one[0], other[0]) < min(one[1], other[1]))
    if not isinstance(one, str) or not isinstance(other, str) or not one or not other:
        return bool(one == other)
    if one in other or other in one:
        return True
    return text is not None and any(
        max(a, c) < min(b, d)
        for a, b in occurrences(one, text)
        for c, d in occurrences(other, text)
    )


def pairs_by_trying(
    gold: list[Fact], predicted: list[Fact], labels: int, mode: str, text: str | None
) -> list[tuple[Fact, Fact, int]]:
    """Each predicted fact takes the first gold fact that is left, round after round."""

    def overlaps(one: Fact, other: Fact) -> bool:
        return all(meet(*two, text) for two in zip(one[labels:], other[labels:], strict=True))

    rounds: list[tuple[int, Any]] = [(2, lambda one, other: one == other)]
    if mode in ("boundary", "partial"):
        rounds.append((2, lambda one, other: one[labels:] == other[labels:]))
    if mode == "type":
        rounds.append((2, lambda one, other: one[0] == other[0] and overlaps(one, other)))
    if mode == "partial":
        rounds.append((1, overlaps))
    left, pairs, waiting = dict(enumerate(gold)), [], predicted
    for credit, same in rounds:
        still = []
        for fact in waiting:
            place = next((place for place, one in left.items() if same(one, fact)), None)
            if place is None:
                still.append(fact)
            else:
                pairs.append((left.pop(place), fact, credit))
        waiting = still
    return pairs


def mention(rng: random.Random, text: str, spans: bool) -> Any:
    if spans:
        start = rng.randrange(12)
        return start, start + rng.randint(1, 4)
    if rng.random() < 0.1:
        return rng.choice(["", 3, None, ("a", "b"), "zzz", "zz"])
    start = rng.randrange(len(text))
    return text[start : start + rng.randint(1, 4)]


def test_pairs_are_those_of_trying_all() -> None:
    rng = random.Random(1)
    for number in range(400):
        text = "".join(rng.choices("ab c", k=rng.choice([6, 12, 150])))
        spans, width = number % 2 == 0, rng.choice([1, 2])
        gold, predicted = (
            [
                (rng.choice("AB"), *(mention(rng, text, spans) for _ in range(width)))
                for _ in range(rng.choice([3, 6, 20]))
            ]
            for _ in range(2)
        )
        known = rng.choice([text, None])
        for mode in MODES:
            hits, pairs, missed, spurious = match_facts(gold, predicted, 1, mode, known)
            found = [*((fact, fact, 2) for fact in hits), *pairs]
            expected = pairs_by_trying(gold, predicted, 1, mode, known)
            assert sorted(found, key=repr) == sorted(expected, key=repr)
            assert len(found) + len(missed) == len(gold)
            assert len(found) + len(spurious) == len(predicted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("with_text", [True, False])
def test_thousands_of_mentions_take_little_time(mode: str, with_text: bool) -> None:
    # All different, next to each other, each wrong by one word: 18 s when all pairs were tried.
    words = [f"word{number}" for number in range(4000)]
    text = " ".join(words)
    gold = [("A", f"{words[n]} {words[n + 1]}") for n in range(0, 3900, 3)]
    predicted = [("AB"[n % 2], f"{words[n + 1]} {words[n + 2]}") for n in range(0, 3900, 3)]
    begin = time.process_time()
    matched = match_facts(gold, predicted, 1, mode, text if with_text else None)
    assert time.process_time() - begin < 3
    if with_text:
        assert len(matched.pairs) == {"boundary": 0, "partial": 1300, "type": 650}[mode]


@pytest.mark.parametrize("same", [True, False])
def test_one_mention_very_often_takes_little_time(same: bool) -> None:
    gold = [("A", "Ann")] * 5000
    predicted = [("B", "Ann" if same else "Anna")] * 5000
    begin = time.process_time()
    matched = match_facts(gold, predicted, 1, "partial", "Anna " * 3000)
    assert time.process_time() - begin < 2
    assert [len(matched.pairs), matched.missed, matched.spurious] == [5000, [], []]

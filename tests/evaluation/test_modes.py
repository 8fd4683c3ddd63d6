"""Matching modes, against hand-made cases and against other people's scorers."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from evaluation_rows import counts, ner, row, scored, write
from hypothesis import given
from hypothesis import strategies as st

from iepile_cli.evaluation.matching import Overlaps, match_facts

TEXT = "The Bank of England raised its rate on Monday"
GOLD = ner(("Bank of England", "ORG"), ("Monday", "TIME"))

# What is predicted, and then the credit in strict, boundary, partial and type mode.
CASES: list[tuple[dict[str, list[str]], list[float]]] = [
    ({"ORG": ["Bank of England"], "TIME": ["Monday"]}, [2, 2, 2, 2]),
    ({"LOC": ["Bank of England"], "TIME": ["Monday"]}, [1, 2, 2, 1]),
    ({"ORG": ["England"]}, [0, 0, 0.5, 1]),
    ({"LOC": ["England"]}, [0, 0, 0.5, 0]),
    # Overlaps in the text though neither holds the other.
    ({"ORG": ["The Bank"]}, [0, 0, 0.5, 1]),
    ({"ORG": ["rate"]}, [0, 0, 0, 0]),
    # Each gold mention is used once.
    ({"ORG": ["Bank", "England"]}, [0, 0, 0.5, 1]),
    ({"ORG": ["England", "Bank of England"]}, [1, 1, 1, 1]),
    ({"LOC": ["Bank of England"], "ORG": ["Bank of England"]}, [1, 1, 1, 1]),
    ({}, [0, 0, 0, 0]),
]
MODES = ("strict", "boundary", "partial", "type")


@pytest.mark.parametrize("case", range(len(CASES)))
def test_modes(case: int, tmp_path: Path) -> None:
    answer, credits = CASES[case]
    path = write(tmp_path / "p.jsonl", [row(answer, GOLD, text=TEXT)])
    found = [counts(scored(path, mode=mode))[2] for mode in MODES]
    assert found == credits


def test_modes_of_relations_need_both_mentions(tmp_path: Path) -> None:
    gold = [{"head": "Ann Lee", "relation": "lives in", "tail": "New York"}]
    text = "Ann Lee lives in New York"
    for answer, credits in (
        ({"lives in": [{"subject": "Ann", "object": "York"}]}, [0, 0, 0.5, 1]),
        ({"born in": [{"subject": "Ann Lee", "object": "New York"}]}, [0, 1, 1, 0]),
        ({"lives in": [{"subject": "Ann", "object": "Rome"}]}, [0, 0, 0, 0]),
    ):
        path = write(tmp_path / "p.jsonl", [row(answer, gold, task="RE", text=text)])
        assert [counts(scored(path, mode=mode))[2] for mode in MODES] == credits


def test_per_type_credit_goes_to_the_gold_type_and_the_predicted_one(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [row({"LOC": ["Monday"]}, GOLD, text=TEXT)])
    types = scored(path, mode="boundary").units[0].types
    assert (types["TIME"].recall, types["TIME"].precision) == (100, 0)
    assert (types["LOC"].recall, types["LOC"].precision) == (0, 100)


def test_events_without_mentions_match_by_type_in_every_mode(tmp_path: Path) -> None:
    gold = [{"event_type": "Hit", "arguments": [{"role": "agent", "argument": "Ann"}]}]
    path = write(tmp_path / "p.jsonl", [row({"Meet": [{"agent": "Ann"}]}, gold, task="EEA")])
    scores = scored(path, mode="boundary")
    assert counts(scores) == (1, 1, 0)
    assert counts(scores, 1) == (1, 1, 1)


def overlap(one: Any, other: Any, text: str | None) -> bool:
    return one in Overlaps([one], text).of(other)


def test_overlap() -> None:
    assert overlap((0, 3), (2, 5), None)
    assert not overlap((0, 3), (3, 5), None)
    assert not overlap("", "x", "x")
    assert overlap("a b", "b c", "z b a b c")
    assert not overlap("a b", "b c", "a b, b c")
    assert not overlap((3, 5), (0, 3), None)
    # Of what the text does not hold nothing is known but its letters.
    assert overlap("Bank", "Bank of Oz", "a Bank")
    assert overlap("Bank of Oz", "Bank", "a Bank")
    assert not overlap("Bank of Oz", "a Bank", "a Bank")


def test_overlaps_are_looked_for_at_the_first_fifty_places() -> None:
    for before, found in ((49, True), (50, False)):
        text = "a b, b c, " * before + "a b c"
        assert overlap("a b", "b c", text) is found
        assert overlap("b c", "a b", text) is found


@given(st.text("ab ", max_size=12), *[st.text("ab ", min_size=1, max_size=3)] * 2)
def test_strings_overlap_as_their_places_and_letters_do(text: str, one: str, other: str) -> None:
    starts = [[at for at in range(len(text)) if text.startswith(s, at)] for s in (one, other)]
    crossed = any(a < b + len(other) and b < a + len(one) for a in starts[0] for b in starts[1])
    assert overlap(one, other, text) == (crossed or one in other or other in one)


def test_matching_pairs_every_fact_once() -> None:
    rng = random.Random(3)
    for _ in range(300):
        facts = [
            [(rng.choice("AB"), (start, start + rng.randint(1, 4))) for start in starts]
            for starts in ([rng.randrange(12) for _ in range(rng.randrange(6))] for _ in range(2))
        ]
        for mode in MODES:
            hits, pairs, missed, spurious = match_facts(*facts, 1, mode, None)
            gold, predicted = ([pair[side] for pair in pairs] for side in (0, 1))
            assert sorted([*hits, *gold, *missed]) == sorted(facts[0])
            assert sorted([*hits, *predicted, *spurious]) == sorted(facts[1])
            assert all(credit in (1, 2) for *_, credit in pairs)
        strict = match_facts(*facts, 1, "strict", None)
        assert len(strict.hits) == (Counter(facts[0]) & Counter(facts[1])).total()


# ------------------------------------------------------------------------------ other scorers

TYPES = ("PER", "ORG", "LOC")


def tagged(rng: random.Random, length: int) -> list[tuple[str, int, int]]:
    """Random entities that do not overlap: (type, first token, token after the last)."""
    found, at = [], 0
    while at < length:
        size = rng.randint(1, 3)
        if rng.random() < 0.35 and at + size <= length:
            found.append((rng.choice(TYPES), at, at + size))
            at += size
        at += 1
    return found


def altered(rng: random.Random, entities: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    kept = []
    for kind, start, end in entities:
        if rng.random() < 0.2:
            continue
        if rng.random() < 0.25:
            kind = rng.choice(TYPES)
        if rng.random() < 0.25 and end - start > 1:
            end -= 1
        kept.append((kind, start, end))
    return kept


def corpus(seed: int) -> list[tuple[list[tuple[str, int, int]], list[tuple[str, int, int]]]]:
    rng = random.Random(seed)
    pairs = []
    for _ in range(60):
        gold = tagged(rng, 12)
        pairs.append((gold, altered(rng, gold)))
    return pairs


def grounded(path: Path, pairs: Any, side: int) -> str:
    return write(
        path,
        [
            {
                "task": "NER",
                "source": "s",
                "id": str(number),
                "items": [
                    {"type": kind, "text": f"t{start}", "start": start, "end": end}
                    for kind, start, end in pair[side]
                ],
            }
            for number, pair in enumerate(pairs)
        ],
    )


def bio(entities: list[tuple[str, int, int]]) -> list[str]:
    tags = ["O"] * 16
    for kind, start, end in entities:
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return tags


@pytest.mark.parametrize("seed", range(3))
def test_strict_scores_are_seqevals(seed: int, tmp_path: Path) -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    scheme = pytest.importorskip("seqeval.scheme")
    pairs = corpus(seed)
    report = metrics.classification_report(
        [bio(gold) for gold, _ in pairs],
        [bio(found) for _, found in pairs],
        mode="strict",
        scheme=scheme.IOB2,
        output_dict=True,
    )
    gold = grounded(tmp_path / "gold.jsonl", pairs, 0)
    scores = scored(grounded(tmp_path / "found.jsonl", pairs, 1), gold=gold)
    unit = scores.units[0]
    for name, ours in [*unit.types.items(), ("micro avg", unit.micro)]:
        assert ours.f1 == pytest.approx(100 * report[name]["f1-score"])
        assert ours.precision == pytest.approx(100 * report[name]["precision"])
        assert ours.recall == pytest.approx(100 * report[name]["recall"])
        assert ours.gold == report[name]["support"]
    for ours, theirs in (("P", "precision"), ("R", "recall"), ("F1", "f1-score")):
        assert unit.macro[ours] == pytest.approx(100 * report["macro avg"][theirs], abs=0.005)


@pytest.mark.parametrize("seed", range(3))
def test_modes_are_nervaluates(seed: int, tmp_path: Path) -> None:
    """nervaluate: strict, exact (our boundary), partial and ent_type (our type)."""
    evaluator = pytest.importorskip("nervaluate").Evaluator
    pairs = corpus(seed)

    # nervaluate's spans include their last token.
    def spans(entities: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
        return [{"label": kind, "start": start, "end": end - 1} for kind, start, end in entities]

    results = evaluator(
        [spans(gold) for gold, _ in pairs],
        [spans(found) for _, found in pairs],
        tags=list(TYPES),
        loader="dict",
    ).evaluate()["overall"]
    gold = grounded(tmp_path / "gold.jsonl", pairs, 0)
    found = grounded(tmp_path / "found.jsonl", pairs, 1)
    for ours, theirs in zip(MODES, ("strict", "exact", "partial", "ent_type"), strict=True):
        micro = scored(found, gold=gold, mode=ours).units[0].micro
        assert micro.precision == pytest.approx(100 * results[theirs].precision), ours
        assert micro.recall == pytest.approx(100 * results[theirs].recall), ours
        assert micro.f1 == pytest.approx(100 * results[theirs].f1), ours

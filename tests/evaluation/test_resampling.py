"""Intervals and the paired test, against doing it the long way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_rows import ner, row, write

from iepile_cli.errors import DataError
from iepile_cli.evaluation import EvalOptions, evaluate
from iepile_cli.evaluation.resampling import BLOCKS, blocked, compare, draws, f1_parts
from iepile_cli.evaluation.scores import task_scores


def noisy(count: int, recall: float, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    gold_rng = random.Random(99)
    rows = []
    for number in range(count):
        names = [gold_rng.choice("abcdefgh") for _ in range(gold_rng.randint(0, 4))]
        gold = ner(*((name, "PER" if name < "e" else "LOC") for name in names))
        answer: dict[str, list[str]] = {"PER": [], "LOC": []}
        for entity in gold:
            if rng.random() < recall:
                answer[entity["entity_type"]].append(entity["entity"])
        if rng.random() < 0.2:
            answer["PER"].append("x")
        text = f"abcdefgh {number}"
        rows.append(row(answer, gold, text=text, source="ab"[number % 2]))
    return rows


def test_intervals_are_those_of_a_plain_bootstrap_over_documents(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", noisy(200, 0.7))
    with evaluate(path, EvalOptions(resamples=2000)) as evaluation:
        interval = evaluation.scores["NER"].units[0].micro.intervals["F1"]
        table = evaluation.counts.document_sums("NER", 0)
    rng = np.random.default_rng(7)
    plain = []
    for _ in range(2000):
        gold, predicted, found, _, _ = table[rng.integers(0, 200, 200)].sum(axis=0)
        plain.append(200 * (found / 2) / (gold + predicted))
    assert interval == pytest.approx(np.percentile(plain, [2.5, 97.5]).tolist(), abs=0.5)


def test_many_documents_in_blocks_vary_as_they_do_alone() -> None:
    rng = np.random.default_rng(1)
    documents = 3 * BLOCKS
    values = rng.poisson(2.0, documents).astype(float)
    block, blocks = blocked(np.arange(documents), documents)
    assert blocks == BLOCKS
    sums = np.bincount(block, weights=values)
    spread = (draws(blocks, 2000, 3) @ sums).std()
    assert spread == pytest.approx(values.std() * documents**0.5, rel=0.06)


def test_draws_are_whole_resamples() -> None:
    weights = draws(10, 50, 1)
    assert weights.shape == (50, 10)
    assert (weights.sum(axis=1) == 10).all()
    assert (draws(10, 50, 1) == weights).all()


def test_f1_of_nothing_is_zero() -> None:
    assert [float(part) for part in f1_parts(np.zeros(4))] == [0, 0, 0]


def sums(hits: list[int]) -> Any:
    return np.array([[2, 2, hit, hit] for hit in hits], dtype=float)


def test_paired_test_agrees_with_trying_all_swaps() -> None:
    system, baseline = [2, 2, 1, 2, 1, 2, 2, 0], [1, 2, 1, 1, 0, 2, 1, 1]
    observed = sum(system) - sum(baseline)
    beyond = 0
    for swaps in range(2**8):
        difference = sum(
            (b - s) if swaps >> number & 1 else (s - b)
            for number, (s, b) in enumerate(zip(system, baseline, strict=True))
        )
        beyond += abs(difference) >= observed
    result = compare(sums(system), sums(baseline), shuffles=20_000, resamples=200, seed=1)
    assert result.p == pytest.approx(beyond / 2**8, abs=0.012)
    assert result.difference == pytest.approx(100 * observed / 16)


def test_p_is_uniform_when_there_is_no_difference() -> None:
    rng = np.random.default_rng(5)
    small = [
        compare(
            sums(rng.integers(0, 3, 60).tolist()),
            sums(rng.integers(0, 3, 60).tolist()),
            shuffles=400,
            resamples=2,
            seed=number,
        ).p
        < 0.1
        for number in range(300)
    ]
    assert 0.05 < np.mean(small) < 0.16


def test_same_file_has_no_difference_and_a_better_one_has(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", noisy(300, 0.8, 1))
    worse_rows = noisy(300, 0.5, 2)
    random.Random(0).shuffle(worse_rows)
    worse = write(tmp_path / "worse.jsonl", worse_rows)
    for baseline, low, high in ((good, 1.0, 1.0), (worse, 0.0, 0.01)):
        with evaluate(good, EvalOptions(resamples=100), baseline=baseline) as evaluation:
            part = evaluation.comparison["tasks"]["NER"]
        assert part["documents"] == 300
        assert part["only_in_one"] == 0
        assert part["other_gold"] == 0
        assert low <= part["units"]["entity"]["p"] <= high


def test_only_shared_documents_are_compared(tmp_path: Path) -> None:
    rows = noisy(50, 0.8)
    first = write(tmp_path / "a.jsonl", rows[:40])
    second = write(tmp_path / "b.jsonl", rows[20:])
    with evaluate(first, EvalOptions(resamples=0), baseline=second) as evaluation:
        part = evaluation.comparison["tasks"]["NER"]
    assert (part["documents"], part["only_in_one"]) == (20, 30)
    other = write(tmp_path / "c.jsonl", [{**one, "source": "z"} for one in rows])
    with pytest.raises(DataError, match="no document in common"):
        evaluate(first, EvalOptions(), baseline=other).__enter__()


def test_thousands_of_types_are_resampled_in_bounded_tables(tmp_path: Path) -> None:
    rows = [
        row({f"t{n}": ["a"]}, ner(("a", f"t{n}")), text=f"a {n}", source=f"s{n % 700}")
        for n in range(1500)
    ]
    with evaluate(write(tmp_path / "p.jsonl", rows), EvalOptions(resamples=20)) as evaluation:
        unit = task_scores(evaluation.counts, evaluation.options)["NER"].units[0]
    assert unit.macro["F1"] == 100
    assert unit.macro["interval_95"]["F1"] == [100, 100]
    assert len(unit.types) == 1500
    # A type with one document is missing from some resamples: its F1 is 0 there.
    assert unit.types["t7"].intervals["F1"] == [0, 100]


def test_same_numbers_whatever_the_hash_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", noisy(80, 0.6))
    outputs = set()
    for seed in ("0", "1"):
        command = [sys.executable, "-m", "iepile_cli", "eval", path, "--json", "-", "--by", "type"]
        done = subprocess.run(
            command,
            capture_output=True,
            check=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert json.loads(outputs.pop())["tasks"]["NER"]["documents"] == 80

"""The reference vectors: upstream's numbers to the last digit, and ours where we differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import vector_cases
from evaluation_rows import counts, scored, write

from iepile_cli.errors import DataError
from iepile_cli.evaluation import EvalOptions, evaluate

CASES = {case["name"]: case for name in ("eval", "eval_random") for case in vector_cases(name)}

# Where the default differs from upstream by policy; docs/eval.md gives the reason for each.
OURS = {
    "ee_empty_and_null_args_count": [(1, 1, 1), (2, 2, 2)],
    "ee_dup_gold_args": [(1, 1, 1), (1, 1, 1)],
    "ee_triggerless_gold": [(1, 1, 1), (1, 1, 1)],
    "eea_gold_without_args": [(0, 0, 0), (0, 0, 0)],
    # Random data with repeated gold arguments and gold events without any.
    "EE_random_normal": [(234, 168, 154), (345, 285, 228)],
    "EEA_random_normal": [(206, 172, 172), (294, 259, 210)],
    "EEA_random_set": [(185, 155, 155), (294, 256, 210)],
}


def rows_of(case: dict[str, Any]) -> list[Any]:
    if isinstance(case["rows"], str):
        other = CASES.get(case["rows"].removeprefix("same as "))
        if other is None:
            pytest.skip("the rows of this case are kept elsewhere")
        return list(other["rows"])
    return list(case["rows"])


def settings(case: dict[str, Any]) -> dict[str, Any]:
    return {"match": "set" if case["match_mode"] == "set" else "multiset", "resamples": 0}


@pytest.mark.parametrize("name", CASES)
def test_upstream_compatible_numbers_are_upstreams(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = write(tmp_path / "p.jsonl", rows_of(case))
    by = ("source",) if case["sort_by"] == "source" else ()
    with evaluate(path, EvalOptions(literal=True, **settings(case)), by=by) as evaluation:
        numbers = evaluation.upstream()
    # As text, so that the order of keys counts too.
    assert json.dumps(numbers) == json.dumps(case["expected"])


@pytest.mark.parametrize("name", CASES)
def test_default_counts(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    total = case["counts"]["total"]
    if "tp" in total:
        expected = [(total["gold_num"], total["pred_num"], total["tp"])]
        exact = [case["exact_f1"]["total"]["F1"]]
    else:
        expected = [
            (total[f"{unit}_gold_num"], total[f"{unit}_pred_num"], total[f"{unit}_tp"])
            for unit in ("ee", "ag")
        ]
        exact = [case["exact_f1"]["total"][f"{unit}_F1"] for unit in ("event", "argument")]
    scores = scored(write(tmp_path / "p.jsonl", rows_of(case)), **settings(case))
    found = [counts(scores, number) for number in range(len(scores.units))]
    assert found == OURS.get(name, expected)
    if name not in OURS:
        assert [unit.micro.f1 for unit in scores.units] == pytest.approx(exact)


CRASHES = {case["name"]: case for case in vector_cases("crash") if case["op"] == "eval"}
PERFECT = {"eval_id_missing", "eval_id_int", "eval_source_null", "eval_blank_line", "eval_eet"}


@pytest.mark.parametrize("name", CRASHES)
def test_what_upstream_dies_of(name: str, tmp_path: Path) -> None:
    case = CRASHES[name]
    path = write(tmp_path / "p.jsonl", case["input"])
    match = "set" if "set" in case["extra"] else "multiset"
    if name in ("eval_label_missing", "eval_output_missing"):
        with pytest.raises(DataError, match="gold" if "label" in name else "output"):
            scored(path, match=match)
        return
    scores = scored(path, match=match)
    if name in PERFECT:
        assert [unit.micro.f1 for unit in scores.units] == [100]
    elif name.startswith("eval_ee_"):
        # The event is kept, without the arguments that are none.
        assert counts(scores) == (1, 1, 1)
        assert counts(scores, 1) == (2, 0, 0)
    elif name == "eval_kg_set":
        assert counts(scores) == (1, 1, 1)

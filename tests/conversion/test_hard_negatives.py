"""Hard negatives: read from files, mined from data, drawn from a model's confusions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.conversion.hard_negatives import (
    joined,
    read_hard_negatives,
    write_hard_negatives,
)
from iepile_cli.conversion.mining import Survey, mined
from iepile_cli.errors import DataError
from iepile_cli.task.records import Gold


def read(folder: Path, value: Any, task: str = "NER", source: str = "set") -> dict[str, Any]:
    path = folder / "hard.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return read_hard_negatives(path, task, source)


def test_both_forms_of_upstreams_dictionary(tmp_path: Path) -> None:
    flat = {"a": ["b", "c"], "b": []}
    assert read(tmp_path, flat) == {"a": ("b", "c"), "b": ()}
    nested = {"NER": {"set": flat, "other": {"x": ["y"]}}, "RE": {"set": {"p": ["q"]}}}
    assert read(tmp_path, nested) == {"a": ("b", "c"), "b": ()}
    assert read(tmp_path, nested, "RE") == {"p": ("q",)}
    assert read(tmp_path, nested, "EE") == {}
    assert read(tmp_path, nested, "NER", "elsewhere") == {}
    assert read(tmp_path, {}) == {}


def test_confusions_work_both_ways_round(tmp_path: Path) -> None:
    table = {
        "set": {"task": "NER", "confusions": {"a": {"b": 3, "c": 5, "a": 9}, "d": {"a": 1}}},
        "other": {"task": "NER", "confusions": {"x": {"y": 1}}},
        "third": {"task": "RE", "confusions": {"p": {"q": 1}}},
    }
    assert read(tmp_path, table) == {
        "a": ("c", "b", "d"),
        "b": ("a",),
        "c": ("a",),
        "d": ("a",),
    }
    assert set(read(tmp_path, table, source="new")) == {"a", "b", "c", "d", "x", "y"}


@pytest.mark.parametrize(
    "value",
    ["[1]", "{", '{"a": ["b"], "c": 1}', '{"NER": {"set": {"a": "b"}}}', '{"a": [1]}', "3"],
)
def test_other_files_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(DataError, match=r"hard\.json"):
        read(tmp_path, value)


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "hard.json"
    write_hard_negatives(path, {("NER", "set"): {"b": ("人",), "a": ("b",)}})
    assert read_hard_negatives(path, "NER", "set") == {"a": ("b",), "b": ("人",)}


def test_dictionaries_join_with_the_first_ones_first() -> None:
    assert joined([{"a": ("x", "y")}, {"a": ("z", "x"), "b": ("a",)}]) == {
        "a": ("x", "y", "z"),
        "b": ("a",),
    }


def survey_of(*records: tuple[str, list[tuple[str, str]]]) -> Survey:
    survey = Survey("NER")
    for text, entities in records:
        survey.add_gold(text, [Gold(kind, (("mention", one),)) for one, kind in entities])
    return survey


def test_types_that_overlap_or_change_places_are_hard() -> None:
    fillers = [(f"the {number} thing", [(str(number), "number")]) for number in range(10)]
    survey = survey_of(
        *[("Bank of Rome", [("Bank of Rome", "company"), ("Rome", "city")])] * 8,
        *[(f"town {name}", [(name, kind)]) for name in "abcde" for kind in ("city", "village")],
        *fillers,
    )
    found = mined(survey, ["company", "city", "village", "number"])
    assert found["company"] == ("city",)
    assert set(found["city"]) == {"company", "village"}
    assert "number" not in found


def test_mining_does_not_depend_on_how_records_are_cut_up() -> None:
    records = [
        (f"a{number} b{number % 3}", [(f"a{number}", "x"), (f"b{number % 3}", "y")])
        for number in range(30)
    ]
    whole = survey_of(*records)
    parts = Survey("NER")
    for start in range(0, 30, 7):
        parts.add(survey_of(*records[start : start + 7]))
    assert parts == whole


def test_mined_dictionary_is_written_and_used(tmp_path: Path, run: Any) -> None:
    source = tmp_path / "set" / "train.json"
    source.parent.mkdir()
    kinds = [f"kind {letter}" for letter in "abc"] + [f"x{number:02d}" for number in range(12)]
    with source.open("w") as file:
        for number in range(60):
            kind = kinds[number % len(kinds)]
            entity = [{"entity": f"w{number % 3}", "entity_type": kind}]
            file.write(json.dumps({"text": f"w{number % 3} here", "entity": entity}) + "\n")
    hard = tmp_path / "hard.json"
    arguments = ["--task", "NER", "--schema", "auto", "--write-hard-negatives", hard]
    result = run("convert", source, *arguments, "--hard-negatives", "auto", "--split-num", 4)
    assert result.code == 0, result.err
    dictionary = json.loads(hard.read_text())["NER"]["set"]
    # They share their mentions.
    assert "x00" in dictionary["kind a"]
    again = run(
        "convert", source, "--task", "NER", "--schema", "auto", "--hard-negatives", hard,
        "--split-num", 4,
    )  # fmt: skip
    assert again.out == result.out
    without = run("convert", source, "--task", "NER", "--schema", "auto", "--split-num", 4)
    assert without.out != result.out

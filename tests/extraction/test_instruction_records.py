"""Converted records answered as they are: to the letter, in order, resumed without loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.cli.app import run
from iepile_cli.task.instruction import instruction_json, parse_instruction
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS, task_named

TEXT = 'John Smith founded Acme in Paris. He was born in "Rome", in 1950.'
BORN = [
    SchemaItem("born in", subject_type="person", object_type=kind) for kind in ("city", "country")
]
# Several threads are slow where other tests run beside these.
EXTRACT = ["extract", "--threads", "1", "--answer-tokens", "24"]
ITEMS = {
    "NER": (SchemaItem("person"), SchemaItem("location")),
    "SPO": tuple(BORN),
    "EE": (SchemaItem("founding", slots=("agent", "place")),),
    "KG": (SchemaItem("person", slots=("birthplace", "job")),),
}


def record(task: str, text: str = TEXT, **more: Any) -> dict[str, Any]:
    return {
        "id": "ü1",
        "task": task,
        "source": "tests",
        "instruction": instruction_json(TASKS[task], ITEMS[task], text, "en"),
        "label": "[]",
        **more,
    }


def write(path: Path, records: list[Any]) -> Path:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in records]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def without_output(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("output", "truncated")}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.model
def test_every_record_comes_back_with_its_keys_and_a_grounded_answer(tmp_path: Path) -> None:
    asked = [
        *(record(task) for task in ITEMS),
        record("NER", extra={"é": [1, None]}),
        record("NER", "Ann met \ud800 Bob."),
        record("NER"),
    ]
    path = write(tmp_path / "test.jsonl", asked)
    out = tmp_path / "pred.jsonl"
    assert run([*EXTRACT, "--instructions", str(path), "-o", str(out)]) == 0
    predicted = read(out)
    assert [without_output(row) for row in predicted] == asked
    for row in predicted:
        assert list(without_output(row)) == list(row)[: len(without_output(row))]
        answer = json.loads(row["output"])
        ask = parse_instruction(task_named(row["task"]), row["instruction"])
        assert list(answer) == list(dict.fromkeys(item.type for item in ask.items))
        assert json.dumps(answer, ensure_ascii=False) == row["output"]
        text = ask.text.replace("\ud800", "\ufffd")
        assert all(mention in text for mention in _mentions(answer, {*answer}))


def _mentions(value: Any, skip: set[str]) -> list[str]:
    if isinstance(value, str):
        return [] if value == "NAN" else [value]
    parts = value.values() if isinstance(value, dict) else value
    return [mention for part in parts for mention in _mentions(part, skip)]


@pytest.mark.model
def test_bad_records_are_named_and_the_rest_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"id": 7, "instruction": record("SPO")["instruction"]}
    bad = [{"id": 1}, "{broken", record("NER") | {"task": "XYZ"}, {"instruction": "say hello"}]
    path = write(tmp_path / "test.jsonl", [*bad, other, {**other, "instruction": "{}"}])
    out = tmp_path / "pred.jsonl"
    assert run([*EXTRACT, "--instructions", str(path), "-o", str(out)]) == 3
    assert [list(row)[:3] for row in read(out)] == [["id", "instruction", "output"]]
    said = capsys.readouterr().err
    for line, what in ((1, "'instruction'"), (2, "not JSON"), (3, "XYZ"), (4, "no task"), (6, "")):
        assert any(f"test.jsonl:{line}: " in row and what in row for row in said.splitlines())
    assert "5 inputs failed; 1 record written" in said


@pytest.mark.model
def test_resuming_neither_repeats_nor_loses_a_record(tmp_path: Path) -> None:
    asked = [record("NER", f"Ann met Bob {n}.") for n in range(3)]
    asked += [asked[1], asked[1]]
    path = write(tmp_path / "test.jsonl", asked)
    whole = tmp_path / "whole.jsonl"
    arguments = [*EXTRACT, "--instructions", str(path), "-o"]
    assert run([*arguments, str(whole)]) == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    for kept in (b"", b"".join(lines[:2]) + lines[2][:40], b"".join(lines[:4]), b"".join(lines)):
        part = tmp_path / "part.jsonl"
        part.write_bytes(kept)
        assert run([*arguments, str(part), "--resume"]) == 0
        complete = kept.count(b"\n")
        assert part.read_bytes().splitlines()[:complete] == kept.splitlines()[:complete]
        # What is computed again may differ where two tokens are as likely as each other.
        assert [without_output(row) for row in read(part)] == asked


@pytest.mark.model
def test_a_text_that_does_not_fit_is_cut_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    text = "Ann met Bob in Rome. " * 24
    path = write(tmp_path / "test.jsonl", [record("NER", text)])
    out = tmp_path / "pred.jsonl"
    assert run([*EXTRACT, "--instructions", str(path), "-o", str(out), "--context", "256"]) == 0
    (row,) = read(out)
    assert parse_instruction(TASKS["NER"], row["instruction"]).text == text
    assert list(json.loads(row["output"])) == ["person", "location"]


def test_options_that_records_leave_no_room_for_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path / "test.jsonl", [record("NER")]))
    assert run([*EXTRACT, "--instructions", path, "--schema", "person"]) == 2
    assert "--schema cannot be used" in capsys.readouterr().err
    assert run([*EXTRACT, "--instructions", path, "--resume"]) == 2
    assert "only a file can be resumed" in capsys.readouterr().err
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert run([*EXTRACT, "--instructions", str(empty), "-o", str(tmp_path / "o")]) == 1
    assert "is empty" in capsys.readouterr().err


def test_a_file_that_is_no_prediction_is_not_written_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "test.jsonl", [record("NER"), record("KG")])
    other = write(tmp_path / "other.jsonl", [record("NER"), record("KG")])
    before = path.read_bytes()
    assert run([*EXTRACT, "--instructions", str(path), "-o", str(other), "--resume"]) == 1
    assert "no output that can be resumed" in capsys.readouterr().err
    assert other.read_bytes() == before
    assert run([*EXTRACT, "--instructions", str(path), "-o", str(path), "--resume"]) == 2
    assert "would overwrite what is read from it" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.model
def test_an_escaped_instruction_that_does_not_fit_is_cut_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Six letters for a character: far more tokens than the text itself has.
    text = "任正非在深圳会见了来自北京的记者。" * 6
    row = record("NER", text)
    row["instruction"] = json.dumps(json.loads(row["instruction"]), ensure_ascii=True)
    assert "\\u4efb" in row["instruction"]
    path = write(tmp_path / "test.jsonl", [row, record("NER", "Ann met Bob.")])
    out = tmp_path / "pred.jsonl"
    call = [*EXTRACT, "--instructions", str(path), "-o", str(out), "--context", "512"]
    assert run(call) == 0, capsys.readouterr().err
    first, second = read(out)
    assert first["instruction"] == row["instruction"]
    for predicted in (first, second):
        assert list(json.loads(predicted["output"])) == ["person", "location"]

"""What a prediction file may be like: forms, encodings, and what is never overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from evaluation_rows import counts, ner, row, run, scored, write

from iepile_cli.evaluation import EvalOptions, evaluate

GOLD = ner(("Ann", "PER"))


def input_first(output: Any, text: str = "Ann slept", schema: Any = ("PER",)) -> dict[str, Any]:
    """A record whose instruction names the text before the schema."""
    asked = {"input": text, "schema": list(schema), "instruction": "i"}
    return {**row(output, GOLD, text=text), "instruction": json.dumps(asked)}


def test_input_may_come_first_in_an_instruction(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [input_first({"PER": ["Ann", "Zoe"], "LOC": ["Ann"]})])
    scores = scored(path, asked_only=True)
    assert counts(scores) == (1, 2, 1)
    assert scores.units[0].micro.hallucinated == 1


def test_two_equal_records_stay_two(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [input_first({"PER": ["Ann"]})] * 2)
    scores = scored(path)
    assert (scores.documents, counts(scores)) == (2, (2, 2, 2))


@pytest.mark.parametrize("indent", [None, 2])
def test_one_array_is_read(indent: int | None, tmp_path: Path) -> None:
    rows = [row({"PER": ["Ann"]}, GOLD, text=f"Ann {n}\nslept") for n in range(3)]
    path = tmp_path / "p.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    assert counts(scored(str(path))) == (3, 3, 3)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_byte_order_marks_are_heeded(encoding: str, tmp_path: Path) -> None:
    rows = [row({"PER": ["Ann", "中"]}, GOLD, text=f"Ann {n} 中") for n in range(3)]
    path = tmp_path / "p.jsonl"
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
    path.write_bytes(lines.encode(encoding))
    assert counts(scored(str(path))) == (3, 6, 3)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_one_array_is_read_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    rows = [row({"PER": ["Ann"]}, GOLD, text=f"Ann {n} slept") for n in range(3)]
    path = tmp_path / "p.json"
    for text in (json.dumps(rows), "\n " + json.dumps(rows, indent=1)):
        path.write_bytes(text.encode(encoding))
        assert counts(scored(str(path))) == (3, 3, 3)


def test_broken_array_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("[{}, oops", encoding="utf-8")
    done = run(str(path))
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"the array is not closed" in done.stderr


@pytest.mark.parametrize("option", ["--json", "--html", "--confusions", "--errors"])
@pytest.mark.parametrize("link", ["hard", "symbolic"])
def test_reports_do_not_replace_what_is_read(option: str, link: str, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [row({"PER": ["Ann"]}, GOLD)])
    before = Path(path).read_bytes()
    other = tmp_path / "other"
    (os.link if link == "hard" else os.symlink)(path, other)
    done = run(path, option, str(other))
    assert (done.returncode, b"would overwrite" in done.stderr) == (2, True)
    assert Path(path).read_bytes() == before
    baseline = run(path, "--baseline", str(other), option, path)
    assert (baseline.returncode, b"would overwrite" in baseline.stderr) == (2, True)


@pytest.mark.parametrize("ending", [".ann", ".txt"])
def test_reports_do_not_replace_gold_of_brat(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [row({"PER": ["Ann"]}, GOLD)])
    folder = tmp_path / "brat"
    folder.mkdir()
    (folder / "a.txt").write_text("Ann slept")
    (folder / "a.ann").write_text("T1\tPER 0 3\tAnn\n")
    before = (folder / f"a{ending}").read_bytes()
    done = run(path, "--gold", str(folder), "--errors", str(folder / f"a{ending}"))
    assert (done.returncode, b"would overwrite" in done.stderr) == (2, True)
    assert (folder / f"a{ending}").read_bytes() == before


def test_reports_do_not_replace_the_texts_of_results(tmp_path: Path) -> None:
    texts, results = tmp_path / "texts.jsonl", tmp_path / "results.jsonl"
    texts.write_text('{"text": "Ann left"}\n')
    item = {"type": "PER", "text": "Ann", "start": 0, "end": 3}
    result = {"source": "texts.jsonl", "line": 1, "task": "NER", "answer": {}, "items": [item]}
    write(results, [result])
    for option in ("--errors", "--json"):
        done = run(str(results), "--gold", str(results), option, str(texts))
        assert (done.returncode, b"would overwrite" in done.stderr) == (2, True)
    assert texts.read_text() == '{"text": "Ann left"}\n'


def test_an_unknown_form_of_gold_is_a_wrong_option(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [row({"PER": ["Ann"]}, GOLD)])
    done = run(path, "--gold-from", "word")
    assert done.returncode == 2
    assert b"--gold-from" in done.stderr


def test_records_that_convert_refuses_are_refused(tmp_path: Path) -> None:
    good = json.dumps(row({"PER": ["Ann"]}, GOLD))
    nan = good.replace('"source": "S"', '"source": NaN')
    surrogate = good.replace('"source": "S"', '"source": "\\ud800"')
    assert nan != good != surrogate
    path = write(tmp_path / "p.jsonl", [good, nan, surrogate])
    with evaluate(path, EvalOptions(resamples=0)) as evaluation:
        assert evaluation.counts.unreadable == 2
        assert counts(evaluation.scores["NER"]) == (1, 1, 1)
        failure = evaluation.failure(None)
    assert failure is not None
    assert failure.exit_code == 3


def test_role_that_is_called_as_a_fixed_part_is_scored(tmp_path: Path) -> None:
    """GENEVA has events with an argument ``trigger``."""
    gold = [
        {
            "event_type": "Hit",
            "event_trigger": "hit",
            "arguments": [{"role": "trigger", "argument": "Ann"}],
        }
    ]
    answer = {"Hit": [{"trigger": "hit", "arguments": {"trigger": "Ann"}}]}
    for task in ("EE", "EEA"):
        given = answer if task == "EE" else {"Hit": [{"trigger": "Ann"}]}
        scores = scored(write(tmp_path / "p.jsonl", [row(given, gold, task=task)]))
        assert counts(scores, 1) == (1, 1, 1), task


# ------------------------------------------------------------------------------- what is new


def test_case_and_space_may_be_ignored(tmp_path: Path) -> None:
    gold = ner(("New York", "LOC"), ("STRASSE", "LOC"))
    rows = [row({"LOC": ["new york", "NewYork", "Straße"]}, gold, text="New York, STRASSE")]
    path = write(tmp_path / "p.jsonl", rows)
    for options, expected in (
        ({}, (2, 3, 0)),
        ({"ignore_case": True}, (2, 3, 2)),
        ({"ignore_space": True}, (2, 3, 1)),
        ({"ignore_case": True, "ignore_space": True, "match": "set"}, (2, 2, 2)),
    ):
        scores = scored(path, **options)
        assert counts(scores) == expected, options
    scores = scored(path, ignore_case=True, ignore_space=True)
    assert scores.units[0].micro.hallucinated == 0
    with evaluate(path, EvalOptions(ignore_case=True, ignore_space=True)) as evaluation:
        (document,) = evaluation.wrong_documents()
    assert document.text == "New York, STRASSE"


def errors_of(path: str, target: Path, *more: str) -> list[dict[str, Any]]:
    done = run(path, "--errors", str(target), *more)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def test_errors_are_listed_by_how_often_they_come(tmp_path: Path) -> None:
    rows = [
        row({"ORG": ["Ann"]}, ner(("Rome", "LOC")), text="Bob saw Ann in Rome"),
        row({"PER": ["Rome", "Ann"]}, ner(("Rome", "LOC"), ("Ann", "PER")), text="Ann in Rome"),
        row({}, ner(("Rome", "LOC")), text="x " * 50 + "Rome " + "y " * 50),
        row({}, ner(("Rome", "LOC")), text="Rome again", source=None),
    ]
    path = write(tmp_path / "p.jsonl", rows)
    errors = errors_of(path, tmp_path / "errors.jsonl")
    shown = [(e["rank"], e["times"], e["error"], e["label"], e["mentions"]) for e in errors]
    assert shown == [
        *[(1, 3, "missed", "LOC", ["Rome"])] * 3,
        (2, 1, "spurious", "ORG", ["Ann"]),
        (3, 1, "wrong type", "PER", ["Rome"]),
    ]
    first, second = errors[:2]
    assert (first["spans"], first["context"]) == ([[15, 19]], "Bob saw Ann in Rome")
    start, _ = second["spans"][0]
    assert (start, second["context"][0], second["context"][-1]) == (100, "…", "…")
    assert len(second["context"]) < 2 * 60 + 10
    assert (errors[-1]["gold_label"], errors[-1]["source"]) == ("LOC", "S")
    assert len(first["id"]) == 64


def test_partial_errors_name_the_gold(tmp_path: Path) -> None:
    rows = [row({"LOC": ["York"]}, ner(("New York", "LOC")), text="New York")]
    path = write(tmp_path / "p.jsonl", rows)
    (error,) = errors_of(path, tmp_path / "errors.jsonl", "--mode", "partial")
    assert (error["error"], error["gold_mentions"]) == ("partial", ["New York"])
    (error,) = errors_of(path, tmp_path / "errors.jsonl")
    assert (error["error"], error["gold_mentions"]) == ("boundary", ["New York"])


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    rows = [row({"PER": ["Ann"]}, GOLD, text=f"Ann {n}") for n in range(4)]
    worse = [{**one, "output": "{}"} if n < 2 else one for n, one in enumerate(rows)]
    return write(tmp_path / "one|1.jsonl", rows), write(tmp_path / "two.jsonl", worse)


def test_several_files_stand_in_one_table(two: tuple[str, str]) -> None:
    done = run(*two)
    header, *lines = (line.split("\t") for line in done.stdout.decode().splitlines())
    assert header[:2] == ["file", "task"]
    micro = {line[0]: line[8] for line in lines if line[5] == "micro"}
    assert micro == {two[0]: "100.00", two[1]: "66.67"}
    report = json.loads(run(*two, "--json", "-").stdout)
    assert [one["predictions"] for one in report["files"]] == list(two)
    assert done.stderr.decode().splitlines() == [
        f"{path}: NER: 4 documents, 4 answers" for path in two
    ]
    assert run(*two, "--fail-under", "70").returncode == 1
    for option in ("--html", "--errors", "--confusions"):
        refused = run(*two, option, "x")
        assert (refused.returncode, b"takes one file" in refused.stderr) == (2, True)


def test_one_file_of_several_that_cannot_be_scored_keeps_no_other(
    two: tuple[str, str], tmp_path: Path
) -> None:
    broken = write(tmp_path / "broken.jsonl", ["no JSON"])
    done = run(two[0], broken, two[1])
    assert done.returncode == 3
    names = {line.split("\t")[0] for line in done.stdout.decode().splitlines()[1:]}
    assert names == set(two)
    said = done.stderr.decode()
    assert f"{broken}:1: no record that can be scored" in said
    assert "1 file not scored" in said
    report = json.loads(run(two[0], broken, "--json", "-").stdout)
    assert [one["predictions"] for one in report["files"]] == [two[0]]
    done = run(broken, broken)
    assert (done.returncode, done.stdout) == (1, b"")
    # A name that is not there is told before anything is done.
    done = run(two[0], "/nowhere.jsonl")
    assert (done.returncode, done.stdout) == (2, b"")


def test_scores_are_shown_when_a_report_cannot_be_written(two: tuple[str, str]) -> None:
    done = run(two[0], "--html", "/dev/full")
    assert done.returncode == 1
    assert b"micro" in done.stdout


def test_markdown_table(two: tuple[str, str]) -> None:
    lines = run(*two, "--format", "markdown", "--by", "type").stdout.decode().splitlines()
    assert lines[0] == "| what | average | P | R | F1 | 95 % | gold | pred | correct |"
    assert lines[1].startswith("| --- | --- | --: |")
    assert len({line.count("|") - line.count("\\|") for line in lines}) == 1
    assert len(lines) == 2 + 2 * 3
    assert run(*two, "--format", "csv").returncode == 2

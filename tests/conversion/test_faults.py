"""Mistakes that were there once: overwritten input, lost annotation, guesses, growing memory."""

from __future__ import annotations

import json
import os
from array import array
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.conversion import convert_file
from iepile_cli.conversion.convert_chunk import Done
from iepile_cli.conversion.datasets import find_datasets, language_of_path, task_of
from iepile_cli.extraction.inputs import InputOptions, read_documents

SCHEMA = '["person", "place"]\n[]\n{}\n'
RECORD = {"text": "Ann saw Rome", "entity": [{"entity": "Ann", "entity_type": "person"}]}


def dataset(folder: Path, *records: Any, name: str = "train.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.json").write_text(SCHEMA, "utf-8")
    lines = "".join(json.dumps(one) + "\n" for one in records or [RECORD])
    (folder / name).write_text(lines, "utf-8")
    return folder / name


@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_an_annotation_is_not_replaced_by_rows(tmp_path: Path, run: Any, link: str) -> None:
    source = dataset(tmp_path / "set")
    before = source.read_bytes()
    output = source
    if link == "symbolic":
        output = tmp_path / "link.json"
        output.symlink_to(source)
    elif link == "hard":
        output = tmp_path / "link.json"
        os.link(source, output)
    result = run("convert", source, "--task", "NER", "-o", output)
    assert result.code == 2
    assert "would overwrite" in result.err
    assert source.read_bytes() == before


@pytest.mark.parametrize("option", ["--write-hard-negatives", "-o"])
def test_a_schema_is_not_replaced(tmp_path: Path, run: Any, option: str) -> None:
    source = dataset(tmp_path / "set")
    schema = source.with_name("schema.json")
    arguments = ["--task", "NER", "--hard-negatives", "auto", option, schema]
    assert run("convert", source, *arguments).code == 2
    assert schema.read_text() == SCHEMA


@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_a_corpus_is_not_replaced_by_rows(tmp_path: Path, run: Any, link: str) -> None:
    root = tmp_path / "corpus"
    source = dataset(root / "IE-en" / "NER" / "set")
    before = source.read_bytes()
    output = root
    if link == "symbolic":
        output = tmp_path / "link"
        output.symlink_to(root)
    elif link == "hard":
        output = tmp_path / "out"
        (output / "IE-en" / "NER" / "set").mkdir(parents=True)
        os.link(source, output / "IE-en" / "NER" / "set" / "train.json")
    result = run("convert", root, "-o", output)
    assert result.code == 2
    assert "would overwrite" in result.err
    assert source.read_bytes() == before


def test_a_file_of_a_corpus_is_not_replaced_by_hard_negatives(tmp_path: Path, run: Any) -> None:
    source = dataset(tmp_path / "corpus" / "NER" / "set")
    before = source.read_bytes()
    options = ["--hard-negatives", "auto", "--write-hard-negatives", source]
    result = run("convert", tmp_path / "corpus", "-o", tmp_path / "out", *options)
    assert (result.code, "would overwrite" in result.err) == (2, True)
    assert source.read_bytes() == before


@pytest.mark.parametrize("ending", [".ann", ".txt"])
@pytest.mark.parametrize("named", ["", "a.ann"])
def test_a_document_of_brat_is_not_replaced(
    tmp_path: Path, run: Any, ending: str, named: str
) -> None:
    folder = tmp_path / "brat"
    folder.mkdir()
    (folder / "a.txt").write_text("Ann left")
    (folder / "a.ann").write_text("T1\tPER 0 3\tAnn\n")
    before = (folder / f"a{ending}").read_bytes()
    result = run("convert", folder / named, "--to", "records", "-o", folder / f"a{ending}")
    assert (result.code, "would overwrite" in result.err) == (2, True)
    assert (folder / f"a{ending}").read_bytes() == before
    assert run("convert", folder / named, "--to", "records", "-o", folder / "b.json").code == 0


def test_the_texts_of_results_are_not_replaced(tmp_path: Path, run: Any) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Ann left"}\n')
    item = {"type": "person", "text": "Ann", "start": 0, "end": 3}
    result = {"source": "texts.jsonl", "line": 1, "task": "NER", "answer": {}, "items": [item]}
    (tmp_path / "results.jsonl").write_text("oops\n" + json.dumps(result) + "\n")
    before = texts.read_bytes()
    form = ["--from", "results", "--to", "doccano"]
    done = run("convert", tmp_path / "results.jsonl", *form, "-o", texts)
    assert (done.code, "would overwrite" in done.err) == (2, True)
    assert texts.read_bytes() == before
    done = run("convert", tmp_path / "results.jsonl", *form, "-o", tmp_path / "new.jsonl")
    assert done.code == 3


SOURCES = {
    "a.csv": 'text,id\nAnn left,1\n"Bob\nsaw Ann",2\n',
    "a.tsv": "id\ttext\n1\tAnn left\n2\tBob saw Ann\n",
    "a.json": '[\n {"id": 1,\n  "text": "Ann left"},\n {"text": "Bob saw Ann"}\n]\n',
    "b.json": '[{"text": "Ann left"}, {"text": "Bob saw Ann"}]',
    "a.jsonl": '{"text": "Ann left"}\n\n{"text": "Bob saw Ann"}\n',
    "a.txt": "Ann left\r\n\r\nBob saw Ann\u2028\r\n",
}


@pytest.mark.parametrize("name", SOURCES)
def test_texts_of_results_are_read_as_extract_reads_them(
    tmp_path: Path, run: Any, name: str
) -> None:
    source = tmp_path / name
    source.write_bytes(SOURCES[name].encode())
    documents = list(read_documents([str(source)], InputOptions(lines=name == "a.txt")))
    assert len(documents) == 2
    results = [
        {"source": name, "line": one.line, "task": "NER", "answer": {}, "items": [
            {"type": "person", "text": "Ann", "start": at, "end": at + 3}]}
        for one in documents
        for at in [one.text.index("Ann")]
    ]  # fmt: skip
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in results))
    done = run("convert", tmp_path / "results.jsonl", "--to", "doccano")
    assert done.code == 0, done.err
    assert [json.loads(line)["text"] for line in done.out.rstrip("\n").split("\n")] == [
        one.text for one in documents
    ]


def test_rows_in_a_folder_of_the_corpus_are_no_dataset_of_it(tmp_path: Path, run: Any) -> None:
    dataset(tmp_path / "NER" / "set")
    for _ in range(2):
        assert run("convert", tmp_path, "-o", tmp_path / "rows").code == 0
    assert [path.parent.name for path in tmp_path.rglob("train.json")].count("set") == 2


def test_remembered_ids_stay_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_file, "REMEMBERED", 1000)
    known = convert_file._Identities()
    for number in range(100):
        done = Done()
        # Each chunk has one id twice, and 99 new ones.
        ids = [7, 7, *range(number * 100 + 1000, number * 100 + 1099)]
        done.ids, done.id_lines = array("Q", ids), array("Q", range(len(ids)))
        assert known.repeated(done)
    assert len(known.seen) <= 1000


def test_folders_far_above_say_nothing_of_task_and_language(tmp_path: Path, run: Any) -> None:
    far = tmp_path / "EE" / "home" / "work" / "data" / "set"
    assert task_of(far) is None
    assert language_of_path(tmp_path / "home" / "zh" / "NER" / "conll") is None
    assert language_of_path(tmp_path / "IE-zh" / "NER" / "conll") == "zh"
    source = dataset(tmp_path / "home" / "zh" / "NER" / "conll")
    (row,) = run("convert", source).out.splitlines()
    assert "You are an expert" in row


def test_a_negative_ratio_other_than_all_is_refused(tmp_path: Path, run: Any) -> None:
    source = dataset(tmp_path / "set")
    result = run("convert", source, "--task", "NER", "--neg-ratio", "-0.5")
    assert result.code == 2
    assert "--neg-ratio" in result.err
    assert run("convert", source, "--task", "NER", "--neg-ratio", "-1").code == 0


def test_datasets_of_one_name_are_told_apart(tmp_path: Path, run: Any) -> None:
    root = tmp_path / "corpus"
    for name in ("NER/A/life", "NER/B/life", "RE/A/life", "NER/news"):
        dataset(root / "IE-en" / name)
    sources = {one.inside.as_posix(): one.source for one in find_datasets(root)}
    assert sources == {
        "IE-en/NER/A/life": "A/life",
        "IE-en/NER/B/life": "B/life",
        "IE-en/NER/news": "news",
        "IE-en/RE/A/life": "life",
    }
    hard = tmp_path / "hard.json"
    arguments = ["--task", "NER", "--write-hard-negatives", hard, "-o", tmp_path / "out"]
    assert run("convert", root, *arguments).code == 0
    assert set(json.loads(hard.read_text())["NER"]) == {"A/life", "B/life", "news"}
    (row,) = (tmp_path / "out/IE-en/NER/B/life/train.json").read_text().splitlines()
    assert json.loads(row)["source"] == "B/life"


def test_strict_writes_nothing_to_stdout_either(tmp_path: Path, run: Any) -> None:
    records = [{**RECORD, "text": f"Ann saw Rome {number}"} for number in range(9000)]
    source = dataset(tmp_path / "set", *records, {"text": "x"})
    assert source.stat().st_size > 2 * 262144
    result = run("convert", source, "--task", "NER", "--strict", "--workers", "1")
    assert result.code == 1
    assert result.out == ""


@pytest.mark.parametrize("odd", ['"\\ud800"', "NaN", "Infinity"])
@pytest.mark.parametrize("place", ["text", "entity", "other"])
def test_what_json_cannot_hold_is_refused_wherever_it_stands(
    tmp_path: Path, run: Any, odd: str, place: str
) -> None:
    source = dataset(tmp_path / "set")
    line = {
        "text": '{"text": %s, "entity": []}',
        "entity": '{"text": "x", "entity": [{"entity": %s, "entity_type": "person"}]}',
        "other": '{"text": "x", "entity": [], "other": %s}',
    }[place]
    source.write_text(line % odd + "\n")
    for more in ((), ("--to", "records"), ("--split", "test")):
        result = run("convert", source, "--task", "NER", *more)
        assert result.code == 3
        assert "not JSON" in result.err


@pytest.mark.parametrize("more", [[], ["--schema", "person"], ["--to", "doccano"]])
def test_plain_text_is_named_as_such(tmp_path: Path, run: Any, more: list[str]) -> None:
    source = tmp_path / "notes.txt"
    source.write_text("\n \nAnn saw Rome.\nBob left.\n", "utf-8")
    result = run("convert", source, "--task", "NER", *more)
    assert result.code == 1
    assert "is plain text, not annotated data" in result.err
    assert "iepile extract" in result.err
    assert result.err.count("\n") == 1
    assert not result.out

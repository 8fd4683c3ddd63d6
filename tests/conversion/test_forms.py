"""Forms of annotation tools and results of ``extract``, from one to another and back."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.conversion import read_gold
from iepile_cli.conversion.readers import form_of
from iepile_cli.errors import DataError

TEXT = "Ann Lee works at IBM in Rome; Ann left."
ENTITIES = [(0, 7, "person"), (17, 20, "firm"), (24, 28, "place"), (30, 33, "person")]
RECORD = {
    "id": "7",
    "text": TEXT,
    "entity": [
        {"entity": TEXT[start:end], "entity_type": label, "start": start, "end": end}
        for start, end, label in ENTITIES
    ],
}
RELATION = {
    "head": "Ann Lee",
    "head_type": "person",
    "relation": "works at",
    "tail": "IBM",
    "tail_type": "firm",
    "head_start": 0,
    "head_end": 7,
    "tail_start": 17,
    "tail_end": 20,
}
EVENT = {
    "event_trigger": "left",
    "event_type": "leave",
    "arguments": [{"argument": "Ann", "role": "who", "start": 30, "end": 33}],
    "start": 34,
    "end": 38,
}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), "utf-8")
    return path


def records(run: Any, path: Path, *arguments: object) -> list[dict[str, Any]]:
    result = run("convert", path, "--to", "records", *arguments)
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def placed(record: dict[str, Any]) -> list[tuple[int, int, str]]:
    for one in record["entity"]:
        assert record["text"][one["start"] : one["end"]] == one["entity"]
    return [(one["start"], one["end"], one["entity_type"]) for one in record["entity"]]


@pytest.mark.parametrize("form", ["spacy", "prodigy", "doccano", "label-studio", "brat", "bio"])
def test_entities_go_to_a_tool_and_come_back(tmp_path: Path, run: Any, form: str) -> None:
    source = write(tmp_path / "x.jsonl", RECORD, {"text": "nobody", "entity": []})
    output = tmp_path / ("out" if form == "brat" else f"out.{'bio' if form == 'bio' else 'json'}")
    result = run("convert", source, "--to", form, "-o", output)
    assert result.code == 0, result.err
    assert form_of(output) == form
    first, second = records(run, output)
    if form == "bio":
        # Tokens are joined with blanks.
        assert first["text"] == "Ann Lee works at IBM in Rome ; Ann left ."
        assert [one["entity"] for one in first["entity"]] == ["Ann Lee", "IBM", "Rome", "Ann"]
    else:
        assert first["text"] == TEXT
        assert placed(first) == ENTITIES
    assert second["text"] == "nobody"
    assert second["entity"] == []


@pytest.mark.parametrize("form", ["prodigy", "doccano", "label-studio", "brat"])
def test_relations_go_to_a_tool_and_come_back(tmp_path: Path, run: Any, form: str) -> None:
    source = write(tmp_path / "x.jsonl", {**RECORD, "relation": [RELATION]})
    output = tmp_path / "out"
    assert run("convert", source, "--to", form, "-o", output).code == 0
    (record,) = records(run, output)
    assert placed(record) == ENTITIES
    expected = "works_at" if form == "brat" else "works at"
    assert record["relation"] == [{**RELATION, "relation": expected}]


def test_events_go_to_brat_and_come_back(tmp_path: Path, run: Any) -> None:
    source = write(tmp_path / "x.jsonl", {**RECORD, "event": [EVENT]})
    assert run("convert", source, "--to", "brat", "-o", tmp_path / "out").code == 0
    (record,) = records(run, tmp_path / "out")
    assert record["event"] == [EVENT]
    again = run("convert", source, "--to", "brat", "-o", tmp_path / "out")
    assert again.code == 2
    assert "is there already" in again.err


@pytest.mark.parametrize("form", ["bio", "spacy", "doccano"])
def test_what_a_form_cannot_hold_is_said(tmp_path: Path, run: Any, form: str) -> None:
    source = write(tmp_path / "x.jsonl", {**RECORD, "event": [EVENT]})
    result = run("convert", source, "--to", form)
    assert result.code == 0
    assert "part of the annotation left out (1)" in result.err
    assert "'leave'" in result.err


def test_mentions_without_offsets_are_looked_for(tmp_path: Path, run: Any) -> None:
    entities = [{"entity": "Ann", "entity_type": "person"}] * 2
    source = write(tmp_path / "x.jsonl", {"text": "Ann saw Ann", "entity": entities})
    out = json.loads(run("convert", source, "--to", "doccano").out)
    assert out["label"] == [[0, 3, "person"], [8, 11, "person"]]


def test_doccano_and_label_studio_as_they_export(tmp_path: Path, run: Any) -> None:
    lines = write(tmp_path / "a.jsonl", {"id": 1, "text": "In Rome", "label": [[3, 7, "place"]]})
    (record,) = records(run, lines)
    assert placed(record) == [(3, 7, "place")]
    region = {"start": 3, "end": 7, "text": "Rome", "labels": ["place"]}
    result = {"id": "x", "from_name": "l", "to_name": "t", "type": "labels", "value": region}
    tasks = [
        {"id": 1, "data": {"body": "In Rome"}, "annotations": [{"result": [result]}]},
        {
            "id": 2,
            "data": {"text": "In Rome"},
            "annotations": [
                {"result": [], "was_cancelled": True},
                {"result": []},
                {"result": [result], "ground_truth": True},
            ],
        },
        {"id": 3, "data": {"text": "x"}, "annotations": [{"result": [], "was_cancelled": True}]},
    ]
    path = tmp_path / "b.json"
    path.write_text(json.dumps(tasks))
    result = run("convert", path, "--to", "records")
    assert result.code == 0
    assert "1 left out" in result.err
    assert "1 further annotations of the same text" in result.err
    found = [json.loads(line) for line in result.out.splitlines()]
    assert [placed(one) for one in found] == [[(3, 7, "place")]] * 2
    short = tmp_path / "c.json"
    short.write_text(json.dumps([{"id": 4, "text": "In Rome", "label": [region]}]))
    (record,) = records(run, short)
    assert placed(record) == [(3, 7, "place")]


def test_token_datasets(tmp_path: Path, run: Any) -> None:
    named = {"id": "0", "tokens": ["Ann", "Lee", "left"], "ner_tags": ["B-PER", "I-PER", "O"]}
    numbered = {**named, "ner_tags": [1, 2, 0]}
    path = write(tmp_path / "train.jsonl", named)
    (record,) = records(run, path)
    assert placed(record) == [(0, 7, "PER")]
    path = write(tmp_path / "train.jsonl", numbered)
    result = run("convert", path, "--to", "records")
    assert result.code == 3
    assert "dataset_info.json" in result.err
    names = {"feature": {"names": ["O", "B-PER", "I-PER"]}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": {"ner_tags": names}}))
    (record,) = records(run, path)
    assert placed(record) == [(0, 7, "PER")]
    # Neither task nor schema need be named.
    assert json.loads(json.loads(run("convert", path).out)["output"]) == {"PER": ["Ann Lee"]}


def test_parquet_without_pyarrow(tmp_path: Path, run: Any) -> None:
    if importlib.util.find_spec("pyarrow"):
        pytest.skip("pyarrow is installed")
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1")
    result = run("convert", path, "--to", "records")
    assert result.code == 1
    assert "[parquet]" in result.err


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_token_datasets_of_hugging_face(tmp_path: Path, run: Any, suffix: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    tags = {"feature": {"names": ["O", "B-PER", "I-PER"], "_type": "ClassLabel"}}
    told = {"info": {"features": {"ner_tags": {**tags, "_type": "Sequence"}}}}
    rows = [
        {"id": "0", "tokens": ["Ann", "Lee", "left"], "ner_tags": [1, 2, 0]},
        {"id": "1", "tokens": ["Rain"], "ner_tags": [0]},
    ]
    table = pyarrow.Table.from_pylist(rows)
    table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
    path = tmp_path / f"train{suffix}"
    if suffix == ".parquet":
        parquet.write_table(table, path)
    elif suffix == ".feather":
        feather.write_feather(table, path)
    else:
        with pyarrow.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    first, second = records(run, path)
    assert placed(first) == [(0, 7, "PER")]
    assert second["text"] == "Rain"
    assert placed(second) == []
    # Neither task nor schema need be named.
    rows = [json.loads(line) for line in run("convert", path).out.splitlines()]
    assert [json.loads(row["output"]) for row in rows] == [{"PER": ["Ann Lee"]}, {"PER": []}]


def test_damaged_parquet_is_named(tmp_path: Path, run: Any) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1 and no more")
    result = run("convert", path, "--to", "records")
    assert result.code == 1
    assert "train.parquet" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("name", ["news.txt", "news.tsv", "news"])
def test_columns_are_known_by_their_content(tmp_path: Path, run: Any, name: str) -> None:
    path = tmp_path / name
    path.write_text("# id = 1\nAnn\tB-PER\nleft\tO\n\nRain\tO\n")
    assert [placed(record) for record in records(run, path)] == [[(0, 3, "PER")], []]
    # Neither task nor schema need be named.
    assert json.loads(json.loads(run("convert", path).out.splitlines()[0])["output"])


def result_of(task: str, source: str, items: list[Any], **more: Any) -> dict[str, Any]:
    return {"source": source, **more, "task": task, "lang": "en", "answer": {}, "items": items}


def span(start: int, end: int) -> dict[str, Any]:
    return {"text": TEXT[start:end], "start": start, "end": end, "score": 0.5}


def test_results_of_extract_become_training_rows(tmp_path: Path, run: Any) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text(f"first\n{TEXT}\n")
    write(tmp_path / "c.jsonl", {"text": "x"}, {"text": TEXT, "id": "c2"})
    items = [{"type": label, **span(start, end)} for start, end, label in ENTITIES]
    path = write(
        tmp_path / "results.jsonl",
        result_of("NER", "a.txt", items),
        result_of("NER", "b.txt", items, line=2),
        result_of("NER", "c.jsonl", items, line=2, id="c2"),
        result_of("NER", "c.jsonl", items, line=1),
        result_of("NER", "gone.txt", items),
        result_of("NER", "stdin", items),
    )
    result = run("convert", path)
    assert result.code == 3
    assert "3 skipped" in result.err
    rows = [json.loads(line) for line in result.out.splitlines()]
    answer = {"firm": ["IBM"], "person": ["Ann Lee", "Ann"], "place": ["Rome"]}
    assert [json.loads(row["output"]) for row in rows] == [answer] * 3


@pytest.mark.parametrize(
    ("task", "item", "field", "entry"),
    [
        (
            "SPO",
            {
                "type": "works at",
                "subject_type": "person",
                "object_type": "firm",
                "subject": span(0, 7),
                "object": span(17, 20),
            },
            "relation",
            RELATION,
        ),
        (
            "EE",
            {
                "type": "leave",
                "trigger": span(34, 38),
                "arguments": [{"role": "who", **span(30, 33)}],
            },
            "event",
            EVENT,
        ),
        (
            "KG",
            {
                "type": "person",
                "entity": span(0, 7),
                "attributes": [{"role": "works at", **span(17, 20)}],
            },
            "relation",
            {key: value for key, value in RELATION.items() if key != "tail_type"},
        ),
    ],
)
def test_results_of_every_shape(
    tmp_path: Path, run: Any, task: str, item: Any, field: str, entry: Any
) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    path = write(tmp_path / "results.jsonl", result_of(task, "a.txt", [item]))
    (record,) = records(run, path)
    assert record[field] == [entry]
    (gold,) = read_gold(path)
    assert gold.text == TEXT
    assert all(place and TEXT[slice(*place)] for place in gold.items[0].spans)


def test_gold_is_read_from_any_form(tmp_path: Path, run: Any) -> None:
    source = write(tmp_path / "x.jsonl", {**RECORD, "relation": [RELATION]}, {"text": 3})
    first, second, broken = read_gold(source)
    assert (first.id, first.text, first.task and first.task.name) == ("7", TEXT, "NER")
    assert [item.spans for item in first.items] == [((start, end),) for start, end, _ in ENTITIES]
    assert second.task is not None
    assert second.task.name == "RE"
    assert second.items[0].spans == ((0, 7), (17, 20))
    assert broken.task is None
    assert [problem.line for problem in broken.problems] == [2]
    for form in ("doccano", "label-studio", "prodigy"):
        output = tmp_path / form
        run("convert", source, "--to", form, "-o", output)
        assert next(iter(read_gold(output))).items == first.items
    rows = tmp_path / "rows.jsonl"
    arguments = ["--task", "NER", "--schema", "auto", "-o", rows]
    run("convert", source, *arguments, "--split", "test")
    (gold,) = read_gold(rows)
    assert [item.gold for item in gold.items] == [item.gold for item in first.items]
    with pytest.raises(DataError, match="no such file"):
        next(iter(read_gold(tmp_path / "none")))


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_are_renamed_in_schema_and_gold(tmp_path: Path, run: Any, split: str) -> None:
    source = write(tmp_path / "x.jsonl", RECORD)
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"firm": "organisation", "place": "organisation"}))
    result = run(
        "convert", source, "--task", "NER", "--schema", "person,firm,place", "--split", split,
        "--rename-labels", names,
    )  # fmt: skip
    assert result.code == 0, result.err
    row = json.loads(result.out)
    assert json.loads(row["instruction"])["schema"] == (
        ["organisation", "person"] if split == "train" else ["person", "organisation"]
    )
    if split == "train":
        answer = {"organisation": ["IBM", "Rome"], "person": ["Ann Lee", "Ann"]}
        assert json.loads(row["output"]) == answer
    else:
        labels = [one["entity_type"] for one in json.loads(row["label"])]
        assert labels == ["person", "organisation", "organisation", "person"]
    inferred = run("convert", source, "--task", "NER", "--to", "schema", "--rename-labels", names)
    assert json.loads(inferred.out.splitlines()[0]) == ["organisation", "person"]


def test_a_dev_share_is_split_off_by_document(tmp_path: Path, run: Any) -> None:
    entities: list[Any] = []
    source = write(
        tmp_path / "x.jsonl",
        *({"text": f"{n}", "doc_id": n // 10, "entity": entities} for n in range(600)),
    )
    arguments = ["--task", "NER", "--schema", "person", "--dev-share", "0.3"]
    assert run("convert", source, *arguments).code == 2
    outputs = []
    for seed, workers in ((1, 1), (1, 2), (2, 1)):
        output = tmp_path / f"{seed}{workers}.jsonl"
        more = ["--seed", seed, "--workers", workers, "-o", output]
        result = run("convert", source, *arguments, *more)
        assert result.code == 0, result.err
        dev = tmp_path / f"{seed}{workers}.dev.jsonl"
        sides = [
            {
                int(json.loads(json.loads(line)["instruction"])["input"])
                for line in path.read_text().splitlines()
            }
            for path in (output, dev)
        ]
        assert sides[0] | sides[1] == set(range(600))
        documents = [{number // 10 for number in side} for side in sides]
        assert not documents[0] & documents[1]
        assert 6 <= len(documents[1]) <= 30
        outputs.append(sides[1])
    assert outputs[0] == outputs[1] != outputs[2]

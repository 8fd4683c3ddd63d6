"""Which rows make a document: batches, repeated texts, rows in any order, files in parts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from evaluation_rows import counts, ner, row, scored, write

from iepile_cli import parallel
from iepile_cli.evaluation import EvalOptions, evaluate, predictions
from iepile_cli.evaluation.predictions import PredictionFile, count_part
from iepile_cli.evaluation.report import as_json

GOLD = ner(("Ann", "PER"), ("Rome", "LOC"))
FIRST = {"schema": ["PER", "ORG"], "output": '{"PER": ["Ann"], "ORG": []}'}
SECOND = {"schema": ["LOC"], "output": '{"LOC": ["Rome"]}'}


def batches(gold: Any = GOLD, **more: Any) -> list[dict[str, Any]]:
    return [
        row(part["output"], gold, **{**more, "schema": part["schema"]}) for part in (FIRST, SECOND)
    ]


def test_batches_of_one_text_are_pooled(tmp_path: Path) -> None:
    scores = scored(write(tmp_path / "p.jsonl", batches()))
    assert scores.documents == 1
    assert counts(scores) == (2, 2, 2)


@pytest.mark.parametrize("times", [2, 3])
def test_same_text_twice_is_two_documents(times: int, tmp_path: Path) -> None:
    scores = scored(write(tmp_path / "p.jsonl", batches() * times))
    assert scores.documents == times
    assert counts(scores) == (2 * times, 2 * times, 2 * times)


def test_upstream_merges_them(tmp_path: Path) -> None:
    """E06: one sample, both answers, one gold: F1 66.67."""
    path = write(tmp_path / "p.jsonl", batches() * 2)
    with evaluate(path, EvalOptions(literal=True, resamples=0)) as evaluation:
        assert evaluation.upstream()["total"]["F1"] == 66.67


def test_same_text_with_other_gold_is_another_document(tmp_path: Path) -> None:
    rows = [
        row('{"PER": ["Ann"]}', ner(("Ann", "PER")), schema=["PER"]),
        row('{"LOC": ["Rome"]}', ner(("Rome", "LOC")), schema=["LOC"]),
    ]
    scores = scored(write(tmp_path / "p.jsonl", rows))
    assert scores.documents == 2
    assert counts(scores) == (2, 2, 2)


def test_sources_are_apart_and_never_run_together(tmp_path: Path) -> None:
    rows = [row('{"PER": ["Ann"]}', GOLD, source=s, id=i) for s, i in (("a", "bc"), ("ab", "c"))]
    scores = scored(write(tmp_path / "p.jsonl", rows), by=("source",))
    assert scores.source_documents == {"a": 1, "ab": 1}


def many(count: int) -> list[dict[str, Any]]:
    rng = random.Random(5)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        text = f"Ann went to Rome {rng.randrange(count)}"
        rows += batches(text=text, source=f"s{number % 3}")
        if rng.random() < 0.2:
            rows[-1]["output"] = "broken"
    return rows


def test_rows_in_any_order_score_the_same(tmp_path: Path) -> None:
    rows = many(300)
    straight = scored(write(tmp_path / "a.jsonl", rows), by=("source",))
    random.Random(1).shuffle(rows)
    shuffled = scored(write(tmp_path / "b.jsonl", rows), by=("source",))
    assert straight.documents == shuffled.documents == 300
    assert straight.source_documents == shuffled.source_documents
    # The n-th first batch goes with the n-th second one of its text: totals stay.
    assert counts(straight) == counts(shuffled)
    assert straight.rows == shuffled.rows


@pytest.mark.parametrize("parts", [2, 7])
@pytest.mark.parametrize("cores", [1, 2])
def test_parts_of_a_file_change_nothing(
    parts: int, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = many(120)
    path = write(tmp_path / "p.jsonl", rows)
    plan = EvalOptions(resamples=50, confusions=True)

    def report() -> Any:
        with evaluate(path, plan, by=("source", "type")) as evaluation:
            wrong = [document.key for document in evaluation.wrong_documents(1000)]
            return as_json(evaluation), wrong, len(evaluation.counts.confusions)

    whole = report()
    monkeypatch.setattr(predictions, "PART_BYTES", Path(path).stat().st_size // parts)
    monkeypatch.setattr(parallel, "processors", lambda: cores)
    assert report() == whole


def test_lines_are_split_between_parts_without_loss(tmp_path: Path) -> None:
    rows = many(20)
    path = write(tmp_path / "p.jsonl", rows)
    size = Path(path).stat().st_size
    options = EvalOptions(resamples=0)
    for cut in range(0, size, 97):
        parts = [count_part(path, options, span) for span in ((0, cut), (cut, size))]
        assert sum(sum(of_group[0] for of_group in part.rows) for part in parts) == len(rows)


def test_documents_are_read_again_as_they_were_scored(tmp_path: Path) -> None:
    rows = many(60)
    random.Random(2).shuffle(rows)
    path = write(tmp_path / "p.jsonl", rows)
    files = PredictionFile(path, EvalOptions(resamples=0))
    sums = files.count().document_sums("NER", 0)
    documents = [files.document(number) for number in range(len(files.counts))]
    assert len(documents) == 60
    for document, (gold, predicted, *_) in zip(documents, sums.tolist(), strict=True):
        assert document is not None
        assert (len(document.gold[0]), len(document.predicted[0])) == (gold, predicted)


def test_several_tasks_in_one_file(tmp_path: Path) -> None:
    relation = [{"head": "Ann", "relation": "lives in", "tail": "Rome"}]
    answer = '{"lives in": [{"subject": "Ann", "object": "Rome"}]}'
    rows = [*batches(), row(answer, relation, task="re")]
    path = write(tmp_path / "p.jsonl", rows)
    with evaluate(path, EvalOptions(resamples=0)) as evaluation:
        assert [scores.units[0].micro.f1 for scores in evaluation.scores.values()] == [100, 100]
    with evaluate(path, EvalOptions(task="re", resamples=0)) as evaluation:
        assert list(evaluation.scores) == ["RE"]
        assert evaluation.counts.skipped == 2


def test_records_without_a_task_take_the_named_one(tmp_path: Path) -> None:
    rows = [{key: value for key, value in one.items() if key != "task"} for one in batches()]
    assert counts(scored(write(tmp_path / "p.jsonl", rows), task="ner")) == (2, 2, 2)


def test_asked_only_leaves_out_what_was_not_asked(tmp_path: Path) -> None:
    gold = ner(("Ann", "PER"), ("Rome", "LOC"), ("Bob", "ORG"))
    rows = [row('{"PER": ["Ann"], "LOC": ["Rome"], "X": ["y"]}', gold, schema=["PER"])]
    path = write(tmp_path / "p.jsonl", rows)
    assert counts(scored(path)) == (3, 3, 2)
    assert counts(scored(path, asked_only=True)) == (1, 1, 1)


def spo(*types: str) -> list[dict[str, str]]:
    return [
        {"subject_type": s, "predicate": "by", "object_type": o} for s, o in map(str.split, types)
    ]


def typed(head_type: str, tail_type: str) -> dict[str, str]:
    return {
        "head": "Ann",
        "head_type": head_type,
        "relation": "by",
        "tail": "Bob",
        "tail_type": tail_type,
    }


ANSWER = '{"by": [{"subject": "Ann", "object": "Bob"}]}'


@pytest.mark.parametrize(
    ("schemas", "gold", "expected"),
    [
        ([spo("book person")], [typed("book", "person")], (1, 1, 1)),
        ([spo("book person")], [typed("song", "person")], (1, 1, 0)),
        # The predicate in two batches: each answer has the types that its own batch asked.
        ([spo("book person"), spo("song person")], [typed("song", "person")], (1, 2, 1)),
        (
            [spo("book person"), spo("song person")],
            [typed(t, "person") for t in ("book", "song")],
            (2, 2, 2),
        ),
        # In one batch the answer cannot say which: it counts for the one that is gold, once.
        ([spo("book person", "song person")], [typed("song", "person")], (1, 1, 1)),
        (
            [spo("book person", "song person")],
            [typed(t, "person") for t in ("book", "song")],
            (2, 1, 1),
        ),
        ([spo("book person", "song person")], [typed("film", "person")], (1, 1, 0)),
        # No schema, or no types in the gold: the triple alone decides.
        ([[]], [typed("song", "person")], (1, 1, 1)),
        ([spo("book person")], [typed("", "")], (1, 1, 1)),
    ],
)
def test_types_of_both_ends(
    schemas: list[Any], gold: list[Any], expected: tuple[int, int, int], tmp_path: Path
) -> None:
    rows = [row(ANSWER, gold, task="SPO", schema=schema) for schema in schemas]
    assert counts(scored(write(tmp_path / "p.jsonl", rows))) == expected
    asked = scored(write(tmp_path / "p.jsonl", rows), asked_only=True)
    assert counts(asked)[2] == expected[2]


def test_entities_of_attributes_are_scored_where_the_gold_says_their_type(tmp_path: Path) -> None:
    gold = [
        {"head": "Ann", "head_type": "person", "relation": "city", "tail": "Rome"},
        {"head": "Ann", "head_type": "person", "relation": "job", "tail": "vet"},
    ]
    rows = [
        row('{"person": {"Ann": {"city": "Rome"}}}', gold, task="KG", schema=["x"]),
        row('{"person": {"Ann": {"job": "vet"}, "Bob": {}}}', gold, task="KG"),
    ]
    scores = scored(write(tmp_path / "p.jsonl", rows))
    assert counts(scores) == (2, 2, 2)
    assert counts(scores, 1) == (1, 2, 1)
    bare = [{key: value for key, value in one.items() if key != "head_type"} for one in gold]
    rows = [{**one, "label": __import__("json").dumps(bare)} for one in rows]
    scores = scored(write(tmp_path / "p.jsonl", rows))
    assert counts(scores) == (2, 2, 2)
    assert counts(scores, 1) == (0, 0, 0)

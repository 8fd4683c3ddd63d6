"""Grounded results against grounded gold: offsets decide, all tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from evaluation_rows import counts, row, run, scored, write

from iepile_cli.errors import DataError, UsageError
from iepile_cli.evaluation import EvalOptions, evaluate

TEXT = "Ann met Ann in Rome"


def at(start: int, end: int, **more: Any) -> dict[str, Any]:
    return {"text": TEXT[start:end], "start": start, "end": end, **more}


def result(task: str, items: Any, **more: Any) -> dict[str, Any]:
    return {"source": "a.txt", "task": task, "answer": {}, "items": items, **more}


ANN, OTHER_ANN, ROME = at(0, 3), at(8, 11), at(15, 19)

# Task: gold items, predicted items, and (gold, predicted, correct) of each unit.
CASES: dict[str, tuple[list[Any], list[Any], list[tuple[int, int, float]]]] = {
    "NER": (
        [{"type": "PER", **ANN}, {"type": "LOC", **ROME}],
        [{"type": "PER", **OTHER_ANN, "score": 0.9}, {"type": "LOC", **ROME}],
        [(2, 2, 1)],
    ),
    "EET": ([{"type": "Meet", **at(4, 7)}], [{"type": "Meet", **at(4, 7)}], [(1, 1, 1)]),
    "RE": (
        [{"type": "in", "subject": ANN, "object": ROME}],
        [
            {"type": "in", "subject": ANN, "object": ROME},
            {"type": "in", "subject": OTHER_ANN, "object": ROME},
        ],
        [(1, 2, 1)],
    ),
    "SPO": (
        [{"type": "in", "subject_type": "P", "object_type": "L", "subject": ANN, "object": ROME}],
        [{"type": "in", "subject_type": "P", "object_type": "X", "subject": ANN, "object": ROME}],
        [(1, 1, 0)],
    ),
    "EE": (
        [
            {
                "type": "Meet",
                "trigger": at(4, 7),
                "arguments": [{"role": "who", **ANN}, {"role": "who", **OTHER_ANN}],
            }
        ],
        [{"type": "Meet", "trigger": at(4, 7), "arguments": [{"role": "who", **ANN}]}],
        [(1, 1, 1), (2, 1, 1)],
    ),
    "EEA": (
        [{"type": "Meet", "arguments": [{"role": "who", **ANN}]}],
        [{"type": "Meet", "arguments": [{"role": "where", **ROME}, {"role": "who", **ANN}]}],
        [(1, 1, 1), (1, 2, 1)],
    ),
    "KG": (
        [{"type": "person", "entity": ANN, "attributes": [{"role": "city", **ROME}]}],
        [{"type": "place", "entity": ANN, "attributes": [{"role": "city", **ROME}]}],
        [(1, 1, 1), (1, 1, 0)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_task_by_offsets(name: str, tmp_path: Path) -> None:
    gold_items, items, expected = CASES[name]
    gold = write(tmp_path / "gold.jsonl", [result(name, gold_items)])
    found = write(tmp_path / "found.jsonl", [result(name, items)])
    scores = scored(found, gold=gold)
    assert [counts(scores, number) for number in range(len(scores.units))] == expected
    perfect = scored(gold, gold=gold)
    assert all(unit.micro.f1 == 100 for unit in perfect.units)


def test_modes_compare_offsets(tmp_path: Path) -> None:
    gold = write(tmp_path / "g", [result("NER", [{"type": "PER", **at(0, 7)}])])
    found = write(tmp_path / "f", [result("NER", [{"type": "PER", **at(4, 11)}])])
    credits = [
        counts(scored(found, gold=gold, mode=mode))[2]
        for mode in ("strict", "boundary", "partial", "type")
    ]
    assert credits == [0, 0, 0.5, 1]


def test_gold_without_offsets_is_compared_by_text(tmp_path: Path) -> None:
    gold = write(tmp_path / "g", [result("NER", [{"type": "PER", "text": "Ann"}])])
    found = write(tmp_path / "f", [result("NER", [{"type": "PER", **OTHER_ANN}])])
    assert counts(scored(found, gold=gold)) == (1, 1, 1)


def test_a_mention_without_place_is_hallucinated(tmp_path: Path) -> None:
    gold = write(tmp_path / "g", [result("NER", [{"type": "PER", **ANN}])])
    invented = {"type": "PER", "text": "Zoe", "start": None, "end": None}
    found = write(tmp_path / "f", [result("NER", [invented, {"type": "PER", **ANN}])])
    scores = scored(found, gold=gold)
    assert counts(scores) == (1, 2, 1)
    assert scores.units[0].micro.hallucinated == 1
    # Also where the text is found in the file that the results name.
    (tmp_path / "a.txt").write_text("Ann met Bob.", encoding="utf-8")
    assert scored(found, gold=gold).units[0].micro.hallucinated == 1


def test_unanswered_gold_is_missed_and_answers_without_gold_are_reported(tmp_path: Path) -> None:
    entity = [{"type": "PER", **ANN}]
    gold = write(tmp_path / "g", [result("NER", entity, id=str(n)) for n in range(3)])
    found = write(
        tmp_path / "f",
        [
            result("NER", entity, id="2", truncated=True),
            result("NER", entity, id="1"),
            result("NER", entity, id="9"),
            result("NER", "oops", id="0"),
        ],
    )
    with evaluate(found, EvalOptions(resamples=0), gold=gold) as evaluation:
        scores = evaluation.scores["NER"]
        assert counts(scores) == (3, 2, 2)
        assert scores.rows["unlabelled"] == 1
        assert scores.rows["malformed"] == 1
        assert scores.rows["truncated"] == 1
        failure = evaluation.failure(None)
        assert failure is not None
        assert failure.exit_code == 3


ODD_ITEMS: list[Any] = [
    3,
    None,
    [],
    {},
    {"type": 3},
    {"type": "PER"},
    {"type": "PER", "text": None},
    {"type": "PER", "text": "Ann", "start": "0", "end": 3},
    {"type": "PER", "text": "Ann", "start": 5, "end": 2},
    {"type": "PER", "text": "Ann", "start": True, "end": 3},
    {"type": "PER", "text": "Ann", "start": -1, "end": 10**30},
]


@pytest.mark.parametrize("task", CASES)
@pytest.mark.parametrize("item", range(len(ODD_ITEMS)))
def test_odd_items_never_raise(item: int, task: str, tmp_path: Path) -> None:
    gold = write(tmp_path / "g", [result(task, CASES[task][0])])
    found = write(tmp_path / "f", [result(task, [ODD_ITEMS[item], *CASES[task][0]])])
    scores = scored(found, gold=gold, mode="partial")
    assert counts(scores)[0] == counts(scores)[2]
    odd_gold = write(tmp_path / "o", [result(task, [ODD_ITEMS[item]])])
    scored(found, gold=odd_gold)


def test_files_that_have_nothing_in_common(tmp_path: Path) -> None:
    gold = write(tmp_path / "g", [result("NER", [], id="1")])
    found = write(tmp_path / "f", [result("NER", [], id="2", source="b.txt")])
    with evaluate(found, EvalOptions(resamples=0), gold=gold) as evaluation:
        assert evaluation.scores["NER"].rows["unlabelled"] == 1
    with pytest.raises(UsageError, match="--gold cannot be combined"):
        scored(found, gold=gold, literal=True)
    empty = write(tmp_path / "e", [{"a": 1}])
    with pytest.raises(DataError, match="no result to compare"):
        scored(found, gold=empty)


BIO = "Ann B-PER\nmet O\nAnn B-PER\nin O\nRome B-LOC\n\nBob B-PER\nslept O\n"


def bio_predictions(**more: Any) -> list[dict[str, Any]]:
    """What was found in the sentences of ``BIO``: one mention is missed, one is wrong."""
    return [
        {**result("NER", [{"type": "PER", **ANN}, {"type": "LOC", **ROME}]), "text": TEXT, **more},
        {
            **result("NER", [{"type": "LOC", "text": "Bob", "start": 0, "end": 3}]),
            "text": "Bob slept",
            **more,
        },
    ]


def test_annotated_gold_is_found_by_text_and_compared_by_offsets(tmp_path: Path) -> None:
    gold = tmp_path / "gold.bio"
    gold.write_text(BIO, encoding="utf-8")
    found = write(tmp_path / "f.jsonl", reversed(bio_predictions()))
    assert counts(scored(found, gold=str(gold))) == (4, 3, 2)
    assert counts(scored(found, gold=str(gold), mode="boundary")) == (4, 3, 3)


def test_gold_forms_give_the_same_scores(tmp_path: Path) -> None:
    spans = [(0, 3, "PER"), (8, 11, "PER"), (15, 19, "LOC")]
    forms = {
        "doccano.jsonl": [
            {"text": TEXT, "label": [list(span) for span in spans]},
            {"text": "Bob slept", "label": [[0, 3, "PER"]]},
        ],
        "iepile.json": [
            {
                "text": text,
                "entity": [
                    {"entity": text[s:e], "entity_type": kind, "start": s, "end": e}
                    for s, e, kind in found
                ],
            }
            for text, found in ((TEXT, spans), ("Bob slept", [(0, 3, "PER")]))
        ],
        "prodigy.jsonl": [
            {
                "text": text,
                "answer": "accept",
                "spans": [{"start": s, "end": e, "label": kind} for s, e, kind in found],
            }
            for text, found in ((TEXT, spans), ("Bob slept", [(0, 3, "PER")]))
        ],
    }
    found = write(tmp_path / "f.jsonl", bio_predictions())
    for name, records in forms.items():
        gold = write(tmp_path / name, records)
        assert counts(scored(found, gold=gold)) == (4, 3, 2), name


def test_results_without_text_are_joined_through_the_records_they_were_made_from(
    tmp_path: Path,
) -> None:
    records = [
        {"text": TEXT, "entity": [{"entity": "Ann", "entity_type": "PER", "start": 8, "end": 11}]},
        {"text": TEXT, "entity": [{"entity": "Ann", "entity_type": "PER", "start": 0, "end": 3}]},
    ]
    gold = write(tmp_path / "gold.jsonl", records)
    rows = [
        {**result("NER", [{"type": "PER", **ANN}]), "source": gold, "line": number}
        for number in (1, 2)
    ]
    assert counts(scored(write(tmp_path / "f.jsonl", rows), gold=gold)) == (2, 2, 1)


def test_ids_join_before_texts(tmp_path: Path) -> None:
    entity = {"entity": "Ann", "entity_type": "PER"}
    gold = write(
        tmp_path / "g.jsonl",
        [{"id": "a", "text": TEXT, "entity": []}, {"id": "b", "text": TEXT, "entity": [entity]}],
    )
    rows = [{**one, "id": name} for one, name in zip(bio_predictions(), "ba", strict=True)]
    rows[1]["items"] = []
    # Without offsets in the gold, the text decides.
    assert counts(scored(write(tmp_path / "f.jsonl", rows), gold=gold)) == (1, 2, 1)


def test_rows_with_an_output_are_scored_against_annotated_gold(tmp_path: Path) -> None:
    gold = tmp_path / "gold.bio"
    gold.write_text(BIO, encoding="utf-8")
    rows = [
        row({"PER": ["Ann"]}, None, schema=["PER"], text=TEXT),
        row({"PER": ["Bob", "Zoe"]}, None, schema=["PER"], text="Bob slept"),
        row({"LOC": ["Rome"]}, None, schema=["LOC"], text=TEXT),
    ]
    # Conversion has a mention of a type once.
    assert counts(scored(write(tmp_path / "f.jsonl", rows), gold=str(gold))) == (3, 4, 3)


def test_other_tasks_are_left_out_of_a_comparison_with_gold(tmp_path: Path) -> None:
    relation = {"type": "in", "subject": ANN, "object": ROME}
    rows = [result("NER", [{"type": "PER", **ANN}]), result("RE", [relation])]
    both = write(tmp_path / "both.jsonl", rows)
    with evaluate(both, EvalOptions(task="NER", resamples=0), gold=both) as evaluation:
        assert evaluation.counts.unreadable == 0
        assert evaluation.counts.skipped == 1
        assert evaluation.failure(None) is None
        assert counts(evaluation.scores["NER"]) == (1, 1, 1)
    with evaluate(both, EvalOptions(resamples=0), gold=both) as evaluation:
        assert set(evaluation.scores) == {"NER", "RE"}


def test_documents_compared_by_offsets_are_read_again(tmp_path: Path) -> None:
    gold = tmp_path / "gold.bio"
    gold.write_text(BIO, encoding="utf-8")
    found = write(tmp_path / "f.jsonl", bio_predictions())
    with evaluate(found, EvalOptions(resamples=0), gold=str(gold)) as evaluation:
        wrong = [document.text for document in evaluation.wrong_documents()]
    assert wrong == [TEXT, "Bob slept"]


def test_mentions_by_text_count_once_on_both_sides(tmp_path: Path) -> None:
    """Results have every mention; annotation without offsets has each name once."""
    gold = write(
        tmp_path / "g.jsonl",
        [{"text": TEXT, "entity": [{"entity": "Ann", "entity_type": "PER"}]}],
    )
    both = [{"type": "PER", **ANN}, {"type": "PER", **OTHER_ANN}]
    found = write(tmp_path / "f.jsonl", [{**result("NER", both), "text": TEXT}])
    assert counts(scored(found, gold=gold)) == (1, 1, 1)


def test_gold_may_come_from_standard_input_and_its_form_may_be_named(tmp_path: Path) -> None:
    found = write(tmp_path / "f.jsonl", bio_predictions())
    named = tmp_path / "gold.txt"
    named.write_text(BIO, encoding="utf-8")
    done = run(found, "--gold", str(named), "--gold-from", "bio", "--json", "-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["tasks"]["NER"]["units"]["entity"]["micro"]["correct"] == 2
    command = [
        sys.executable,
        "-m",
        "iepile_cli",
        "eval",
        found,
        "--gold",
        "-",
        "--baseline",
        found,
    ]
    piped = subprocess.run(command, input=Path(found).read_bytes(), capture_output=True, check=True)
    assert b"micro\t100.00" in piped.stdout
    assert b"= +0.00" in piped.stderr

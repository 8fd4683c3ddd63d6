"""The quick ways through rows and documents say what the careful ways say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_cli.evaluation import EvalOptions, batches, documents, matching
from iepile_cli.evaluation.counts import DIGEST, END, FIRST, GROUP, OUTCOMES, Counts
from iepile_cli.evaluation.facts import FactReader
from iepile_cli.evaluation.predictions import count_part

# Few and short, so that types, mentions and texts often coincide.
WORDS = st.sampled_from(["a", "b", "ab", "é", 'a"b', "a\\", "\ud800", ""])
ODD = st.sampled_from([None, 1, True, [], ["a"], {}, {"a": ["a"]}])
MOSTLY = st.one_of(WORDS, WORDS, WORDS, WORDS, ODD)


def entries(keys: list[str]) -> st.SearchStrategy[Any]:
    fields = st.fixed_dictionaries(dict.fromkeys(keys, MOSTLY))
    usual = st.lists(st.one_of(fields, fields, fields, MOSTLY), max_size=15)
    return st.one_of(usual, usual, usual, MOSTLY)


TASKS = {
    "NER": (entries(["entity", "entity_type"]), WORDS),
    "RE": (
        entries(["head", "relation", "tail"]),
        st.fixed_dictionaries({"subject": MOSTLY, "object": MOSTLY}),
    ),
    "EE": (
        entries(["event_type", "event_trigger", "arguments"]),
        st.fixed_dictionaries({"trigger": MOSTLY, "arguments": MOSTLY}),
    ),
}


@st.composite
def row(draw: st.DrawFn) -> dict[str, Any]:
    task = draw(st.sampled_from(list(TASKS)))
    gold, thing = TASKS[task]
    answers = st.dictionaries(WORDS, st.one_of(st.lists(st.one_of(thing, MOSTLY)), MOSTLY))
    asked = {"instruction": "Go.", "schema": draw(st.lists(WORDS, max_size=2))}
    output = json.dumps(draw(st.one_of(answers, answers, answers, ODD)))
    broken = st.sampled_from([output[:-1], "{}", '{"a": NaN}', f"{output} ."])
    made: dict[str, Any] = {
        "id": draw(st.sampled_from(["1", "2", 3])),
        "task": task,
        "source": draw(st.sampled_from(["s", "s", "t", None])),
        "instruction": json.dumps({**asked, "input": draw(WORDS) + draw(WORDS)}),
        "label": json.dumps(draw(gold)),
        "output": draw(st.one_of(st.just(output), st.just(output), broken)),
    }
    if draw(st.integers(0, 9)) == 0:
        made["truncated"] = draw(st.sampled_from([True, False, 1]))
    for key in draw(st.sampled_from([(), (), (), ("label",), ("source",), ("instruction",)])):
        made[key] = draw(MOSTLY)
    return made


def content(counts: Counts) -> Any:
    """All that counts say, whatever the order in which they number types."""
    labels, groups = list(counts.labels), list(counts.groups)
    documents = counts.document_table().tolist()
    outcomes = [
        (number, labels[code // OUTCOMES], code % OUTCOMES)
        for number, code in zip(
            counts.document_of_code().tolist(), counts.code_table().tolist(), strict=True
        )
    ]
    return [
        [(row[DIGEST], groups[row[GROUP]], row[FIRST], row[END]) for row in documents],
        sorted(outcomes),
        [
            (number, *(labels[label] if label >= 0 else None for label in pair))
            for number, *pair in counts.confusion_table().tolist()
        ],
        dict(zip(groups, counts.rows, strict=True)),
        (counts.unreadable, counts.skipped, counts.first_unreadable),
    ]


def refuse(*_: object) -> Any:
    """A typed decoder to which nothing is usual."""
    raise ValueError


class Untyped(FactReader):
    """Reads every answer and label step by step."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.add_usual_answer = self.read_usual_label = refuse


@settings(max_examples=250, deadline=None)
@given(
    rows=st.lists(row(), max_size=8),
    options=st.builds(
        EvalOptions,
        mode=st.sampled_from(["strict", "strict", "partial"]),
        match=st.sampled_from(["multiset", "multiset", "set"]),
        asked_only=st.booleans(),
        repair=st.booleans(),
        confusions=st.booleans(),
    )
    | st.sampled_from(
        [EvalOptions(), EvalOptions(), EvalOptions(repair=True), EvalOptions(literal=True)]
    ),
)
def test_quick_ways_agree_with_careful_ones(
    rows: list[dict[str, Any]], options: EvalOptions, tmp_path_factory: Any
) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "rows.jsonl"
    # Twice, as what is met again takes the quick way.
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 2), encoding="utf-8")
    span = (0, path.stat().st_size)
    quick = count_part(str(path), options, span)
    with (
        patch.object(documents, "FactReader", Untyped),
        patch.object(documents, "decode_row", refuse),
        patch.object(batches, "decode_instruction", refuse),
        patch.object(matching, "FEW", -1),
    ):
        careful = count_part(str(path), options, span)
    assert content(quick) == content(careful)

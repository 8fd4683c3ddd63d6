"""The quick ways through rows and documents say what the careful ways say."""

from __future__ import annotations

import json
from operator import itemgetter
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_cli.evaluation import Plan, scan
from iepile_cli.evaluation.sheet import CELL, CONFUSION, Sheet
from iepile_cli.evaluation.tally import DIGEST, DOCUMENT, END, FIRST, GROUP, Tally

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


def content(sheet: Sheet) -> Any:
    """All that a sheet says, whatever the order in which it numbers types."""
    tally = Tally()
    tally.absorb(sheet)
    labels, groups = list(tally.labels), list(tally.groups)
    documents, cells, confusions = (
        [list(numbers[at : at + width]) for at in range(0, len(numbers), width)]
        for numbers, width in (
            (tally.documents, DOCUMENT),
            (tally.cells, CELL),
            (tally.confusions, CONFUSION),
        )
    )
    return [
        [(row[DIGEST], groups[row[GROUP]], row[FIRST], row[END]) for row in documents],
        sorted(((number, labels[label], *counts) for number, label, *counts in cells), key=repr),
        [
            (number, *(labels[label] if label >= 0 else None for label in pair), times)
            for number, *pair, times in confusions
        ],
        dict(zip(groups, tally.row_counts, strict=True)),
        (tally.unreadable, tally.skipped, tally.first_unreadable),
    ]


@settings(max_examples=250, deadline=None)
@given(
    rows=st.lists(row(), max_size=8),
    plan=st.builds(
        Plan,
        mode=st.sampled_from(["strict", "strict", "partial"]),
        match=st.sampled_from(["multiset", "multiset", "set"]),
        asked_only=st.booleans(),
        repair=st.booleans(),
        confusions=st.booleans(),
    )
    | st.sampled_from([Plan(), Plan(), Plan(repair=True), Plan(literal=True)]),
)
def test_quick_ways_agree_with_careful_ones(
    rows: list[dict[str, Any]], plan: Plan, tmp_path_factory: Any
) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "rows.jsonl"
    # Twice, as what is met again takes the quick way.
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 2), encoding="utf-8")
    size = path.stat().st_size
    quick = scan.scan(str(path), plan, 0, size)
    with (
        patch.object(scan, "is_plain", lambda plan: False),
        patch.object(scan, "_USUAL", itemgetter(None)),
        patch("iepile_cli.evaluation.document.FEW", -1),
    ):
        careful = scan.scan(str(path), plan, 0, size)
    assert content(quick) == content(careful)

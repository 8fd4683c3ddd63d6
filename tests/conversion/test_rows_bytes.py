"""The quick way of making rows gives the bytes that ``json.dumps`` gives."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_cli.conversion import Plan
from iepile_cli.conversion.convert_record import Converter
from iepile_cli.conversion.record_gold import (
    distinct_entries,
    gold_labels,
    key_of_gold,
    read_annotation,
)
from iepile_cli.conversion.rows import id_of
from iepile_cli.conversion.sampling import Sampler
from iepile_cli.task.instruction import answer_json, dumps, instruction_json
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS

LETTERS = 'ab"\\\n\t\x00\x1f\x7f/\u2028é中😀 \ud7ff'
words = st.text(LETTERS, min_size=1, max_size=4)
names = st.text('ab"\\ 中', min_size=1, max_size=3)


def plain_rows(plan: Plan, record: dict[str, Any], number: int) -> list[bytes]:
    """What a record becomes, written with ``task/instruction.py`` and ``json.dumps`` alone."""
    task, text = plan.task, record["text"]
    entries = distinct_entries(task.layout, record[task.layout.field])
    gold = read_annotation(task, entries, plan.items)
    rows = []
    sampler = Sampler(plan)
    for requests in sampler.batches(gold_labels(task, gold, text), number):
        batch = tuple(map(sampler.item, requests))
        asked = instruction_json(task, batch, text, plan.language)
        row: dict[str, Any] = {"task": task.name, "source": plan.source, "instruction": asked}
        if plan.split == "test":
            row = {"id": id_of(text), **row, "label": dumps(entries)}
        else:
            found = [(item, [one.roles for one in gold if one.answers(item)]) for item in batch]
            row["output"] = dumps(answer_json(task, found, text))
        rows.append(dumps(row).encode() + b"\n")
    return rows


@st.composite
def cases(draw: st.DrawFn) -> tuple[Plan, dict[str, Any]]:
    task = TASKS[draw(st.sampled_from(sorted(TASKS)))]
    text = " ".join(draw(st.lists(words, min_size=1, max_size=6)))
    kinds = draw(st.lists(names, min_size=1, max_size=9, unique=True))
    slots = tuple(draw(st.lists(names, min_size=1, max_size=4, unique=True)))
    typed = bool(task.layout.subject_type)
    items = tuple(
        SchemaItem(kind, slots if task.slots else (), *(("s", "o") if typed else ()))
        for kind in kinds
    )
    if typed:
        items += tuple(SchemaItem(kind, (), "t", "o") for kind in kinds[:2])
    mention = st.one_of(st.sampled_from(text.split() or [text]), words)
    roles = dict(task.layout.roles)
    entry = st.fixed_dictionaries(
        {key: mention for key in roles.values()}
        | {task.layout.type: st.sampled_from([*kinds, "stray"])}
        | ({"head_type": st.sampled_from("st"), "tail_type": st.just("o")} if typed else {})
        | (
            {
                "arguments": st.lists(
                    st.fixed_dictionaries(
                        {"argument": mention, "role": st.sampled_from([*slots, "stray"])}
                    ),
                    max_size=3,
                )
            }
            if task.layout.slot_list
            else {}
        )
        | ({"relation": st.sampled_from(slots), "tail": mention} if task.layout.by_head else {})
    )
    record = {"text": text, task.layout.field: draw(st.lists(entry, max_size=5))}
    plan = Plan(
        task.name,
        items,
        split=draw(st.sampled_from(["train", "test"])),
        source=draw(names),
        language=draw(st.sampled_from(["en", "zh"])),
        split_num=draw(st.sampled_from([None, -1, 1, 2, 3])),
        neg_ratio=draw(st.sampled_from([0, 0.5, 1, -1])),
        shuffle=draw(st.booleans()),
        seed=draw(st.integers(-5, 5)),
    )
    return plan, record


@settings(max_examples=300, deadline=None)
@given(cases(), st.integers(1, 10**9))
def test_quick_rows_are_the_bytes_of_plain_ones(
    case: tuple[Plan, dict[str, Any]], number: int
) -> None:
    plan, record = case
    if plan.task.gold_types_only and not record[plan.task.layout.field]:
        expected = []
    elif plan.task.gold_types_only:
        plan_rows = plain_rows(plan, record, number)
        expected = plan_rows
    else:
        expected = plain_rows(plan, record, number)
    raw = dumps(record).encode()
    rows, empty, *_ = Converter(plan).convert(raw, number, lambda kind, what: None)
    assert rows == expected
    general = Converter(plan, fast=False).convert(raw, number, lambda k, w: None)
    assert general.rows == expected
    if plan.split == "train":
        answers = [json.loads(json.loads(row)["output"]) for row in rows]
        assert empty == [not any(answer.values()) for answer in answers]


def test_many_ordinary_records_take_the_quick_way() -> None:
    dice = random.Random(3)
    kinds = [f"type {number}" for number in range(18)]
    plan = Plan("NER", tuple(map(SchemaItem, kinds)), source="s", language="en")
    converter = Converter(plan)
    assert converter.quick is not None
    for number in range(1, 300):
        tokens = [dice.choice(["Ann", "Bob", "of", "Rome", "IBM", "the"]) for _ in range(30)]
        entries = [
            {"entity": dice.choice(tokens), "entity_type": dice.choice(kinds)} for _ in range(4)
        ]
        record = {"text": " ".join(tokens), "entity": entries}
        raw = json.dumps(record).encode()
        assert converter.quick.read(raw) is not None
        made = converter.convert(raw, number, lambda kind, what: None)
        assert made.rows == plain_rows(plan, record, number)


def test_a_negative_zero_in_a_label_is_written_as_python_writes_it() -> None:
    plan = Plan("NER", (SchemaItem("a"),), split="test", source="s", language="en")
    raw = b'{"text": "b", "entity": [{"entity": "b", "entity_type": "a", "start": -0}]}'
    rows = [
        Converter(plan, fast=fast).convert(raw, 1, lambda kind, what: None).rows
        for fast in (True, False)
    ]
    assert rows[0] == rows[1]
    assert json.loads(json.loads(rows[0][0])["label"])[0]["start"] == 0


def test_items_that_share_a_predicate_share_its_list_in_the_order_of_the_text() -> None:
    items = (SchemaItem("r", (), "s", "o"), SchemaItem("r", (), "t", "o"))
    plan = Plan("SPO", items, source="s", language="en")
    ends = [("c", "t", "d"), ("a", "s", "b"), ("a", "s", "b")]
    entries = [
        {"head": head, "head_type": kind, "relation": "r", "tail": tail, "tail_type": "o"}
        for head, kind, tail in ends
    ]
    raw = dumps({"text": "a b c d", "relation": entries}).encode()
    for fast in (True, False):
        (row,) = Converter(plan, fast=fast).convert(raw, 1, lambda kind, what: None).rows
        pairs = [{"subject": "a", "object": "b"}, {"subject": "c", "object": "d"}]
        assert json.loads(json.loads(row)["output"]) == {"r": pairs}


def test_gold_keys_tell_typed_relations_apart() -> None:
    task = TASKS["SPO"]
    entry = {"head": "a", "head_type": "S", "relation": "r", "tail": "b", "tail_type": "O"}
    (gold,) = read_annotation(task, [entry], ())
    assert key_of_gold(gold) == ("r", "S", "O")

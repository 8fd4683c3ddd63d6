"""Answers of converted corpora parse back to exactly the gold annotations."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED

from iepile_cli.conversion import Plan
from iepile_cli.conversion.convert_record import Converter
from iepile_cli.conversion.record_gold import distinct_entries, read_annotation
from iepile_cli.task.instruction import answer_json, parse_answer, parse_instruction
from iepile_cli.task.records import Gold, distinct, read_annotations, write_annotations
from iepile_cli.task.schema import read_schema_file
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS, Task

SAMPLE = 120
OTHERS = {"EE": ("EET", "EEA"), "RE": ("SPO", "KG")}


def sets() -> list[Any]:
    """Every set of the corpora, with each task that its records hold the fields for."""
    found = []
    for schema in sorted(SHARED.glob("data/IE-*/*/**/schema.json")):
        name = schema.parent.parent.name
        for task in (name, *OTHERS.get(name, ())):
            if task != "SPO" or schema.with_name("schema_spo.json").is_file():
                found.append(pytest.param(schema.parent, task, id=f"{schema.parent.name}-{task}"))
    return found


def items_for(folder: Path, task: Task) -> tuple[SchemaItem, ...]:
    if task.layout.by_head:
        schema: dict[str, set[str]] = {}
        for record in records_of(folder):
            for entry in record["relation"]:
                if "head_type" in entry:
                    schema.setdefault(entry["head_type"], set()).add(entry["relation"])
        return tuple(SchemaItem(kind, tuple(sorted(slots))) for kind, slots in schema.items())
    name = "schema_spo.json" if task.layout.subject_type else "schema.json"
    path = folder / name
    if task.layout.subject_type:
        # That file has one line only.
        return tuple(read_schema_file(path, task)[1])
    return tuple(read_schema_file(path, task)[1])


def records_of(folder: Path) -> list[dict[str, Any]]:
    path = next(
        folder / name
        for name in ("dev.json", "test.json", "train.json")
        if (folder / name).is_file()
    )
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in itertools.islice(file, 0, SAMPLE * 5, 5)]


def things(task: Task, gold: Iterable[Gold]) -> Counter[Any]:
    """Gold as it can be told from an answer: repetitions of a filler and order do not count."""
    seen: Counter[Any] = Counter()
    for thing in gold:
        roles = frozenset(thing.roles) if task.slots else thing.roles
        if thing.roles:
            seen[thing.type, roles] += 1
    return seen


@pytest.mark.parametrize(("folder", "name"), sets())
@pytest.mark.parametrize("ratio", [1, 0.3])
def test_corpora_come_back(folder: Path, name: str, ratio: float) -> None:
    task = TASKS[name]
    items = items_for(folder, task)
    if not items:
        pytest.skip("no typed heads in this set")
    plan = Plan(task.name, items, source="s", neg_ratio=ratio, shuffle=ratio < 1).check()
    converter = Converter(plan)
    for number, record in enumerate(records_of(folder), 1):
        raw = json.dumps(record).encode()
        rows = converter.convert(raw, number, lambda kind, what: None).rows
        entries = distinct_entries(task.layout, record[task.layout.field])
        gold = read_annotation(task, entries, items)
        # What no answer can show: events without any argument, where triggers are given.
        shown = [thing for thing in gold if not task.gold_types_only or len(thing.roles) > 1]
        back: list[Gold] = []
        for row in map(json.loads, rows):
            ask = parse_instruction(task, row["instruction"])
            problems: list[str] = []
            parsed = parse_answer(task, ask.items, json.loads(row["output"]), problems)
            assert problems == []
            for key in dict.fromkeys(item.type for item in ask.items):
                # Typed relations that share a predicate share its list.
                item, found = next(pair for pair in parsed if pair[0].type == key)
                back += [Gold(item.type, roles) for roles in found]
        expected = [
            Gold(thing.type, tuple(pair for pair in thing.roles if pair[0] != "trigger"))
            if task.gold_types_only
            else Gold(thing.type, thing.roles)
            for thing in shown
        ]
        assert things(task, back) == things(task, expected)


@pytest.mark.parametrize(("folder", "name"), sets())
def test_annotations_can_be_written_again(folder: Path, name: str) -> None:
    task = TASKS[name]
    for record in records_of(folder)[:40]:
        gold = read_annotations(task, record[task.layout.field], [])
        assert read_annotations(task, write_annotations(task, gold), []) == gold
        assert len(distinct(gold)) <= len(gold)


def test_answers_keep_the_order_of_the_text() -> None:
    task = TASKS["NER"]
    found = [(SchemaItem("person"), [(("mention", "Bob"),), (("mention", "Ann"),)])]
    assert answer_json(task, found, "Ann met Bob") == {"person": ["Ann", "Bob"]}

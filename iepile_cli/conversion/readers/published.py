"""Converted rows back into unified records: the published IEPile files, and our own.

A record's rows each ask some of its types. Rows that follow one another with the same task,
source and text are put together again, until one asks what was asked already. What was never asked
of a text is not known, so such records show only part of a schema: take all types that they may
hold from their own rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from iepile_cli.conversion.chunks import Chunk
from iepile_cli.conversion.record_gold import UNFIT, Problem, Unusable, read_json
from iepile_cli.errors import UnknownName
from iepile_cli.task.instruction import Instruction, dumps, parse_answer, parse_instruction
from iepile_cli.task.records import Gold, write_annotations
from iepile_cli.task.table import Task, task_named


def is_row(record: dict[str, Any]) -> bool:
    """Whether a record is a converted row: an instruction with an output or a label."""
    asked = record.get("instruction")
    return (
        isinstance(asked, str)
        and asked.lstrip().startswith("{")
        and ("output" in record or "label" in record)
    )


def read_published(
    chunks: Iterable[Chunk], task_name: str | None
) -> Iterator[tuple[int, bytes] | Problem]:
    """Unified records out of rows; with ``task_name`` only those of that task."""
    held: dict[str, Any] | None = None
    identity: tuple[Any, ...] = ()
    held_line = 0
    asked: set[str] = set()
    for line, row in _rows(chunks):
        if isinstance(row, Problem):
            yield row
            continue
        try:
            task = task_named(str(row.get("task", task_name or "")))
            if task_name is not None and task.name != task_name:
                continue
            ask, entries = _gold(task, row)
        except UnknownName:
            yield Problem(line, UNFIT, f"task {row.get('task')!r} is not known")
            continue
        except (ValueError, TypeError, AttributeError) as error:
            yield Problem(line, UNFIT, str(error))
            continue
        same = (task.name, row.get("source"), row.get("id"), ask.text)
        # A record asks each part of its schema once: a second time it is an equal record's.
        if held is None or same != identity or row["instruction"] in asked:
            if held is not None:
                yield held_line, dumps(held).encode()
            held, identity, held_line = {"text": ask.text, task.layout.field: []}, same, line
            asked.clear()
        asked.add(row["instruction"])
        if "label" in row:
            held[task.layout.field] = entries
        else:
            held[task.layout.field] += entries
    if held is not None:
        yield held_line, dumps(held).encode()


def _rows(chunks: Iterable[Chunk]) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    for chunk in chunks:
        yield from ((problem.line, problem) for problem in chunk.problems)
        for index, raw in chunk.records():
            line = chunk.line_of(index)
            try:
                row = read_json(raw)
            except Unusable as problem:
                yield line, Problem(line, problem.kind, problem.what)
                continue
            if isinstance(row, dict) and is_row(row):
                yield line, row
            else:
                yield line, Problem(line, UNFIT, "no row with an instruction and an output")


def _gold(task: Task, row: dict[str, Any]) -> tuple[Instruction, list[dict[str, Any]]]:
    ask = parse_instruction(task, row["instruction"])
    if "label" in row:
        label = json.loads(row["label"])
        if not isinstance(label, list):
            raise ValueError("the label is not a list")
        return ask, label
    answer = json.loads(row["output"])
    problems: list[str] = []
    found = parse_answer(task, ask.items, _current_keys(task, answer), problems)
    gold = []
    for item, items in found:
        # Items that share a key share its answer: it is taken once, for the first of them.
        first = next(other for other in ask.items if other.type == item.type)
        given = item.trigger if isinstance(item.trigger, tuple) and len(item.trigger) == 1 else ()
        for roles in items if item is first else ():
            trigger = [("trigger", word) for word in given]
            whole = (*trigger, *roles) if not dict(roles).get("trigger") else roles
            gold.append(Gold(item.type, tuple(whole), item.subject_type, item.object_type))
    return ask, write_annotations(task, gold)


def _current_keys(task: Task, answer: Any) -> Any:
    """An answer with the keys of older files (head and tail, events' arguments) as they are now."""
    if not isinstance(answer, dict):
        raise ValueError("the output is not an object")
    names = {key: role for role, key in task.layout.roles if key != role}
    nested = task.slots if task.gold_types_only else ""

    def current(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        if nested and isinstance(part.get(nested), dict):
            return part[nested]
        if names and not task.slots:
            return {names.get(key, key): value for key, value in part.items()}
        return part

    return {
        key: [current(part) for part in value] if isinstance(value, list) else value
        for key, value in answer.items()
    }

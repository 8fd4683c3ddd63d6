"""One record's annotation, read and checked: what it has, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from iepile_cli.conversion.choosing import Key, Parts
from iepile_cli.task.instruction import dumps
from iepile_cli.task.records import Gold, read_annotations
from iepile_cli.task.shape import SchemaItem, slot_name
from iepile_cli.task.table import Layout, Task

# Kinds of problem. Records with one of the first kinds cannot be used; the others are kept.
NOT_JSON = "not JSON"
NO_TEXT = "no text"
NO_GOLD = "not annotated"
BAD_GOLD = "annotation that cannot be read"
UNFIT = "cannot be read as a record"
NOT_IN_TEXT = "mention not in the text"
NOT_IN_SCHEMA = "type not in the schema"
SAME_ID = "id used before"
KEPT = (NOT_IN_TEXT, NOT_IN_SCHEMA, SAME_ID)


class Unusable(Exception):
    """A record that cannot be used: the kind of problem and what exactly."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what


class Problem(NamedTuple):
    """Something wrong with a record: where (line), which kind, what."""

    line: int
    kind: str
    what: str


def text_of(record: Any) -> str:
    """The text of a record: its ``text``, or ``input`` as older InstructIE records have it.

    Raises ``Unusable``.
    """
    if not isinstance(record, dict):
        raise Unusable(UNFIT, "not an object")
    text = record.get("text", record.get("input"))
    if not isinstance(text, str):
        raise Unusable(NO_TEXT, "no 'text'" if text is None else "'text' is not a string")
    return text


def distinct_entries(layout: Layout, entries: Any) -> Any:
    """The annotation without entries that repeat an earlier one in what counts."""
    if not layout.unique or not isinstance(entries, list):
        return entries
    seen: set[tuple[str, ...]] = set()
    kept = []
    for entry in entries:
        if isinstance(entry, dict):
            identity = tuple(
                value if isinstance(value := entry.get(key), str) else dumps(value)
                for key in layout.unique
            )
            if identity in seen:
                continue
            seen.add(identity)
        kept.append(entry)
    return kept


def read_gold(task: Task, entries: Any, items: Sequence[SchemaItem]) -> list[Gold]:
    """Read an annotation list; raises ``Unusable`` when an entry cannot be read."""
    problems: list[str] = []
    gold = read_annotations(task, entries, problems)
    if problems:
        raise Unusable(BAD_GOLD, problems[0])
    if task.layout.by_head:
        return [thing if thing.type else _typed(thing, items) for thing in gold]
    return gold


def _typed(thing: Gold, items: Sequence[SchemaItem]) -> Gold:
    """Give a head without a type the first type that has the most of its attributes.

    Upstream's records name no type for heads and its converter puts all under the first type of
    the schema (bug C07d).
    """
    own = {slot_name(role) for role, _ in thing.roles[1:]}
    best = max(items, key=lambda item: len(own.intersection(item.slots)), default=None)
    return thing._replace(type=best.type) if best is not None else thing


def key_of_gold(thing: Gold) -> Key:
    """The key of the schema item that a thing answers."""
    typed = thing.subject_type or thing.object_type
    return (thing.type, thing.subject_type, thing.object_type) if typed else thing.type


def parts_of(task: Task, gold: Iterable[Gold], text: str) -> dict[Key, Parts]:
    """What the gold has of each type, slots and triggers, in order of first appearance."""
    fixed = {role for role, _ in task.layout.roles}
    own: dict[Key, tuple[dict[str, None], dict[str, None]]] = {}
    for thing in gold:
        slots, triggers = own.setdefault(key_of_gold(thing), ({}, {}))
        for role, mention in thing.roles:
            if role in fixed:
                triggers[mention] = None
            else:
                slots[slot_name(role)] = None
    return {
        key: Parts(tuple(slots), tuple(sorted(triggers, key=text.find)))
        for key, (slots, triggers) in own.items()
    }


def doubts(
    task: Task, gold: Iterable[Gold], text: str, known: Mapping[Key, SchemaItem]
) -> Iterator[tuple[str, str]]:
    """What is odd about gold that is kept all the same: kinds of problem, and what exactly."""
    fixed = {role for role, _ in task.layout.roles}
    for thing in gold:
        for _, mention in thing.roles:
            if mention not in text:
                yield NOT_IN_TEXT, f"{mention!r} ({thing.type})"
        item = known.get(key_of_gold(thing))
        if item is None:
            yield NOT_IN_SCHEMA, repr(thing.type)
        elif task.slots:
            strange = dict.fromkeys(
                name
                for role, _ in thing.roles
                if role not in fixed and (name := slot_name(role)) not in item.slots
            )
            for name in strange:
                yield NOT_IN_SCHEMA, f"{name!r} of {thing.type!r}"

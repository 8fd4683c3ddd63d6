"""One record's annotation: what it has, where that stands in the text, and what is wrong with it.

Where mentions stand is told by keys of an entry: ``start`` and ``end`` where it has one fixed role
(entities, events) and in an event's arguments, else ``head_start``, ``head_end``, ``tail_start``
and ``tail_end``. Offsets count characters; ``text[start:end]`` is the mention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import orjson

from iepile_cli.task.instruction import dumps
from iepile_cli.task.records import Gold, read_annotations, write_annotations
from iepile_cli.task.shape import SchemaItem, slot_name
from iepile_cli.task.table import TASKS, Layout, Task

# What gold must agree in to answer a schema item: its type, for typed relations all three.
Key: TypeAlias = str | tuple[str, str, str]

Span: TypeAlias = tuple[int, int]

# The fields of a record that hold annotation.
FIELDS = tuple(dict.fromkeys(task.layout.field for task in TASKS.values()))

# Kinds of problem with records that cannot be used ...
NOT_JSON = "not JSON"
NO_TEXT = "no text"
NO_GOLD = "not annotated"
BAD_GOLD = "annotation that cannot be read"
UNFIT = "cannot be read as a record"
# ... of what is kept all the same ...
NOT_IN_TEXT = "mention not in the text"
NOT_IN_SCHEMA = "type not in the schema"
SAME_ID = "id used before"
PART_LOST = "part of the annotation left out"
KEPT = (NOT_IN_TEXT, NOT_IN_SCHEMA, SAME_ID, PART_LOST)
# ... and of records that are left out on purpose, so that nothing is missing.
NOT_ACCEPTED = "not accepted by the annotator"
LEFT_OUT = (NOT_ACCEPTED,)


class Unusable(Exception):
    """A record that cannot be used: the kind of problem and what exactly."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what


class Problem(NamedTuple):
    """Something wrong with a record: where (line, from 1), which kind, what."""

    line: int
    kind: str
    what: str


class GoldSlots(NamedTuple):
    """What a record's gold of one type has: slot names and trigger words, first ones first."""

    slots: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()


GoldLabels: TypeAlias = Mapping[Key, GoldSlots]


def key_of(item: SchemaItem) -> Key:
    """The key under which gold answers an item."""
    typed = item.subject_type or item.object_type
    return (item.type, item.subject_type, item.object_type) if typed else item.type


def item_of(key: Key) -> SchemaItem:
    """A bare schema item for a type that the schema lacks."""
    return SchemaItem(key) if isinstance(key, str) else SchemaItem(key[0], (), key[1], key[2])


def key_of_gold(gold: Gold) -> Key:
    """The key of the schema item that gold answers."""
    typed = gold.subject_type or gold.object_type
    return (gold.type, gold.subject_type, gold.object_type) if typed else gold.type


def read_json(raw: bytes) -> Any:
    """Decode one record; raises ``Unusable``."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Unusable(NOT_JSON, error.msg) from None


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


def read_annotation(task: Task, entries: Any, items: Sequence[SchemaItem]) -> list[Gold]:
    """Read an annotation list; raises ``Unusable`` when an entry cannot be read."""
    problems: list[str] = []
    gold = read_annotations(task, entries, problems)
    if problems:
        raise Unusable(BAD_GOLD, problems[0])
    if task.layout.by_head:
        return [one if one.type else _typed(one, items) for one in gold]
    return gold


def _typed(gold: Gold, items: Sequence[SchemaItem]) -> Gold:
    """Give a head without a type the first type that has the most of its attributes.

    Upstream's records name no type for heads and its converter puts all under the first type of
    the schema (bug C07d).
    """
    own = {slot_name(role) for role, _ in gold.roles[1:]}
    best = max(items, key=lambda item: len(own.intersection(item.slots)), default=None)
    return gold._replace(type=best.type) if best is not None else gold


def gold_labels(task: Task, gold: Iterable[Gold], text: str) -> dict[Key, GoldSlots]:
    """What the gold has of each type, slots and triggers, in order of first appearance."""
    fixed = {role for role, _ in task.layout.roles}
    labels: dict[Key, tuple[dict[str, None], dict[str, None]]] = {}
    for one in gold:
        slots, triggers = labels.setdefault(key_of_gold(one), ({}, {}))
        for role, mention in one.roles:
            if role in fixed:
                triggers[mention] = None
            else:
                slots[slot_name(role)] = None
    return {
        key: GoldSlots(
            tuple(slots),
            tuple(sorted(triggers, key=text.find)) if len(triggers) > 1 else tuple(triggers),
        )
        for key, (slots, triggers) in labels.items()
    }


def warnings(
    task: Task, gold: Iterable[Gold], text: str, known: Mapping[Key, SchemaItem]
) -> Iterator[tuple[str, str]]:
    """What is odd about gold that is kept all the same: kinds of problem, and what exactly."""
    fixed = {role for role, _ in task.layout.roles}
    for one in gold:
        for _, mention in one.roles:
            if mention not in text:
                yield NOT_IN_TEXT, f"{mention!r} ({one.type})"
        item = known.get(key_of_gold(one))
        if item is None:
            yield NOT_IN_SCHEMA, repr(one.type)
        elif task.slots:
            names = dict.fromkeys(slot_name(role) for role, _ in one.roles if role not in fixed)
            for name in names:
                if name not in item.slots:
                    yield NOT_IN_SCHEMA, f"{name!r} of {one.type!r}"


# -------------------------------------------------------------------- where it stands in the text


class GoldItem(NamedTuple):
    """One annotated item, and for each of its roles the span in the text where it is known."""

    gold: Gold
    spans: tuple[Span | None, ...]


def _keys(layout: Layout, key: str) -> tuple[str, str]:
    alone = len(layout.roles) == 1 and not layout.by_head
    return ("start", "end") if alone else (f"{key}_start", f"{key}_end")


def gold_items(task: Task, entries: Any, text: str, problems: list[str]) -> list[GoldItem]:
    """Read an annotation list as ``read_annotations`` does, with the spans that entries name.

    A span that does not hold its mention is left out.
    """
    if not isinstance(entries, list):
        read_annotations(task, entries, problems)
        return []
    items: list[GoldItem] = []
    for entry in entries:
        gold = read_annotations(task, [entry], problems)
        items += [GoldItem(one, _spans(task.layout, entry, text)) for one in gold]
    return _by_head(items) if task.layout.by_head else items


def _spans(layout: Layout, entry: Mapping[str, Any], text: str) -> tuple[Span | None, ...]:
    spans = [
        _span(entry, key, _keys(layout, key), text) for _, key in layout.roles if _named(entry, key)
    ]
    if layout.by_head and _fills_slot(layout, entry):
        spans.append(_span(entry, layout.slot_text, _keys(layout, layout.slot_text), text))
    parts = entry.get(layout.slot_list, []) if layout.slot_list else []
    for part in parts if isinstance(parts, list) else [parts]:
        if isinstance(part, dict) and _fills_slot(layout, part):
            spans.append(_span(part, layout.slot_text, ("start", "end"), text))
    return tuple(spans)


def _fills_slot(layout: Layout, part: Mapping[str, Any]) -> bool:
    """Whether ``read_annotations`` makes a role of a part."""
    return isinstance(part.get(layout.slot_role), str) and _named(part, layout.slot_text)


def _named(entry: Mapping[str, Any], key: str) -> bool:
    return isinstance(entry.get(key), str) and bool(entry[key])


def _span(entry: Mapping[str, Any], key: str, keys: tuple[str, str], text: str) -> Span | None:
    start, end = entry.get(keys[0]), entry.get(keys[1])
    if type(start) is int and type(end) is int and start >= 0 and text[start:end] == entry[key]:
        return start, end
    return None


def _by_head(items: Sequence[GoldItem]) -> list[GoldItem]:
    """Entries with the same head make one item, as in ``read_annotations``."""
    heads: dict[Any, GoldItem] = {}
    for gold, spans in items:
        key = gold.type, gold.roles[0]
        if key in heads:
            first = heads[key]
            roles = first.gold.roles + gold.roles[1:]
            heads[key] = GoldItem(gold._replace(roles=roles), first.spans + spans[1:])
        else:
            heads[key] = GoldItem(gold, spans)
    return list(heads.values())


def entries_of(task: Task, items: Sequence[GoldItem]) -> list[dict[str, Any]]:
    """The entries of an annotation list, with offsets; ``gold_items`` gives the same back."""
    layout = task.layout
    fixed = {role for role, _ in layout.roles}
    made = []
    for gold, spans in items:
        entries = write_annotations(task, [gold])
        placed = dict(zip(range(len(gold.roles)), spans, strict=True))
        slots = [placed[at] for at, (role, _) in enumerate(gold.roles) if role not in fixed]
        heads = {role: placed[at] for at, (role, _) in enumerate(gold.roles) if role in fixed}
        for number, entry in enumerate(entries):
            for role, key in layout.roles:
                _place(entry, _keys(layout, key), heads.get(role))
            if layout.by_head:
                _place(entry, _keys(layout, layout.slot_text), slots[number])
            parts = entry.get(layout.slot_list, []) if layout.slot_list else []
            for part, span in zip(parts, slots, strict=False):
                _place(part, ("start", "end"), span)
        made += entries
    return made


def _place(entry: dict[str, Any], keys: tuple[str, str], span: Span | None) -> None:
    if span is not None:
        entry[keys[0]], entry[keys[1]] = span

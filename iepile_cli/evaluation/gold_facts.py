"""The facts of annotations and of results, their mentions as offsets or as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from iepile_cli.evaluation.facts import Fact, FactReader, Facts, TypedItem
from iepile_cli.evaluation.regroup import Span
from iepile_cli.task.shape import Each, Mention, fixed_roles
from iepile_cli.task.table import Layout, Task

# Stands between a mention and its offsets while an annotation is read.
_AT = "\0at\0"


def entries_are_placed(task: Task, entries: list[Any]) -> bool:
    """Whether every mention of some annotations says where it stands."""
    return all(_with_offsets(task.layout, entry) is not None for entry in entries)


def entry_facts(
    reader: FactReader, entries: list[Any], surfaces: dict[Span, str], by_offset: bool
) -> tuple[Facts, list[Fact]]:
    """The facts of annotations, their mentions as offsets or as text."""
    if not by_offset:
        facts, optional = reader.read_entries(entries)
        return distinct(facts, reader.task), optional
    placed = [_with_offsets(reader.task.layout, entry) for entry in entries]
    facts, optional = reader.read_entries(placed)

    def span(mention: str) -> Any:
        text, at, offsets = mention.partition(_AT)
        if not at:
            return mention
        start, _, end = offsets.partition(":")
        surfaces[int(start), int(end)] = text
        return int(start), int(end)

    for of_unit, labels in zip(facts, reader.labels, strict=True):
        of_unit[:] = [(*fact[:labels], *map(span, fact[labels:])) for fact in of_unit]
    return facts, optional


def distinct(facts: Facts, task: Task) -> Facts:
    """As conversion has it: one mention of a type is one, wherever it stands."""
    return [list(dict.fromkeys(one)) for one in facts] if task.layout.unique else facts


def _with_offsets(layout: Layout, entry: Any) -> dict[str, Any] | None:
    """An entry whose mentions carry their offsets; None where one has none.

    An entry with one mention has ``start`` and ``end``, one with several ``head_start`` and so
    on; an argument has its own.
    """
    if not isinstance(entry, dict):
        return None
    placed = dict(entry)
    single = len(layout.roles) == 1 and not layout.by_head
    keys = [key for _, key in layout.roles]
    keys += [layout.slot_text] if layout.by_head else []
    for key in keys:
        prefix = "" if single else f"{key}_"
        if not _place(placed, key, entry.get(f"{prefix}start"), entry.get(f"{prefix}end")):
            return None
    if layout.slot_list:
        parts = entry.get(layout.slot_list, [])
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            return None
        parts = [dict(part) for part in parts]
        for part in parts:
            if not _place(part, layout.slot_text, part.get("start"), part.get("end")):
                return None
        placed[layout.slot_list] = parts
    return placed


def _place(entry: dict[str, Any], key: str, start: Any, end: Any) -> bool:
    mention = entry.get(key)
    if not mention:
        return True
    span = _span_of({"start": start, "end": end})
    if span is None or not isinstance(mention, str):
        return False
    entry[key] = f"{mention}{_AT}{span[0]}:{span[1]}"
    return True


# ----------------------------------------------------------------------------- results of extract


def item_facts(reader: FactReader, items: Any, surfaces: dict[Span, str], by_offset: bool) -> Facts:
    """The facts of a result's items, their mentions as offsets or as text."""
    facts = reader.empty()
    for item in items if isinstance(items, list) else ():
        typed = _typed_item(reader.task, item, surfaces, by_offset)
        if typed is not None:
            reader.add(typed, facts)
    return facts


def _span_of(mention: Any) -> Span | None:
    """The offsets of a mention, or None when it does not have two whole numbers in order."""
    start, end = mention.get("start"), mention.get("end")
    if type(start) is int and type(end) is int and 0 <= start < end:
        return start, end
    return None


def _parts(task: Task, item: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The mentions of an item by role; slots come under "" with their role inside."""
    bare = isinstance(task.shape, Each) and isinstance(task.shape.element, Mention)
    for role in fixed_roles(task.shape):
        yield role, item if bare else item.get(role)
    slots = item.get(task.slots) if task.slots else None
    for slot in slots if isinstance(slots, list) else ():
        yield "", slot


def items_are_placed(task: Task, items: list[Any]) -> bool:
    """Whether every mention of a result's items says where it stands."""
    return all(_span_of(mention) for mention in _mentions(task, items))


def _mentions(task: Task, items: list[Any]) -> Iterator[dict[str, Any]]:
    for item in items:
        for _, part in _parts(task, item) if isinstance(item, dict) else ():
            if isinstance(part, dict) and part.get("text"):
                yield part


def _typed_item(
    task: Task, item: Any, surfaces: dict[Span, str], by_offset: bool
) -> TypedItem | None:
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return None
    fixed: list[Any] = []
    slots: list[tuple[str, Any]] = []
    for role, part in _parts(task, item):
        mention: Any = ""
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            span = _span_of(part) if by_offset else None
            mention = part["text"] if span is None else span
            if span is not None:
                surfaces[span] = part["text"]
        if role:
            fixed.append(mention)
        elif isinstance(part, dict) and isinstance(part.get("role"), str) and mention:
            slots.append((part["role"], mention))
    if not any(fixed) and not slots:
        return None
    ends = (item.get("subject_type"), item.get("object_type"))
    subject_type, object_type = (end if isinstance(end, str) else "" for end in ends)
    return item["type"], subject_type, object_type, (tuple(fixed), list(dict.fromkeys(slots)))

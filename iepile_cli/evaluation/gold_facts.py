"""The facts of annotations and of results, their mentions as offsets or as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from iepile_cli.conversion.offsets import GoldItem, Span
from iepile_cli.evaluation.facts import Fact, FactReader, Facts, TypedItem
from iepile_cli.task.shape import Each, Mention, fixed_roles
from iepile_cli.task.table import Task


def gold_is_placed(items: Iterable[GoldItem]) -> bool:
    """Whether every mention of some gold says where it stands."""
    return all(span is not None for item in items for span in item.spans)


def gold_facts(
    reader: FactReader, items: Iterable[GoldItem], surfaces: dict[Span, str], by_offset: bool
) -> tuple[Facts, list[Fact]]:
    """The facts of gold, and those that are optional; their mentions as offsets or as text."""
    if not by_offset:
        facts, optional = reader.read_gold(item.gold for item in items)
        return distinct(facts, reader.task), optional
    placed = []
    for gold, spans in items:
        roles: list[tuple[str, Any]] = []
        for (role, text), span in zip(gold.roles, spans, strict=True):
            if span is not None:
                surfaces[span] = text
            roles.append((role, span))
        placed.append(gold._replace(roles=tuple(roles)))
    return reader.read_gold(placed)


def distinct(facts: Facts, task: Task) -> Facts:
    """As conversion has it: one mention of a type is one, wherever it stands."""
    return [list(dict.fromkeys(one)) for one in facts] if task.layout.unique else facts


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

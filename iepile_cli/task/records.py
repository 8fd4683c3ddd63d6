"""Annotated records in IEPile's unified form, read as items of a task.

Input is the list in a record's ``entity``, ``relation`` or ``event`` field (or the same list from a
test record's ``label``). Output is ``Gold`` items with the same ``Roles`` that parsing an answer
gives, so that gold and answers can be compared. Layouts are columns of the task table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from iepile_cli.task.shape import Roles, SchemaItem, slot_name, slot_role
from iepile_cli.task.table import Layout, Task


class Gold(NamedTuple):
    """One annotated item: its type, its roles and, for typed relations, the types of both ends."""

    type: str
    roles: Roles
    subject_type: str = ""
    object_type: str = ""

    def answers(self, item: SchemaItem) -> bool:
        """Whether this answers the schema item."""
        return (self.type, self.subject_type, self.object_type) == (
            item.type,
            item.subject_type,
            item.object_type,
        )


def read_annotations(task: Task, entries: Any, problems: list[str]) -> list[Gold]:
    """Read an annotation list, in its order; what cannot be read is named in ``problems``.

    An empty mention, or one that is missing, is left out of the roles, so a trigger that is
    ``""`` and one that is not there are the same. Duplicates stay; ``distinct`` takes them out.
    """
    layout = task.layout
    if not isinstance(entries, list):
        problems.append(f"{layout.field!r} is not a list")
        return []
    items: list[Gold] = []
    for entry in entries:
        if not isinstance(entry, dict):
            problems.append(f"an entry of {layout.field!r} is not an object")
            continue
        kind = entry.get(layout.type, "") if layout.by_head else entry.get(layout.type)
        if not isinstance(kind, str):
            problems.append(f"an entry of {layout.field!r} has no {layout.type!r}")
            continue
        roles = [
            (role, text)
            for role, key in layout.roles
            if isinstance(text := entry.get(key), str) and text
        ]
        if len(roles) < len(layout.roles) and not layout.slot_list:
            problems.append(f"an entry of {layout.field!r} lacks {_missing(layout, roles)!r}")
            continue
        roles += _slots(layout, entry, problems)
        items.append(
            Gold(
                kind,
                tuple(roles),
                _text(entry, layout.subject_type),
                _text(entry, layout.object_type),
            )
        )
    return _by_head(items) if layout.by_head else items


def _slots(layout: Layout, entry: dict[str, Any], problems: list[str]) -> Iterable[tuple[str, str]]:
    if not layout.slot_role:
        return
    parts = entry.get(layout.slot_list, []) if layout.slot_list else [entry]
    for part in parts if isinstance(parts, list) else [parts]:
        role = part.get(layout.slot_role) if isinstance(part, dict) else None
        text = part.get(layout.slot_text) if isinstance(part, dict) else None
        if not isinstance(role, str) or not isinstance(text, str):
            problems.append(
                f"an entry of {layout.field!r} has no {layout.slot_role!r} or {layout.slot_text!r}"
            )
        elif text:
            yield slot_role(role), text


def _by_head(items: Iterable[Gold]) -> list[Gold]:
    merged: dict[tuple[str, tuple[str, str]], Roles] = {}
    for gold in items:
        key = (gold.type, gold.roles[0])
        merged[key] = merged.get(key, ()) + gold.roles[1:]
    return [Gold(kind, (head, *rest)) for (kind, head), rest in merged.items()]


def _missing(layout: Layout, roles: list[tuple[str, str]]) -> str:
    there = {role for role, _ in roles}
    return next(key for role, key in layout.roles if role not in there)


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key) if key else None
    return value if isinstance(value, str) else ""


def distinct(items: Iterable[Gold]) -> list[Gold]:
    """The items without exact repetitions, in order of their first."""
    return list(dict.fromkeys(items))


def write_annotations(task: Task, items: Iterable[Gold]) -> list[dict[str, Any]]:
    """The entries of an annotation list; ``read_annotations`` gives the same items back.

    A head without any attribute has no entry, as its layout cannot hold one.
    """
    layout = task.layout
    fixed = {role for role, _ in layout.roles}
    entries = []
    for gold in items:
        named = dict(gold.roles)
        slots = [(slot_name(role), text) for role, text in gold.roles if role not in fixed]
        if layout.by_head:
            entries += [
                {
                    layout.roles[0][1]: named[layout.roles[0][0]],
                    layout.type: gold.type,
                    layout.slot_role: role,
                    layout.slot_text: text,
                }
                for role, text in slots
            ]
            continue
        entry: dict[str, Any] = {}
        ends = (layout.subject_type, gold.subject_type), (layout.object_type, gold.object_type)
        for (role, key), (type_key, type_) in zip(layout.roles, ends, strict=False):
            # Between the two ends of a relation stands its type, as in the published files.
            entry[key] = named.get(role, "")
            entry.update({type_key: type_} if type_key else {})
            entry.setdefault(layout.type, gold.type)
        if layout.slot_list:
            entry[layout.slot_list] = [
                {layout.slot_text: text, layout.slot_role: role} for role, text in slots
            ]
        entries.append(entry)
    return entries

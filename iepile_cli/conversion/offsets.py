"""Where an annotation's mentions stand in the text: the keys of offsets in an entry.

An entry with one fixed role (entities, events) has ``start`` and ``end``; relations have
``head_start``, ``head_end``, ``tail_start`` and ``tail_end``; an event's arguments have ``start``
and ``end`` of their own. Offsets count characters; ``text[start:end]`` is the mention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from iepile_cli.task.records import Gold, read_annotations, write_annotations
from iepile_cli.task.table import Layout, Task

Span: TypeAlias = tuple[int, int]


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

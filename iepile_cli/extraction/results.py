"""The result of one document: the answers of its passages merged, and its JSON form.

The form follows from the task's shape and columns: an item that is a single mention is flat, the
fixed parts of others stand under their names, and slots are a list under the task's own word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from iepile_cli.extraction.grounding import Item, Span, at_all_places, with_occurrences
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.requests import ExtractOptions
from iepile_cli.task import Roles, SchemaItem, Task, answer_json
from iepile_cli.task.shape import fixed_roles, slot_name

_Place: TypeAlias = tuple[tuple[str, int, int], ...]

# Control characters and line separators that JSON need not escape, but that terminals obey and
# that some readers of JSON Lines take for the end of a line.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Result:
    """What was found in one document.

    ``answer`` is in the wire format's form, ``items`` are in text order. ``truncated`` counts
    answers that were closed because their token budget ended, ``ungrounded`` mentions that were
    dropped because the text does not hold them, ``problems`` parts of answers that could not be
    used (the last two stay 0 with constrained decoding). ``tokens`` were generated.
    """

    document: Document
    task: Task
    language: str
    answer: dict[str, Any]
    items: tuple[Item, ...]
    passages: int = 1
    truncated: int = 0
    ungrounded: int = 0
    problems: int = 0
    tokens: int = 0

    @property
    def counts(self) -> dict[str, Any]:
        """What was cut short or left out, as it is written: only where there is something."""
        shown: dict[str, Any] = {"truncated": True} if self.truncated else {}
        left_out = {"ungrounded": self.ungrounded, "problems": self.problems}
        return shown | {name: count for name, count in left_out.items() if count}


# ---------------------------------------------------------------------------------------- merging


class Merged(NamedTuple):
    """A document's items in text order, and its answer in the wire format's form."""

    items: list[Item]
    answer: dict[str, Any]


def merge(
    task: Task,
    schema: Sequence[SchemaItem],
    items: Iterable[Item],
    text: str,
    options: ExtractOptions | None = None,
) -> Merged:
    """Put the items of a document's passages and schema batches together.

    ``schema`` is the whole schema, in the order in which the answer shows it, ``text`` the whole
    document. The same item at the same place is listed once, with its best score; the answer lists
    each distinct item once, in the order of the places. Items with a score below the options'
    ``least_score`` of the task are left out, of both, and of items at one place those that are not
    as near to the best as the options' ``near_score`` asks.
    """
    options = options or ExtractOptions()
    least = options.least_score(task)
    order = {item: number for number, item in enumerate(schema)}
    kept = [
        _in_text_order(item, task)
        for item in distinct(items)
        if item.score is None or item.score >= least
    ]
    near = options.near_score(task)
    kept = _sorted(_best_of_each_place(kept, order, near), order)
    every = options.all_occurrences
    if task.is_single and every is not False:
        placed = _sorted(_best_of_each_place(at_all_places(kept, text), order, near), order)
        listed = {_words(item) for item in placed}
        answer = answer_json(
            task, _by_schema_item(schema, [i for i in kept if _words(i) in listed]), None
        )
        return Merged(placed, answer)
    answer = answer_json(task, _by_schema_item(schema, kept), None)
    return Merged(with_occurrences(kept, text) if every else kept, answer)


def voted(readings: Sequence[Iterable[Item]]) -> list[Item]:
    """What half of several readings of one text found, each item with the mean of its scores.

    A reading that did not find it counts as 0, and one that found it without a score, as answers
    of servers have none, as 1. One reading is left as it is.
    """
    if len(readings) < 2:
        return [item for items in readings for item in items]
    found: dict[tuple[SchemaItem, _Place], list[Item]] = {}
    for items in readings:
        for item in distinct(items):
            found.setdefault((item.item, _place(item)), []).append(item)
    count = len(readings)
    return [
        _scored(same[0], sum(1.0 if one.score is None else one.score for one in same) / count)
        for same in found.values()
        if 2 * len(same) >= count
    ]


def _scored(item: Item, score: float) -> Item:
    """The item with another score; of an item that is a single mention, this is the mention's."""
    roles = item.roles
    if len(roles) == 1:
        roles = tuple((role, replace(span, score=score)) for role, span in roles)
    return replace(item, roles=roles, score=score)


def distinct(items: Iterable[Item]) -> list[Item]:
    """The items without repetitions of the same one at the same place; best scores are kept."""
    kept: dict[tuple[SchemaItem, _Place], Item] = {}
    for item in items:
        key = (item.item, _place(item))
        before = kept.get(key)
        if before is None or (item.score or 0.0) > (before.score or 0.0):
            kept[key] = item
    return list(kept.values())


def _best_of_each_place(items: list[Item], order: dict[SchemaItem, int], near: float) -> list[Item]:
    """Of items at one place those whose score is at least ``near`` (0..1) of the best there.

    With 1 it is one item, at equal scores the first of the schema; with 0 it is all.
    """
    best: dict[_Place, Item] = {}
    for item in sorted(items, key=lambda item: (-(item.score or 0.0), order.get(item.item, 0))):
        best.setdefault(_place(item), item)
    if near == 1:
        return list(best.values())
    return [
        item
        for item in items
        if item.score is None or item.score >= near * (best[_place(item)].score or 0.0)
    ]


def _words(item: Item) -> tuple[SchemaItem, str]:
    ((_, span),) = item.roles
    return item.item, span.text


def _place(item: Item) -> _Place:
    return tuple((role, span.start, span.end) for role, span in item.roles)


def _in_text_order(item: Item, task: Task) -> Item:
    """The item with the fillers of its slots in the order of their places."""
    fixed = fixed_roles(task.shape)
    head = [pair for pair in item.roles if pair[0] in fixed]
    tail = [pair for pair in item.roles if pair[0] not in fixed]
    return replace(item, roles=(*head, *sorted(tail, key=lambda pair: pair[1].start)))


def _sorted(items: list[Item], order: dict[SchemaItem, int]) -> list[Item]:
    """The items by their places, at the same place in the order of the schema."""
    return sorted(
        items,
        key=lambda item: (
            tuple((span.start, span.end) for _, span in item.roles),
            order.get(item.item, len(order)),
        ),
    )


def _by_schema_item(
    schema: Sequence[SchemaItem], items: Iterable[Item]
) -> list[tuple[SchemaItem, list[Roles]]]:
    """Each schema item with its distinct items, as they stand in an answer."""
    found: dict[SchemaItem, dict[Roles, None]] = {item: {} for item in schema}
    for item in items:
        found.setdefault(item.item, {})[item.texts] = None
    return [(item, list(roles)) for item, roles in found.items()]


# -------------------------------------------------------------------------------------- JSON form


def to_json(result: Result) -> dict[str, Any]:
    """The object that is written for a document; ``line``, ``id`` and counts only where they say
    something."""
    document = result.document
    shown: dict[str, Any] = {"source": document.source}
    if document.line is not None:
        shown["line"] = document.line
    if document.id:
        shown["id"] = document.id
    shown |= {"task": result.task.name, "lang": result.language, "answer": result.answer}
    shown["items"] = [item_json(result.task, item) | _page(document, item) for item in result.items]
    return shown | result.counts


def _page(document: Document, item: Item) -> dict[str, int]:
    """The page of an item's first part, where the document has pages."""
    page = document.page(item.roles[0][1].start) if item.roles else None
    return {} if page is None else {"page": page}


def item_json(task: Task, found: Item) -> dict[str, Any]:
    """One item, e.g. ``{"type", "text", "start", "end", "score"}`` for a single mention."""
    shown: dict[str, Any] = {"type": found.item.type, **end_types(task, found.item)}
    spans = dict(reversed(found.roles))
    fixed = fixed_roles(task.shape)
    if task.is_single:
        return shown | span_json(found.roles[0][1])
    for role in fixed:
        if not found.item.lacks(role):
            shown[role] = span_json(spans[role]) if role in spans else None
    if task.slots:
        shown[task.slots] = [
            {"role": role, **span_json(span)} for role, span in slots_of(task, found)
        ]
    shown["score"] = _rounded(found.score)
    return shown


def end_types(task: Task, item: SchemaItem) -> dict[str, str]:
    """The types of a typed relation's two ends, for tasks whose schema items have them."""
    return {key: getattr(item, field) for key, field in task.item_keys if field.endswith("_type")}


def slots_of(task: Task, found: Item) -> list[tuple[str, Span]]:
    """An item's arguments or attributes, by the slots' names: its roles that are not fixed."""
    fixed = fixed_roles(task.shape)
    return [(slot_name(role), span) for role, span in found.roles if role not in fixed]


def span_json(span: Span) -> dict[str, Any]:
    """A mention and its place; ``occurrences`` only when they were asked for."""
    shown: dict[str, Any] = {
        "text": span.text,
        "start": span.start,
        "end": span.end,
        "score": _rounded(span.score),
    }
    if span.occurrences:
        shown["occurrences"] = [list(place) for place in span.occurrences]
    return shown


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


def to_line(
    shown: dict[str, Any], *, surrogates: Literal["replace", "escape"] = "replace"
) -> bytes:
    """JSON on one line, in UTF-8 and without a line end; safe to show and to split at lines.

    Lone surrogates, which UTF-8 cannot hold, become ``?``, or JSON's escapes of them.
    """
    text = json.dumps(shown, ensure_ascii=False)
    if surrogates == "escape":
        text = _SURROGATES.sub(_escape, text)
    return _UNSAFE.sub(_escape, text).encode("utf-8", "replace")


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"

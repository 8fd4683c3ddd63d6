"""What was found in all passages, for all batches of a schema, made one result of a document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from iepile_cli.extraction.grounding import Item, everywhere
from iepile_cli.extraction.results import is_single
from iepile_cli.task import Roles, SchemaItem, Task, answer_json

_Place: TypeAlias = tuple[SchemaItem, tuple[tuple[str, int, int], ...]]


class Merged(NamedTuple):
    """A document's items in text order, and its answer in the wire format's form."""

    items: list[Item]
    answer: dict[str, Any]


def merge(
    task: Task,
    asked: Sequence[SchemaItem],
    items: Iterable[Item],
    text: str,
    *,
    all_occurrences: bool = False,
    min_score: float = 0.0,
) -> Merged:
    """Put the items of a document's passages and schema batches together.

    ``asked`` is the whole schema, in the order in which the answer shows it, ``text`` the whole
    document. The same thing at the same place is listed once, with its best score; the answer
    lists each distinct thing once. Things with a score below ``min_score`` are left out.
    """
    order = {item: number for number, item in enumerate(asked)}
    sure = [item for item in distinct(items) if item.score is None or item.score >= min_score]
    kept = _sorted(sure, order)
    answer = answer_json(task, _by_item(asked, kept), text)
    if all_occurrences:
        kept = _sorted(distinct(everywhere(kept, text, spread=is_single(task))), order)
    return Merged(kept, answer)


def distinct(items: Iterable[Item]) -> list[Item]:
    """The items without repetitions of the same thing at the same place; best scores are kept."""
    kept: dict[_Place, Item] = {}
    for item in items:
        place = (item.item, tuple((role, span.start, span.end) for role, span in item.roles))
        before = kept.get(place)
        if before is None or (item.score or 0.0) > (before.score or 0.0):
            kept[place] = item
    return list(kept.values())


def _sorted(items: list[Item], order: dict[SchemaItem, int]) -> list[Item]:
    """The items by their places, at the same place in the order asked."""
    return sorted(items, key=lambda item: (_position(item), order.get(item.item, len(order))))


def _position(item: Item) -> tuple[tuple[int, int], ...]:
    return tuple((span.start, span.end) for _, span in item.roles)


def _by_item(
    asked: Sequence[SchemaItem], items: Iterable[Item]
) -> list[tuple[SchemaItem, list[Roles]]]:
    """Each schema item with its distinct things."""
    things: dict[SchemaItem, dict[Roles, None]] = {item: {} for item in asked}
    for item in items:
        things.setdefault(item.item, {})[item.texts] = None
    return [(item, list(found)) for item, found in things.items()]


__all__ = ["Merged", "distinct", "merge"]

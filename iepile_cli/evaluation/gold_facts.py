"""The facts of annotations and of results, their mentions as offsets or as text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from iepile_cli.conversion.offsets import GoldItem, Span
from iepile_cli.conversion.readers.results import result_item
from iepile_cli.evaluation.facts import Fact, FactReader, Facts
from iepile_cli.task.table import Task


def gold_is_placed(items: Iterable[GoldItem]) -> bool:
    """Whether every mention of some gold says where it stands."""
    return all(span is not None for item in items for span in item.spans)


def gold_facts(
    reader: FactReader, items: Iterable[GoldItem], surfaces: dict[Span, str], by_offset: bool
) -> tuple[Facts, list[Fact]]:
    """The facts of gold, and those that are optional.

    Mentions are offsets where they are known and ``by_offset``, which get their text in
    ``surfaces``, and texts otherwise.
    """
    if not by_offset:
        return reader.read_items(item.gold for item in items)
    placed = []
    for gold, spans in items:
        roles: list[tuple[str, Any]] = []
        for (role, text), span in zip(gold.roles, spans, strict=True):
            if span is not None:
                surfaces[span] = text
            roles.append((role, text if span is None else span))
        placed.append(gold._replace(roles=tuple(roles)))
    return reader.read_items(placed)


def distinct(facts: Facts, task: Task) -> Facts:
    """As conversion has it: one mention of a type is one, wherever it stands."""
    return [list(dict.fromkeys(one)) for one in facts] if task.layout.unique else facts


def result_items(task: Task, items: Any) -> list[GoldItem]:
    """The items of a result; those that cannot be read, or hold no mention, are left out."""
    found = []
    for item in items if isinstance(items, list) else ():
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            found.append(result_item(task, item, None))
    return [item for item in found if item.gold.roles]

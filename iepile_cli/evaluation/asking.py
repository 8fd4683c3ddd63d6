"""What each record asked: the instruction string taken apart, quickly.

Half a million records share a few schema batches, so the part of an instruction before the text
is decoded once and remembered.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from iepile_cli.evaluation.decoding import decode
from iepile_cli.task.instruction import items_from_json
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task, Unit

# What announces the text.
INPUT = '"input": "'
# More distinct schema batches than this are decoded each time.
_REMEMBERED = 50_000

Labels = frozenset[tuple[str, ...]]


class Batch(NamedTuple):
    """One schema batch: ``number`` is the same for equal batches, 0 where the schema is empty.

    ``labels`` holds for each unit of the task the labels that were asked for; ``ends`` the types
    of both ends that were asked for under each key, for typed relations.
    """

    number: int
    labels: tuple[Labels, ...]
    ends: dict[str, tuple[tuple[str, str], ...]]


NOTHING_ASKED = Batch(0, (), {})


class Head(NamedTuple):
    """All of an instruction up to the quotation mark that opens its text.

    ``batch`` is what it asks, ``number`` that of the batch.
    """

    text: str
    batch: Batch
    number: int


class Instructions:
    """Reads the instructions of one task: what was asked, and about which text."""

    def __init__(self, task: Task) -> None:
        self.task = task
        # By the text of a head; None for what has to be read in full.
        self.by_head: dict[str, Head | None] = {}
        # By the number of a batch: what was asked after it the last time.
        self.after: dict[int, Head] = {}
        self._by_schema: dict[tuple[SchemaItem, ...], Batch] = {(): NOTHING_ASKED}

    def batch(self, instruction: object) -> Batch:
        """The schema batch that was asked; ``NOTHING_ASKED`` for what is no instruction."""
        if type(instruction) is str:
            head = _head(instruction)
            if head not in self.by_head:
                self._remember(head)
            known = self.by_head.get(head)
            if known is not None:
                return known.batch
        value = _whole(instruction)
        return self._batch(value.get("schema")) if value else NOTHING_ASKED

    def text(self, instruction: object) -> str | None:
        """The text that was asked about; None when it cannot be told."""
        if type(instruction) is str:
            head = _head(instruction)
            if self.by_head.get(head) is not None:
                return self.text_after(head, instruction)
        return _whole_text(instruction)

    def text_after(self, head: str, instruction: str) -> str | None:
        """The text of an instruction that begins with a head that has a batch in ``by_head``."""
        if instruction.endswith('"}'):
            plain = instruction[len(head) : -2]
            if "\\" not in plain and '"' not in plain:
                return plain
            text = decode(instruction[len(head) - 1 : -1])
            if type(text) is str:
                return text
        return _whole_text(instruction)

    def usual(self, instruction: str) -> Head:
        """The head of an instruction; raises ``LookupError`` for a new one."""
        known = self.by_head[_head(instruction)]
        if known is None:
            raise LookupError
        return known

    def _remember(self, head: str) -> None:
        if len(self.by_head) >= _REMEMBERED:
            return
        value = decode(head + '"}')
        whole = isinstance(value, dict) and value.get("input") == ""
        if not whole:
            self.by_head[head] = None
            return
        batch = self._batch(value.get("schema"))
        self.by_head[head] = Head(head, batch, batch.number)

    def _batch(self, schema: object) -> Batch:
        try:
            items = items_from_json(self.task, schema)
        except (ValueError, RecursionError):
            return NOTHING_ASKED
        batch = self._by_schema.get(items)
        if batch is None:
            batch = Batch(
                len(self._by_schema),
                tuple(_labels(unit, items) for unit in self.task.units),
                _ends(items),
            )
            self._by_schema[items] = batch
        return batch


def _whole(instruction: object) -> dict[str, Any] | None:
    value = decode(instruction) if isinstance(instruction, str) else instruction
    return value if isinstance(value, dict) else None


def _whole_text(instruction: object) -> str | None:
    value = _whole(instruction)
    found = value.get("input") if value else None
    return found if isinstance(found, str) else None


def _head(instruction: str) -> str:
    """All up to the quotation mark that opens the text; "" where none does."""
    at = instruction.find(INPUT)
    return instruction[: at + len(INPUT)] if at >= 0 else ""


def _labels(unit: Unit, items: tuple[SchemaItem, ...]) -> Labels:
    return frozenset(
        tuple(slot if part == "slot" else getattr(item, part) for part in unit.label)
        for item in items
        for slot in (item.slots if "slot" in unit.label else ("",))
    )


def _ends(items: tuple[SchemaItem, ...]) -> dict[str, tuple[tuple[str, str], ...]]:
    ends: dict[str, tuple[tuple[str, str], ...]] = {}
    for item in items:
        if item.subject_type or item.object_type:
            ends[item.type] = (
                *ends.get(item.type, ()),
                (item.subject_type, item.object_type),
            )
    return ends

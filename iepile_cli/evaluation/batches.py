"""Schema batches: which labels the instruction of each record asks for, and of which text.

Half a million records share a few schema batches, so a batch is read once and looked up by its
JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from iepile_cli.evaluation.decoding import NOT_TYPED, decode, decode_instruction
from iepile_cli.task.instruction import items_from_json
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task, Unit

# More distinct schemas than this are decoded each time.
_REMEMBERED = 50_000

Labels = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Batch:
    """One schema batch; ``number`` is the same for equal batches of a task, and 0 for none.

    ``labels`` holds for each unit of the task the labels that were asked for, and nothing where
    the schema cannot be read; ``ends`` the types of both ends that were asked for
    under each key, for typed relations.
    """

    number: int
    labels: tuple[Labels, ...] = ()
    ends: Mapping[str, tuple[tuple[str, str], ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )


# A record without an instruction, or with an empty schema: it may be any batch of its text.
NO_BATCH = Batch(0)


class BatchReader:
    """Reads schema batches and texts from the instructions of one task."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._by_json: dict[bytes, Batch] = {}
        self._by_items: dict[tuple[SchemaItem, ...], Batch] = {(): NO_BATCH}

    def read(self, instruction: str | None) -> tuple[Batch, str | None]:
        """The schema batch that is asked for, and the text, None when it cannot be told."""
        try:
            asked = decode_instruction(instruction)  # type: ignore[arg-type]
        except NOT_TYPED:
            return self._read_odd(instruction)
        key = bytes(asked.schema)
        batch = self._by_json.get(key)
        if batch is None:
            written = key.decode()
            batch = self._batch(decode(written), written)
            if len(self._by_json) < _REMEMBERED:
                self._by_json[key] = batch
        return batch, asked.input

    def _read_odd(self, instruction: str | None) -> tuple[Batch, str | None]:
        if instruction is None:
            return NO_BATCH, None
        value = decode(instruction)
        value = value if isinstance(value, dict) else {}
        text = value.get("input")
        batch = self._batch(value.get("schema"), instruction)
        return batch, text if isinstance(text, str) else None

    def _batch(self, schema: Any, written: str) -> Batch:
        try:
            items = items_from_json(self.task, schema)
        except (ValueError, RecursionError):
            return _unreadable(written)
        batch = self._by_items.get(items)
        if batch is None:
            labels = tuple(_labels(unit, items) for unit in self.task.units)
            batch = Batch(len(self._by_items), labels, _ends(items))
            self._by_items[items] = batch
        return batch


def _unreadable(written: str) -> Batch:
    """The batch of what cannot be read: another one only where it is written differently."""
    return Batch(-1 - abs(hash(written)))


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

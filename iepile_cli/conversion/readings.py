"""Other readings of the same annotation: other names for its labels, and coarser labels.

A model that sees each label under one name learns the name and not what it means. A readings file
(TOML) says which names mean the same and which labels a coarser one stands for::

    split_num = [1, 2, 4, 6]        # how many schema items one instruction may have

    [names]                         # all names of a label, the usual one first; [] is never asked
    person = ["person", "people", "name of a person"]

    [groups]                        # a coarser label and the labels that it stands for
    person = ["artist", "athlete", "politician"]

    [sets.LitBank.names]            # goes before [names] for one set
    person = ["character"]

``READINGS`` readings are drawn for each set; each record is converted after one of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from iepile_cli.config import read_toml
from iepile_cli.conversion.choosing import key_of
from iepile_cli.conversion.plan import HardNegatives
from iepile_cli.errors import DataError
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Layout

# Enough that names and groups meet in most combinations, few enough that each is made once.
READINGS = 64
# How often a label has its usual name, and a group is read as a whole.
USUAL = 0.5
COARSE = 0.5


@dataclass(frozen=True)
class Readings:
    """What a readings file says about one set; empty tables leave labels as they are."""

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split_nums: tuple[int, ...] = ()


class Reading(NamedTuple):
    """One reading: the name under which each label is asked (None: not at all), batch size."""

    asked: Mapping[str, str | None]
    split_num: int | None

    def items(self, items: Iterable[SchemaItem]) -> tuple[SchemaItem, ...]:
        """The schema in this reading; items that became the same are one."""
        read: dict[Any, SchemaItem] = {}
        for item in items:
            name = self.asked.get(item.type, item.type)
            if name is not None:
                renamed = item if name == item.type else replace(item, type=name, description="")
                key = key_of(renamed)
                read[key] = _joined(read[key], renamed) if key in read else renamed
        return tuple(read.values())

    def entries(self, entries: Any, layout: Layout) -> Any:
        """A record's annotation in this reading; what cannot be read is left as it is."""
        if not isinstance(entries, list):
            return entries
        read = []
        for entry in entries:
            label = entry.get(layout.type) if isinstance(entry, dict) else None
            name = self.asked.get(label, label) if isinstance(label, str) else label
            if name is None and label is not None:
                continue
            read.append(entry if name == label else {**entry, layout.type: name})
        return read

    def hard(self, hard: HardNegatives | None) -> HardNegatives | None:
        """Hard negatives in this reading."""
        if hard is None:
            return None
        read: dict[str, dict[str, None]] = {}
        for label, others in hard.items():
            name = self.asked.get(label, label)
            named = (self.asked.get(other, other) for other in others)
            if name is not None:
                own = read.setdefault(name, {})
                own.update((other, None) for other in named if other not in (None, name))
        return {name: tuple(others) for name, others in read.items()}


def _joined(item: SchemaItem, other: SchemaItem) -> SchemaItem:
    """One item that asks for the slots of both."""
    slots = tuple(dict.fromkeys((*item.slots, *other.slots)))
    return item if slots == item.slots else replace(item, slots=slots, descriptions=())


def draw(readings: Readings, labels: Iterable[str], random_: random.Random) -> Reading:
    """Draw a reading of a schema with these labels."""
    coarse = [name for name in readings.groups if random_.random() < COARSE]
    random_.shuffle(coarse)
    stands = {
        label: next((name for name in coarse if label in readings.groups[name]), label)
        for label in labels
    }
    spoken: dict[str, str | None] = {}
    for label in dict.fromkeys(stands.values()):
        names = readings.names.get(label, (label,))
        taken = set(spoken.values())
        free = [name for name in names if name not in taken]
        if free or not names:
            spoken[label] = _one(free, random_)
        else:
            # Two labels under one name would be one: it is not asked where all names are taken.
            spoken[label] = None if label in taken else label
    size = random_.choice(readings.split_nums) if readings.split_nums else None
    return Reading({label: spoken[stand] for label, stand in stands.items()}, size)


def _one(names: Sequence[str], random_: random.Random) -> str | None:
    if not names:
        return None
    usual = len(names) == 1 or random_.random() < USUAL
    return names[0] if usual else random_.choice(names[1:])


def read_readings(path: Path, source: str) -> Readings:
    """Read what a file says about the set ``source``; raises ``DataError``."""
    table = read_toml(path)
    _only(table, ("split_num", "names", "groups", "sets"), path, "")
    every = _table(table, "sets", path)
    for name in every:
        _only(_table(every, name, path), ("names", "groups"), path, f"sets.{name}.")
    own = every.get(source, {})
    sizes = table.get("split_num", [])
    good = isinstance(sizes, list) and all(type(size) is int for size in sizes)
    if not good or not all(size > 0 or size == -1 for size in sizes):
        raise DataError(
            "split_num is not a list of batch sizes", path=path, hint="from 1 on, or -1 for all"
        )
    of_set = f"sets.{source}."
    return Readings(
        names=_lists(table, "names", path) | _lists(own, "names", path, of_set),
        groups=_lists(table, "groups", path) | _lists(own, "groups", path, of_set),
        split_nums=tuple(sizes),
    )


def _only(table: Mapping[str, Any], known: Sequence[str], path: Path, before: str) -> None:
    for key in table:
        if key not in known:
            raise DataError(
                f"{before}{key} is not known", path=path, hint=f"there are {', '.join(known)}"
            )


def _table(table: Mapping[str, Any], key: str, path: Path, before: str = "") -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise DataError(f"{before}{key} is not a table", path=path)
    return value


def _lists(
    table: Mapping[str, Any], key: str, path: Path, before: str = ""
) -> dict[str, tuple[str, ...]]:
    read = {}
    for label, names in _table(table, key, path, before).items():
        if not isinstance(names, list) or not all(isinstance(one, str) and one for one in names):
            raise DataError(f"{before}{key}.{label} is not a list of names", path=path)
        read[label] = tuple(names)
    return read

"""Other names for the labels of training data, and coarser labels; and plain renaming.

A model that sees each label under one name learns the name and not what it means. A file of
aliases (TOML) says which names mean the same and which labels a coarser one stands for::

    split_num = [1, 2, 4, 6]        # how many schema items one instruction may have

    [names]                         # all names of a label, the usual one first; [] is never asked
    person = ["person", "people", "name of a person"]

    [groups]                        # a coarser label and the labels that it stands for
    person = ["artist", "athlete", "politician"]

    [sets.LitBank.names]            # goes before [names] for one dataset
    person = ["character"]

``NAMINGS`` namings are drawn for each dataset; each record is converted under one of them.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from iepile_cli.config import read_toml
from iepile_cli.conversion.record_gold import key_of
from iepile_cli.encodings import decode_json
from iepile_cli.errors import DataError
from iepile_cli.files import read_text
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS, Layout

# Enough that names and groups meet in most combinations, few enough that each is made once.
NAMINGS = 64
# How often a label has its usual name, and a group is asked as a whole.
USUAL = 0.5
COARSE = 0.5


@dataclass(frozen=True)
class LabelAliases:
    """What a file of aliases says about one dataset; empty tables leave labels as they are."""

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split_nums: tuple[int, ...] = ()


class Naming(NamedTuple):
    """The name under which each label is asked (None: not at all), and the batch size."""

    names: Mapping[str, str | None]
    split_num: int | None

    def items(self, items: Iterable[SchemaItem]) -> tuple[SchemaItem, ...]:
        """The schema under these names; items that became the same are one."""
        read: dict[Any, SchemaItem] = {}
        for item in items:
            name = self.names.get(item.type, item.type)
            if name is not None:
                renamed = item if name == item.type else replace(item, type=name, description="")
                key = key_of(renamed)
                read[key] = _joined(read[key], renamed) if key in read else renamed
        return tuple(read.values())

    def entries(self, entries: Any, layout: Layout) -> Any:
        """A record's annotation under these names; what cannot be read is left as it is."""
        if not isinstance(entries, list):
            return entries
        read = []
        for entry in entries:
            label = entry.get(layout.type) if isinstance(entry, dict) else None
            name = self.names.get(label, label) if isinstance(label, str) else label
            if name is None and label is not None:
                continue
            read.append(entry if name == label else {**entry, layout.type: name})
        return read

    def hard(self, hard: Mapping[str, tuple[str, ...]] | None) -> dict[str, tuple[str, ...]] | None:
        """Hard negatives under these names."""
        if hard is None:
            return None
        read: dict[str, dict[str, None]] = {}
        for label, others in hard.items():
            name = self.names.get(label, label)
            named = (self.names.get(other, other) for other in others)
            if name is not None:
                own = read.setdefault(name, {})
                own.update((other, None) for other in named if other not in (None, name))
        return {name: tuple(others) for name, others in read.items()}


def _joined(item: SchemaItem, other: SchemaItem) -> SchemaItem:
    """One item that asks for the slots of both."""
    slots = tuple(dict.fromkeys((*item.slots, *other.slots)))
    return item if slots == item.slots else replace(item, slots=slots, descriptions=())


def draw_naming(aliases: LabelAliases, labels: Iterable[str], rng: random.Random) -> Naming:
    """Draw names for a schema with these labels."""
    coarse = [name for name in aliases.groups if rng.random() < COARSE]
    rng.shuffle(coarse)
    stands = {
        label: next((name for name in coarse if label in aliases.groups[name]), label)
        for label in labels
    }
    chosen: dict[str, str | None] = {}
    for label in dict.fromkeys(stands.values()):
        names = aliases.names.get(label, (label,))
        taken = set(chosen.values())
        free = [name for name in names if name not in taken]
        if free or not names:
            chosen[label] = _one(free, rng)
        else:
            # Two labels under one name would be one: it is not asked where all names are taken.
            chosen[label] = None if label in taken else label
    size = rng.choice(aliases.split_nums) if aliases.split_nums else None
    return Naming({label: chosen[stand] for label, stand in stands.items()}, size)


def _one(names: Sequence[str], rng: random.Random) -> str | None:
    if not names:
        return None
    usual = len(names) == 1 or rng.random() < USUAL
    return names[0] if usual else rng.choice(names[1:])


def read_label_aliases(path: Path, source: str) -> LabelAliases:
    """Read what a file says about the dataset ``source``; raises ``DataError``."""
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
    return LabelAliases(
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


def read_renames(path: Path) -> dict[str, str]:
    """Read a file of new names for labels: ``{"old": "new"}`` in JSON or TOML.

    Raises ``DataError``.
    """
    try:
        table = decode_json(read_text(path)) if path.suffix.lower() == ".json" else read_toml(path)
    except DataError as error:
        raise error.at(path) from None
    good = isinstance(table, dict) and all(isinstance(new, str) and new for new in table.values())
    if not good:
        raise DataError(
            "is no table of new names", path=path, hint='{"old": "new"} in JSON, or old = "new"'
        )
    return dict(table)


def rename_items(items: Iterable[SchemaItem], renames: Mapping[str, str]) -> tuple[SchemaItem, ...]:
    """Schema items with the new names of their types and slots; those that became one are one."""
    if not renames:
        return tuple(items)

    def new(name: str) -> str:
        return renames.get(name, name)

    renamed: dict[Any, SchemaItem] = {}
    for item in items:
        slots = tuple(map(new, item.slots))
        one = replace(
            item,
            type=new(item.type),
            subject_type=new(item.subject_type),
            object_type=new(item.object_type),
            slots=tuple(dict.fromkeys(slots)),
            descriptions=item.descriptions if len(set(slots)) == len(slots) else (),
        )
        key = key_of(one)
        renamed[key] = _joined(renamed[key], one) if key in renamed else one
    return tuple(renamed.values())


def rename_entries(entries: Any, field: str, renames: Mapping[str, str]) -> Any:
    """A record's annotation with the new names; what cannot be read is left as it is.

    ``field`` is the record's field that holds it: all labels of all its tasks are renamed.
    """
    if not isinstance(entries, list) or not renames:
        return entries
    keys, lists = _label_keys(field)
    return [_renamed(entry, keys, lists, renames) for entry in entries]


@functools.cache
def _label_keys(field: str) -> tuple[frozenset[str], frozenset[str]]:
    """The keys of labels in the entries of a field, and those of lists with further labels."""
    layouts = [task.layout for task in TASKS.values() if task.layout.field == field]
    keys = {
        key
        for one in layouts
        for key in (one.type, one.subject_type, one.object_type, one.slot_role)
        if key
    }
    return frozenset(keys), frozenset(one.slot_list for one in layouts if one.slot_list)


def _renamed(
    entry: Any, keys: Collection[str], lists: Collection[str], renames: Mapping[str, str]
) -> Any:
    if not isinstance(entry, dict):
        return entry
    renamed = dict(entry)
    for key, value in entry.items():
        if key in keys and isinstance(value, str):
            renamed[key] = renames.get(value, value)
        elif key in lists and isinstance(value, list):
            renamed[key] = [_renamed(part, keys, (), renames) for part in value]
    return renamed

"""Answers and gold labels as facts: tuples that are equal exactly when a point is scored.

Goes in: a decoded answer, or a label's entries. Comes out: for each unit of the task a list of
facts, each the values of the unit's ``label`` and then of its ``mentions``. Which values those
are is read from the task's row and its answer shape; no task is known by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, TypeAlias

import orjson

from iepile_cli.evaluation.decoding import decode
from iepile_cli.task.records import Gold, read_annotations
from iepile_cli.task.shape import (
    NAN,
    Each,
    Keyed,
    Mention,
    Node,
    Record,
    SchemaItem,
    Slots,
    fixed_roles,
    label_of,
)
from iepile_cli.task.table import Layout, Task, Unit

Fact: TypeAlias = tuple[Any, ...]
Facts: TypeAlias = list[list[Fact]]
# One extracted thing: the texts of its fixed roles, and its slots with their fillers.
Thing: TypeAlias = tuple[tuple[str, ...], Iterable[tuple[str, Any]]]
# The type of the thing and of both its ends, and the thing.
Typed: TypeAlias = tuple[str, str, str, Thing]
Read: TypeAlias = Callable[[Any, Facts], None]

_FIELDS = ("type", "subject_type", "object_type", "slot", "filler")


class Fields:
    """Where a unit's values stand in the flat tuple of a thing, and how to pick them."""

    def __init__(self, unit: Unit, task: Task) -> None:
        names = (*_FIELDS, *fixed_roles(task.shape))
        places = [names.index(name) for name in (*unit.label, *unit.mentions)]
        self.slotted = unit.slotted
        if len(places) == 1:
            only = places[0]
            self.pick: Callable[[tuple[Any, ...]], Fact] = lambda flat: (flat[only],)
        else:
            self.pick = itemgetter(*places)


class Reader:
    """Reads the answers and the labels of one task into facts.

    ``literal``: as the IEPile repository's script does, where "NAN" is a trigger like any other,
    empty values are predictions and repeated gold arguments count again.
    """

    def __init__(self, task: Task, *, literal: bool = False) -> None:
        self.task = task
        self.literal = literal
        self.fields = [Fields(unit, task) for unit in task.units]
        self.labels = [len(unit.label) for unit in task.units]
        self._single = len(task.units) == 1
        self.typed = ["subject_type" in unit.label for unit in task.units]
        # Things that are one and the same however often they come: keys of an object.
        self.distinct = [isinstance(task.shape, Keyed) and not unit.slotted for unit in task.units]
        # The main unit that has mentions: what types are confused over.
        self.named_unit = next(n for n, unit in enumerate(task.units) if unit.mentions)
        self.answer: Read = _direct(task) or self._answer
        # Takes the one fact of a plain entry of a label; None where that takes more.
        self.pick = _picker(task)
        self.unusual = any(self.typed) or any(self.distinct)
        self.things = _things(task.shape, literal)

    def empty(self) -> Facts:
        """A list for each unit."""
        return [[]] if self._single else [[] for _ in self.fields]

    def _answer(self, answer: Any, facts: Facts) -> None:
        for key, value in answer.items():
            for thing in self.things(value):
                self.add((key, "", "", thing), facts)

    def label_name(self, fact: Fact) -> str:
        """What a fact of the unit that types are confused over says of its mentions, in a word.

        Its type or slot; ``subject_predicate_object`` for a typed relation, as conversion names
        it; ``type / slot`` where both say what it is.
        """
        number = self.named_unit
        label = [str(part) for part in fact[: self.labels[number]]]
        if self.typed[number]:
            return label_of(SchemaItem(label[0], subject_type=label[1], object_type=label[2]))
        return " / ".join(label)

    def add(self, typed: Typed, facts: Facts) -> None:
        """Add what one thing says to the facts of each unit."""
        kind, subject_type, object_type, (fixed, slots) = typed
        for fields, into in zip(self.fields, facts, strict=True):
            if fields.slotted:
                for slot, filler in slots:
                    into.append(
                        fields.pick((kind, subject_type, object_type, slot, filler, *fixed))
                    )
            else:
                into.append(fields.pick((kind, subject_type, object_type, "", "", *fixed)))

    def plain_gold(self, label: str) -> list[Fact] | None:
        """The gold facts of a label, in few steps; None for one that is to be read with care."""
        if self.pick is None:
            return None
        if label == "[]":
            return []
        try:
            entries = orjson.loads(label)
            facts = list(map(self.pick, entries))
            for fact in facts:
                # Joining is the quickest way to find what is not a string.
                "".join(fact)
                if "" in fact:
                    return None
        except (ValueError, KeyError, TypeError, IndexError):
            return None
        return facts if type(entries) is list else None

    def label(self, label: str) -> tuple[Facts | None, list[Fact]]:
        """The gold facts of a label, None when it is not a list; and those that are optional.

        Optional is what no training target can hold (an event without arguments where the
        answer is arguments only): right when predicted, not missed when not.
        """
        plain = self.plain_gold(label)
        if plain is not None:
            return [plain], []
        entries = decode(label)
        if type(entries) is not list:
            return None, []
        facts = self.empty()
        optional: list[Fact] = []
        if self.literal:
            for typed in _literal_gold(self.task, entries):
                self.add(typed, facts)
            return facts, optional
        for gold in read_annotations(self.task, entries, []):
            typed = gold_thing(self.task, gold)
            if typed[3] == ((), []):
                optional.append(self.fields[0].pick((*typed[:3], "", "")))
            else:
                self.add(typed, facts)
        return facts, optional


def gold_thing(task: Task, gold: Gold) -> Typed:
    """A gold thing as answers have it.

    An absent word stands for nothing on both sides, and a repeated slot value counts once: so it
    is in the targets that models are trained on.
    """
    fixed = fixed_roles(task.shape)
    known = {role for role, _ in task.layout.roles}
    named = dict(pair for pair in gold.roles if pair[0] in known)
    slots = [pair for pair in gold.roles if pair[0] not in known and pair[1] != NAN]
    texts = tuple("" if named.get(role) == NAN else named.get(role, "") for role in fixed)
    return gold.type, gold.subject_type, gold.object_type, (texts, list(dict.fromkeys(slots)))


def _literal_gold(task: Task, entries: list[Any]) -> Iterator[Typed]:
    layout = task.layout
    keys = dict(layout.roles)
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        fixed = tuple(hashable(entry.get(keys[role], "")) for role in fixed_roles(task.shape))
        yield hashable(entry.get(layout.type, "")), "", "", (fixed, list(_parts(layout, entry)))


def _parts(layout: Layout, entry: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    parts = entry.get(layout.slot_list) if layout.slot_list else None
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict):
            yield (
                hashable(part.get(layout.slot_role, "")),
                hashable(part.get(layout.slot_text, "")),
            )


def hashable(value: Any) -> Any:
    """The value itself, or its spelling in a form that equals no string."""
    return ("", repr(value)) if isinstance(value, (dict, list)) else value


# ------------------------------------------------------------------- the common case, in few steps


def _direct(task: Task) -> Read | None:
    """A reader without detours for one unit that is a key and its mentions."""
    unit = task.units[0]
    if len(task.units) > 1 or unit.label != ("type",):
        return None
    match task.shape:
        case Each(Mention(absent=None)):
            return _read_mentions
        case Each(Record(((first, Mention(absent=None)), (second, Mention(absent=None))))):
            return _pair_reader(first, second)
        case _:
            return None


def _read_mentions(answer: Any, facts: Facts) -> None:
    into = facts[0]
    for key, values in answer.items():
        if values and type(values) is list:
            for value in values:
                if type(value) is str:
                    into.append((key, value))


def _pair_reader(first: str, second: str) -> Read:
    def read(answer: Any, facts: Facts) -> None:
        into = facts[0]
        for key, values in answer.items():
            if values and type(values) is list:
                for value in values:
                    if type(value) is dict:
                        one, other = value.get(first, ""), value.get(second, "")
                        if type(one) is str and type(other) is str:
                            into.append((key, one, other))

    return read


def _picker(task: Task) -> Callable[[Any], Fact] | None:
    layout = task.layout
    if len(task.units) > 1 or task.units[0].label != ("type",) or layout.slot_role:
        return None
    return itemgetter(layout.type, *(key for _, key in layout.roles))


# -------------------------------------------------------------------------- things, by their shape


def _things(node: Node, literal: bool) -> Callable[[Any], Iterable[Thing]]:
    """What reads the value under one key of an answer: things, with what does not fit left out."""
    match node:
        case Each(element):
            read = _thing(element, literal)
            return lambda value: _listed(read, value)
        case Keyed(_, inner):
            fill = _thing(inner, literal)
            return lambda value: _keyed(fill, value)
        case _:
            raise TypeError(f"{type(node).__name__} cannot answer a schema item")


def _listed(read: Callable[[Any], Thing | None], value: Any) -> Iterator[Thing]:
    for part in value if isinstance(value, list) else ():
        thing = read(part)
        if thing is not None:
            yield thing


def _keyed(fill: Callable[[Any], Thing | None], value: Any) -> Iterator[Thing]:
    for head, part in value.items() if isinstance(value, dict) else ():
        thing = fill(part)
        yield (head,), thing[1] if thing else ()


def _thing(node: Node, literal: bool) -> Callable[[Any], Thing | None]:
    """What reads one thing: None for a value of the wrong kind.

    A missing mention is "", so a relation that lacks one end still counts as predicted.
    """
    match node:
        case Mention(_, absent):
            return lambda value: ((_text(value, absent, literal),), ()) if _is_str(value) else None
        case Slots(absent):
            return lambda value: (
                ((), list(_fillers(value, absent, literal))) if isinstance(value, dict) else None
            )
        case Record(fields):
            return lambda value: _record(fields, value, literal)
        case _:
            raise TypeError(f"{type(node).__name__} cannot stand inside an answer")


def _record(fields: tuple[tuple[str, Node], ...], value: Any, literal: bool) -> Thing | None:
    if not isinstance(value, dict):
        return None
    texts: list[str] = []
    slots: list[tuple[str, Any]] = []
    for name, inner in fields:
        part = value.get(name, "")
        if isinstance(inner, Mention):
            if not isinstance(part, str):
                return None
            texts.append(_text(part, inner.absent, literal))
        elif isinstance(inner, Slots) and isinstance(part, dict):
            slots += _fillers(part, inner.absent, literal)
    return tuple(texts), slots


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _text(value: str, absent: str | None, literal: bool) -> str:
    return "" if value == absent and not literal else value


def _fillers(slots: dict[str, Any], absent: str | None, literal: bool) -> Iterator[tuple[str, Any]]:
    """Slot values; a number is a wrong answer, nothing ("", null) is no answer."""
    for slot, filler in slots.items():
        for part in filler if isinstance(filler, list) else (filler,):
            if absent is not None and part == absent:
                continue
            if literal:
                yield slot, hashable(part)
            elif part not in ("", None) and not isinstance(part, (dict, list)):
                yield slot, part

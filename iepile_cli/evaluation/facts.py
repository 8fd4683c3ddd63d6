"""Answers and gold labels as facts: tuples that are equal exactly when a point is scored.

Goes in: the string of an answer, or of a gold label. Comes out: for each unit of the task a list
of facts, each the values of the unit's ``label`` and then of its ``mentions``. Which values those
are is read from the task's row and its answer shape; no task is known by name. Common answers and
labels are decoded into types (``_usual``), all others step by step, to the same facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import astuple

from iepile_cli.evaluation.decoding import answer_type, decode
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
    slot_name,
)
from iepile_cli.task.table import Layout, Task, Unit

Fact: TypeAlias = tuple[Any, ...]
Facts: TypeAlias = list[list[Fact]]
# One extracted item: the texts of its fixed roles, and its slots with their fillers.
Item: TypeAlias = tuple[tuple[str, ...], Iterable[tuple[str, Any]]]
# The type of the item and of both its ends, and the item.
TypedItem: TypeAlias = tuple[str, str, str, Item]

_FIELDS = ("type", "subject_type", "object_type", "slot", "filler")


class _Fields:
    """Where a unit's values stand in the flat tuple of an item, and how to pick them."""

    def __init__(self, unit: Unit, task: Task) -> None:
        names = (*_FIELDS, *fixed_roles(task.shape))
        places = [names.index(name) for name in (*unit.label, *unit.mentions)]
        self.slotted = unit.slotted
        if len(places) == 1:
            only = places[0]
            self.pick: Callable[[tuple[Any, ...]], Fact] = lambda flat: (flat[only],)
        else:
            self.pick = itemgetter(*places)


class FactReader:
    """Reads the answers and the labels of one task into facts.

    ``literal``: as the IEPile repository's script does, where "NAN" is a trigger like any other,
    empty values are predictions and repeated gold arguments count again.
    """

    def __init__(self, task: Task, *, literal: bool = False) -> None:
        self.task = task
        self.literal = literal
        self.labels = [len(unit.label) for unit in task.units]
        self.typed_ends = ["subject_type" in unit.label for unit in task.units]
        # Items that are one and the same however often they come: keys of an object.
        self.distinct = [isinstance(task.shape, Keyed) and not unit.slotted for unit in task.units]
        # Whether facts are changed before they are compared.
        self.transforms = any(self.typed_ends) or any(self.distinct)
        # The main unit that has mentions: what types are confused over.
        self.named_unit = next(n for n, unit in enumerate(task.units) if unit.mentions)
        self._single = len(task.units) == 1
        self._fields = [_Fields(unit, task) for unit in task.units]
        self._items = _items(task.shape, literal)
        # Add the facts of a usual answer, and give those of a usual label.
        self.add_usual_answer, self.read_usual_label = _usual(task, literal)

    def empty(self) -> Facts:
        """A list for each unit."""
        return [[]] if self._single else [[] for _ in self._fields]

    def read_value(self, answer: dict[str, Any], facts: Facts) -> None:
        """Add the facts of any decoded answer; what does not fit the task is left out."""
        for key, value in answer.items():
            for item in self._items(value):
                self.add((key, "", "", item), facts)

    def add(self, typed: TypedItem, facts: Facts) -> None:
        """Add what one item says to the facts of each unit."""
        kind, subject_type, object_type, (fixed, slots) = typed
        for fields, into in zip(self._fields, facts, strict=True):
            if fields.slotted:
                for slot, filler in slots:
                    into.append(
                        fields.pick((kind, subject_type, object_type, slot, filler, *fixed))
                    )
            else:
                into.append(fields.pick((kind, subject_type, object_type, "", "", *fixed)))

    def read_label(self, label: str) -> tuple[Facts | None, list[Fact]]:
        """The gold facts of a label, None when it is not a list; and those that are optional.

        Optional is what no training target can hold (an event without arguments where the
        answer is arguments only): right when predicted, not missed when not.
        """
        entries = decode(label)
        return self.read_entries(entries) if isinstance(entries, list) else (None, [])

    def read_entries(self, entries: list[Any]) -> tuple[Facts, list[Fact]]:
        """The gold facts of a list of annotations, and those that are optional."""
        if not self.literal:
            return self.read_items(read_annotations(self.task, entries, []))
        facts = self.empty()
        for typed in _literal_gold(self.task, entries):
            self.add(typed, facts)
        return facts, []

    def read_items(self, items: Iterable[Gold]) -> tuple[Facts, list[Fact]]:
        """The facts of gold items, and those that are optional."""
        facts = self.empty()
        optional: list[Fact] = []
        for typed in (gold_item(self.task, item) for item in items):
            if typed[3] == ((), []):
                optional.append(self._fields[0].pick((*typed[:3], "", "")))
            else:
                self.add(typed, facts)
        return facts, optional

    def label_name(self, fact: Fact) -> str:
        """What a fact of the unit that types are confused over says of its mentions, in a word.

        Its type or slot; ``subject_predicate_object`` for a typed relation, as conversion names
        it; ``type / slot`` where both say what it is.
        """
        number = self.named_unit
        label = [str(part) for part in fact[: self.labels[number]]]
        if self.typed_ends[number]:
            return label_of(SchemaItem(label[0], subject_type=label[1], object_type=label[2]))
        return " / ".join(label)


def gold_item(task: Task, gold: Gold) -> TypedItem:
    """A gold item as answers have it.

    An absent word stands for nothing on both sides, and a repeated slot value counts once: so it
    is in the targets that models are trained on.
    """
    fixed = fixed_roles(task.shape)
    known = {role for role, _ in task.layout.roles}
    named = dict(pair for pair in gold.roles if pair[0] in known)
    slots = [
        (slot_name(role), text) for role, text in gold.roles if role not in known and text != NAN
    ]
    texts = tuple("" if named.get(role) == NAN else named.get(role, "") for role in fixed)
    return gold.type, gold.subject_type, gold.object_type, (texts, list(dict.fromkeys(slots)))


def _literal_gold(task: Task, entries: list[Any]) -> Iterator[TypedItem]:
    layout = task.layout
    keys = dict(layout.roles)
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        fixed = tuple(_hashable(entry.get(keys[role], "")) for role in fixed_roles(task.shape))
        yield _hashable(entry.get(layout.type, "")), "", "", (fixed, list(_parts(layout, entry)))


def _parts(layout: Layout, entry: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    parts = entry.get(layout.slot_list) if layout.slot_list else None
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict):
            yield (
                _hashable(part.get(layout.slot_role, "")),
                _hashable(part.get(layout.slot_text, "")),
            )


def _hashable(value: Any) -> Any:
    """The value itself, or its spelling in a form that equals no string."""
    return ("", repr(value)) if isinstance(value, (dict, list)) else value


# ------------------------------------------------------------------------------- the common case

# Adds the facts of a string of JSON, and gives the facts of one. Both raise one of ``NOT_TYPED``,
# before anything is added, for what is not usual.
AddAnswer: TypeAlias = Callable[[Any, Facts], None]
ReadLabel: TypeAlias = Callable[[str], Facts]


def _refuse(*_: object) -> Any:
    raise ValueError("no answer of this task is usual")


def _usual(task: Task, literal: bool) -> tuple[AddAnswer, ReadLabel]:
    """What reads a task's usual answers and labels; refuses all where there is no such way."""
    add_answer: Callable[[Callable[[str], Any]], AddAnswer]
    read_label: Callable[[Callable[[str], Any]], ReadLabel]
    match task.shape, [(unit.label, unit.mentions) for unit in task.units]:
        case Each(Mention(absent=None)), [(("type",), (_,))]:
            add_answer, read_label = _adding_mentions, _reading_plain_label
        case (
            Each(Record(((_, Mention(absent=None)), (_, Mention(absent=None))))),
            [(("type",), (_, _))],
        ):
            add_answer, read_label = _adding_pairs, _reading_plain_label
        case (
            Each(Record(((_, Mention(absent="NAN")), (_, Slots("NAN"))))),
            [(("type",), (_,)), (("type", "slot"), ("filler",))],
        ) if not literal:
            add_answer, read_label = _adding_events, _reading_event_label
        case _:
            return _refuse, _refuse
    answers: Any = dict[str, answer_type(task.shape)]  # type: ignore[misc]
    entries: Any = list[_entry_type(task.layout)]  # type: ignore[misc]
    return (
        add_answer(msgspec.json.Decoder(answers).decode),
        read_label(msgspec.json.Decoder(entries).decode),
    )


def _entry_type(layout: Layout) -> Any:
    """The type of a gold entry: its type, its fixed roles and its slots, in this order."""
    fields: list[Any] = [("type", str)]
    keys = {"type": layout.type}
    for role, key in layout.roles:
        # A missing trigger is an empty one; of other mentions, one that lacks is no gold.
        fields.append((role, str, "") if layout.slot_list else (role, str))
        keys[role] = key
    if layout.slot_list:
        slot = msgspec.defstruct(
            "Slot",
            [("role", str), ("text", str)],
            rename={"role": layout.slot_role, "text": layout.slot_text},
            gc=False,
        )
        fields.append(("slots", list[slot], msgspec.field(default_factory=list)))  # type: ignore[valid-type]
        keys["slots"] = layout.slot_list
    return msgspec.defstruct("Entry", fields, rename=keys, gc=False)


def _adding_mentions(decode: Callable[[str], Any]) -> AddAnswer:
    def add(output: Any, facts: Facts) -> None:
        put = facts[0].append
        for kind, mentions in decode(output).items():
            for mention in mentions:
                put((kind, mention))

    return add


def _adding_pairs(decode: Callable[[str], Any]) -> AddAnswer:
    def add(output: Any, facts: Facts) -> None:
        put = facts[0].append
        for kind, pairs in decode(output).items():
            for pair in pairs:
                put((kind, pair.part0, pair.part1))

    return add


def _adding_events(decode: Callable[[str], Any]) -> AddAnswer:
    def add(output: Any, facts: Facts) -> None:
        put_event, put_argument = facts[0].append, facts[1].append
        for kind, events in decode(output).items():
            for event in events:
                trigger = event.part0
                put_event((kind, "" if trigger == NAN else trigger))
                for role, filler in event.part1.items():
                    if type(filler) is str:
                        if filler and filler != NAN:
                            put_argument((kind, role, filler))
                        continue
                    for part in filler:
                        if part and part != NAN:
                            put_argument((kind, role, part))

    return add


def _reading_plain_label(decode: Callable[[str], Any]) -> ReadLabel:
    def read(label: str) -> Facts:
        # An empty mention is no gold, and no other JSON without escapes has these two letters.
        if '""' in label:
            raise ValueError("a mention may be empty")
        return [list(map(astuple, decode(label)))]

    return read


def _reading_event_label(decode: Callable[[str], Any]) -> ReadLabel:
    def read(label: str) -> Facts:
        events: list[Fact] = []
        arguments: list[Fact] = []
        for kind, trigger, slots in map(astuple, decode(label)):
            events.append((kind, "" if trigger == NAN else trigger))
            found = [
                (kind, slot.role, slot.text) for slot in slots if slot.text and slot.text != NAN
            ]
            # A repeated argument counts once within its event.
            arguments += found if len(found) < 2 else dict.fromkeys(found)
        return [events, arguments]

    return read


# -------------------------------------------------------------------------- items, by their shape


def _items(node: Node, literal: bool) -> Callable[[Any], Iterable[Item]]:
    """What reads the value under one key of an answer: items, with what does not fit left out."""
    match node:
        case Each(element):
            read = _item(element, literal)
            return lambda value: _listed(read, value)
        case Keyed(_, inner):
            fill = _item(inner, literal)
            return lambda value: _keyed(fill, value)
        case _:
            raise TypeError(f"{type(node).__name__} cannot answer a schema item")


def _listed(read: Callable[[Any], Item | None], value: Any) -> Iterator[Item]:
    for part in value if isinstance(value, list) else ():
        item = read(part)
        if item is not None:
            yield item


def _keyed(fill: Callable[[Any], Item | None], value: Any) -> Iterator[Item]:
    for head, part in value.items() if isinstance(value, dict) else ():
        item = fill(part)
        yield (head,), item[1] if item else ()


def _item(node: Node, literal: bool) -> Callable[[Any], Item | None]:
    """What reads one item: None for a value of the wrong kind.

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


def _record(fields: tuple[tuple[str, Node], ...], value: Any, literal: bool) -> Item | None:
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
                yield slot, _hashable(part)
            elif part not in ("", None) and not isinstance(part, (dict, list)):
                yield slot, part

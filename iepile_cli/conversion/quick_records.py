"""Records of the usual form, read the quick way: decoded in C by types made from a task's layout.

Whatever has another form gives None here and is read the general way (``record_gold.py``), which
says what is wrong with it. Answers are those that ``task/instruction.py: answer_json`` gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from types import GenericAlias
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec
import orjson

from iepile_cli.conversion.record_gold import GoldLabels, GoldSlots, Key, distinct_entries
from iepile_cli.conversion.rows import Cache, inner, nested
from iepile_cli.conversion.sampling import Request
from iepile_cli.task.instruction import dumps
from iepile_cli.task.shape import Each, Keyed, Mention, Node, Record, Slots, fixed_roles
from iepile_cli.task.table import Layout, Task

# Where a mention or a pair stands in the text, and what it is.
_Placed: TypeAlias = tuple[Any, Any]
# An annotated item: where its head stands (-1: no head), its head, its slots' fillers.
_Filled: TypeAlias = tuple[int, str, dict[str, list[str]]]
_Write: TypeAlias = Callable[[_Filled, Sequence[str]], bytes]

# A number in JSON text that Python may write otherwise than it stands there.
_NUMBER = re.compile(rb"[:\[,]\s*(?:-0|-?\d+[.eE])")

_first = itemgetter(0)


class QuickRecord(NamedTuple):
    """A record's text and ids, what it has of each key, and its annotation as a row's label."""

    text: str
    id: Any
    doc_id: Any
    found: dict[Key, list[Any]]
    label: bytes


class _Reader(Protocol):
    """Reads decoded entries: what ``read`` finds is given to the others."""

    def read(self, entries: Sequence[Any], text: str) -> dict[Key, list[Any]] | None: ...

    def labels(self, found: Mapping[Key, list[Any]]) -> GoldLabels: ...

    def answer(self, nothing: bytes, items: list[Any], request: Request) -> bytes: ...


class QuickReader:
    """Reads whole records for rows to train on (``trains``), or for rows to test with.

    ``slots`` are those of each type of the schema. ``labels`` and ``answer`` tell more about what
    a record's ``found`` holds: the labels to sample by, and the answer to one request, given the
    empty one. Raises ``TypeError`` for a task whose answers have another shape.
    """

    def __init__(self, task: Task, slots: Mapping[Key, frozenset[str]], *, trains: bool) -> None:
        self._layout, self._trains = task.layout, trains
        reader: _Reader = _SlottedReader(task, slots) if task.slots else _FlatReader(task)
        self._read, self.labels, self.answer = reader.read, reader.labels, reader.answer
        entries: Any = GenericAlias(list, (_entry_type(task.layout),))
        bare: Any = GenericAlias(list, (_entry_type(task.layout, bare=True),))
        self._entries = msgspec.json.Decoder(entries).decode
        self._bare = msgspec.json.Decoder(bare).decode
        # A label is written as the annotation stands in the record.
        kind: Any = entries | None if trains else msgspec.Raw
        record: Any = msgspec.defstruct(
            "Record",
            [
                ("text", str),
                ("entries", kind, None if trains else msgspec.Raw(b"null")),
                ("id", Any, None),
                ("doc_id", Any, None),
            ],
            rename={"entries": task.layout.field},
        )
        self._decode = msgspec.json.Decoder(record).decode

    def read(self, raw: bytes) -> QuickRecord | None:
        """One record; None for an unusual one."""
        label, strings = b"", True
        try:
            record = self._decode(raw)
            entries = record.entries
            if not self._trains:
                label = bytes(entries)
                entries, strings = self._decoded(label)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        text = record.text
        found = None if entries is None else self._read(entries, text)
        if found is None:
            return None
        if not self._trains:
            label = self._label(label, strings, entries, found)
        return QuickRecord(text, record.id, record.doc_id, found, label)

    def _decoded(self, raw: bytes) -> tuple[Any, bool]:
        """The entries of an annotation, and whether they hold nothing but strings."""
        try:
            return self._bare(raw), True
        except msgspec.DecodeError:
            return self._entries(raw), False

    def _label(self, raw: bytes, strings: bool, entries: Sequence[Any], found: Any) -> bytes:
        """Annotation as a test row's label: in Python's layout, repetitions left out, escaped."""
        if self._layout.unique and sum(map(len, found.values())) < len(entries):
            return inner(dumps(distinct_entries(self._layout, orjson.loads(raw))))
        # What holds neither escapes nor such numbers differs from Python's layout in blanks alone.
        if b"\\" not in raw and (strings or _NUMBER.search(raw) is None):
            return inner(msgspec.json.format(raw, indent=0).decode())
        return inner(dumps(orjson.loads(raw)))


def _entry_type(layout: Layout, *, bare: bool = False) -> Any:
    """The type of an annotation's entry.

    ``kind`` is the label, ``role0`` and ``role1`` the fixed roles; ``slots``, each with ``slot``
    and ``filler``, or these two themselves are there as the layout has them. With ``bare``, an
    entry has no other fields.
    """
    keys = {"kind": layout.type}
    required: list[Any] = []
    optional: list[Any] = []
    (optional if layout.by_head else required).append("kind")
    for number, (_, key) in enumerate(layout.roles):
        keys[f"role{number}"] = key
        # Events may lack their trigger.
        (optional if layout.slot_list or not layout.unique else required).append(f"role{number}")
    for name in ("subject_type", "object_type"):
        if key := getattr(layout, name):
            keys[name] = key
            required.append(name)
    fields = [(name, str) for name in required]
    if layout.by_head:
        keys |= {"slot": layout.slot_role, "filler": layout.slot_text}
        fields += [("slot", str), ("filler", str)]
    fields += [(name, str, "") for name in optional]  # type: ignore[misc]
    if layout.slot_list:
        slot = msgspec.defstruct(
            "Slot",
            [("slot", str), ("filler", str)],
            rename={"slot": layout.slot_role, "filler": layout.slot_text},
            gc=False,
            forbid_unknown_fields=bare,
        )
        keys["slots"] = layout.slot_list
        fields.append(("slots", tuple[slot, ...], ()))  # type: ignore[valid-type, arg-type]
    return msgspec.defstruct("Entry", fields, rename=keys, gc=False, forbid_unknown_fields=bare)


class _FlatReader:
    """Gold that is mentions or pairs."""

    def __init__(self, task: Task) -> None:
        self._typed = bool(task.layout.subject_type)
        self._unique = bool(task.layout.unique)
        names = _pair_names(task.shape)
        self._opening = [
            (b", " if index else b"{") + nested(name) + b": " for index, name in enumerate(names)
        ]
        self._find = self._pairs if names else self._mentions
        self._write: Callable[[Any], bytes] = self._pair if names else nested

    def read(self, entries: Sequence[Any], text: str) -> dict[Key, list[_Placed]] | None:
        """The mentions or pairs of each key, each once if they are ``unique``."""
        found = self._find(entries, text)
        if found is None or not self._unique or len(found) == len(entries):
            return found
        return {key: [*dict.fromkeys(items)] for key, items in found.items()}

    def _mentions(self, entries: Sequence[Any], text: str) -> dict[Key, list[_Placed]] | None:
        find = text.find
        found: dict[Key, list[_Placed]] = {}
        for entry in entries:
            key, head = entry.kind, entry.role0
            place = find(head)
            if place < 0 or not head:
                return None
            if key in found:
                found[key].append((place, head))
            else:
                found[key] = [(place, head)]
        return found

    def _pairs(self, entries: Sequence[Any], text: str) -> dict[Key, list[_Placed]] | None:
        find, typed = text.find, self._typed
        found: dict[Key, list[_Placed]] = {}
        for entry in entries:
            key, head, tail = entry.kind, entry.role0, entry.role1
            places = find(head), find(tail)
            if min(places) < 0 or not head or not tail:
                return None
            if typed:
                if not entry.subject_type:
                    return None
                key = key, entry.subject_type, entry.object_type
            if key in found:
                found[key].append((places, (head, tail)))
            else:
                found[key] = [(places, (head, tail))]
        return found

    def labels(self, found: Mapping[Key, list[_Placed]]) -> GoldLabels:
        return dict.fromkeys(found, _NO_SLOTS)

    def answer(self, nothing: bytes, items: list[_Placed], request: Request) -> bytes:
        if len(items) > 1:
            items.sort(key=_first)
        written = [self._write(what) for _, what in items]
        return nothing[:-1] + b", ".join(written) + b"]"

    def _pair(self, pair: tuple[str, str]) -> bytes:
        opening, between = self._opening
        return b"".join((opening, nested(pair[0]), between, nested(pair[1]), b"}"))


_NO_SLOTS = GoldSlots()


def _pair_names(shape: Node) -> Sequence[str]:
    """The answer keys of pairs, none of mentions; raises ``TypeError`` for other shapes."""
    match shape:
        case Each(Mention(_, None)):
            return ()
        case Each(Record(((head, Mention(_, None)), (tail, Mention(_, None))))):
            return head, tail
    raise TypeError(f"{shape} cannot be read the quick way")


class _SlottedReader:
    """Gold with slots: events, entities with attributes."""

    def __init__(self, task: Task, slots: Mapping[Key, frozenset[str]]) -> None:
        self._slots = slots
        self.read = self._by_head if task.layout.by_head else self._items
        self._heads = bool(fixed_roles(task.shape))
        element = task.shape.element if isinstance(task.shape, Each) else task.shape
        self._keyed = isinstance(element, Keyed)
        self._named: Cache[str, bytes] = Cache(lambda slot: nested(slot) + b": ")
        self._absent: Cache[str, bytes] = Cache(lambda slot: b"")
        self._write = self._writer(element.value if isinstance(element, Keyed) else element)

    def _items(self, entries: Sequence[Any], text: str) -> dict[Key, list[_Filled]] | None:
        find, slots = text.find, self._slots
        found: dict[Key, list[_Filled]] = {}
        for entry in entries:
            kind, name = entry.kind, entry.role0
            at = find(name) if name else -1
            if kind not in slots or (at < 0 and name):
                return None
            fillers: dict[str, list[str]] = {}
            known, several = slots[kind], False
            for one in entry.slots:
                slot, filler = one.slot, one.filler
                if slot not in known or not filler or filler not in text:
                    return None
                if slot in fillers:
                    fillers[slot].append(filler)
                    several = True
                else:
                    fillers[slot] = [filler]
            if not name and not fillers:
                return None
            if several:
                _sort(fillers, text)
            if kind in found:
                found[kind].append((at, name, fillers))
            else:
                found[kind] = [(at, name, fillers)]
        return found

    def _by_head(self, entries: Sequence[Any], text: str) -> dict[Key, list[_Filled]] | None:
        find, slots = text.find, self._slots
        heads: dict[tuple[str, str], _Filled] = {}
        several = False
        for entry in entries:
            kind, head, slot, filler = entry.kind, entry.role0, entry.slot, entry.filler
            if not head or not filler or filler not in text or slot not in slots.get(kind, ()):
                return None
            if (kind, head) not in heads:
                at = find(head)
                if at < 0:
                    return None
                heads[kind, head] = at, head, {slot: [filler]}
                continue
            fillers = heads[kind, head][2]
            if slot in fillers:
                fillers[slot].append(filler)
                several = True
            else:
                fillers[slot] = [filler]
        found: dict[Key, list[_Filled]] = {}
        for (kind, _), item in heads.items():
            if several:
                _sort(item[2], text)
            if kind in found:
                found[kind].append(item)
            else:
                found[kind] = [item]
        return found

    def labels(self, found: Mapping[Key, list[_Filled]]) -> GoldLabels:
        """The slots and triggers that each type has, first ones first."""
        labels: dict[Key, GoldSlots] = {}
        for key, items in found.items():
            if len(items) == 1:
                _, name, fillers = items[0]
                labels[key] = GoldSlots(tuple(fillers), (name,) if name else ())
                continue
            slots = dict.fromkeys([slot for _, _, fillers in items for slot in fillers])
            places = {name: at for at, name, _ in items if name}
            labels[key] = GoldSlots(tuple(slots), tuple(sorted(places, key=places.__getitem__)))
        return labels

    def answer(self, nothing: bytes, items: list[_Filled], request: Request) -> bytes:
        slots, heads, write = request.slots, self._heads, self._write
        items = [one for one in items if (heads and one[1]) or not one[2].keys().isdisjoint(slots)]
        if not items:
            return nothing
        if heads and len(items) > 1:
            items.sort(key=_first)
        if self._keyed:
            written = [nested(one[1]) + b": " + write(one, slots) for one in items]
        else:
            written = [write(one, slots) for one in items]
        return nothing[:-1] + b", ".join(written) + nothing[-1:]

    def _writer(self, node: Node) -> _Write:
        match node:
            case Mention(_, absent):
                nan = nested(absent or "")
                return lambda item, slots: nested(item[1]) if item[1] else nan
            case Record(fields):
                parts = [
                    ((b", " if at else b"{") + nested(name) + b": ", self._writer(value))
                    for at, (name, value) in enumerate(fields)
                ]
                return lambda item, slots: (
                    b"".join([key + write(item, slots) for key, write in parts]) + b"}"
                )
            case Slots(None):
                return self._given_slots
            case Slots(absent):
                ending = nested(absent or "")
                self._absent = Cache(lambda slot: self._named[slot] + ending)
                return self._all_slots
            case _:
                raise TypeError(f"{type(node).__name__} cannot stand inside an answer")

    def _given_slots(self, item: _Filled, slots: Sequence[str]) -> bytes:
        fillers, named = item[2], self._named
        pieces = [named[slot] + _value(fillers[slot]) for slot in slots if slot in fillers]
        return b"{" + b", ".join(pieces) + b"}"

    def _all_slots(self, item: _Filled, slots: Sequence[str]) -> bytes:
        fillers, named, absent = item[2], self._named, self._absent
        if fillers.keys().isdisjoint(slots):
            return b"{}"
        pieces = [
            named[slot] + _value(fillers[slot]) if slot in fillers else absent[slot]
            for slot in slots
        ]
        return b"{" + b", ".join(pieces) + b"}"


def _sort(fillers: Mapping[str, list[str]], text: str) -> None:
    """Put the fillers of each slot in the order of the text, each once."""
    for some in fillers.values():
        if len(some) > 1:
            some[:] = sorted(dict.fromkeys(some), key=text.find)


def _value(fillers: list[str]) -> bytes:
    """One filler as it is, several as a list."""
    if len(fillers) == 1:
        return nested(fillers[0])
    return b"[" + b", ".join(map(nested, fillers)) + b"]"

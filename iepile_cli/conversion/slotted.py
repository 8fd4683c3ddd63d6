"""Annotation with slots (events, attributes) into answers, escaped: the quick way.

Does for decoded entries what ``task/shape.py: render`` and ``json.dumps`` do for gold of any kind;
entries that are unusual in anything are left to those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from iepile_cli.conversion.escaping import nested, nested_name
from iepile_cli.conversion.gold import GoldSlots, Key
from iepile_cli.task.shape import Each, Keyed, Mention, Node, Record, Slots, fixed_roles
from iepile_cli.task.table import Task


class Filled(NamedTuple):
    """One annotated item: where its head stands (-1: no head), its head, its slots' fillers.

    Each filler is where it stands, and its text.
    """

    position: int
    name: str
    fillers: dict[str, list[tuple[int, str]]]


Found: TypeAlias = dict[Key, list[Filled]]
_Write: TypeAlias = Callable[[Filled, Sequence[str]], bytes]

_first = itemgetter(0)


class SlottedReader:
    """Reads decoded entries and writes the answers to them.

    ``slots`` are those of each type of the schema. ``read`` gives None for anything unusual; the
    record is then read the general way, which says what is wrong with it.
    """

    def __init__(self, task: Task, slots: Mapping[Key, frozenset[str]]) -> None:
        self.slots = slots
        self.by_head = task.layout.by_head
        self.absent: dict[str, bytes] = {}
        self.heads = bool(fixed_roles(task.shape))
        inner = task.shape.element if isinstance(task.shape, Each) else task.shape
        self.keyed = isinstance(inner, Keyed)
        self._nan = b""
        self._write = self._compiled(inner.value if isinstance(inner, Keyed) else inner)

    def read(self, entries: Sequence[Any], text: str) -> Found | None:
        """What the entries hold, by type."""
        return self._by_head(entries, text) if self.by_head else self._items(entries, text)

    def _items(self, entries: Sequence[Any], text: str) -> Found | None:
        find = text.find
        found: Found = {}
        for entry in entries:
            known = self.slots.get(entry.kind)
            name = entry.role0
            at = find(name) if name else -1
            if known is None or (at < 0 and name):
                return None
            placed: dict[str, list[tuple[int, str]]] = {}
            for one in entry.slots:
                slot, filler = one.slot, one.filler
                place = find(filler)
                if place < 0 or not filler or slot not in known:
                    return None
                if slot in placed:
                    placed[slot].append((place, filler))
                else:
                    placed[slot] = [(place, filler)]
            if not name and not placed:
                return None
            found.setdefault(entry.kind, []).append(Filled(at, name, placed))
        return found

    def _by_head(self, entries: Sequence[Any], text: str) -> Found | None:
        find = text.find
        heads: dict[tuple[str, str], tuple[int, dict[str, list[tuple[int, str]]]]] = {}
        for entry in entries:
            kind, head, slot, filler = entry.kind, entry.role0, entry.slot, entry.filler
            at, place = find(head), find(filler)
            if (
                at < 0
                or place < 0
                or not head
                or not filler
                or slot not in self.slots.get(kind, ())
            ):
                return None
            _, placed = heads.setdefault((kind, head), (at, {}))
            placed.setdefault(slot, []).append((place, filler))
        found: Found = {}
        for (kind, head), (at, placed) in heads.items():
            found.setdefault(kind, []).append(Filled(at, head, placed))
        return found

    def labels(self, found: Found) -> dict[Key, GoldSlots]:
        """The slots and triggers that each type has, first ones first."""
        labels: dict[Key, GoldSlots] = {}
        for key, some in found.items():
            if len(some) == 1:
                _, name, fillers = some[0]
                labels[key] = GoldSlots(tuple(fillers), (name,) if name else ())
                continue
            slots = dict.fromkeys([slot for one in some for slot in one.fillers])
            places = {one.name: one.position for one in some if one.name}
            triggers = sorted(places, key=places.__getitem__) if len(places) > 1 else places
            labels[key] = GoldSlots(tuple(slots), tuple(triggers))
        return labels

    def answer(self, nothing: bytes, found: Iterable[Filled], slots: Sequence[str]) -> bytes:
        """The answer to one type with these slots; ``nothing`` is its empty answer."""
        heads = self.heads
        items = [
            one for one in found if (heads and one.name) or not one.fillers.keys().isdisjoint(slots)
        ]
        if not items:
            return nothing
        if heads and len(items) > 1:
            items.sort(key=_first)
        written = [self._write(one, slots) for one in items]
        if self.keyed:
            written = [
                nested(one.name) + b": " + part for one, part in zip(items, written, strict=True)
            ]
        return nothing[:-1] + b", ".join(written) + nothing[-1:]

    def _compiled(self, node: Node) -> _Write:
        match node:
            case Mention(_, absent):
                self._nan = nested(absent or "")
                return lambda filled, slots: nested(filled.name) if filled.name else self._nan
            case Record(fields):
                parts = [
                    ((b", " if at else b"{") + nested(name) + b": ", self._compiled(inner))
                    for at, (name, inner) in enumerate(fields)
                ]
                return lambda filled, slots: (
                    b"".join([key + write(filled, slots) for key, write in parts]) + b"}"
                )
            case Slots(absent):
                ending = None if absent is None else nested(absent)
                return lambda filled, slots: self._slots(filled.fillers, slots, ending)
            case _:
                raise TypeError(f"{type(node).__name__} cannot stand inside an answer")

    def _slots(
        self,
        fillers: Mapping[str, list[tuple[int, str]]],
        slots: Sequence[str],
        absent: bytes | None,
    ) -> bytes:
        pieces = []
        some = False
        for slot in slots:
            placed = fillers.get(slot)
            if placed:
                some = True
                pieces.append(nested_name(slot) + b": " + _escaped(placed))
            elif absent is not None:
                piece = self.absent.get(slot)
                if piece is None:
                    piece = self.absent[slot] = nested_name(slot) + b": " + absent
                pieces.append(piece)
        return b"{" + b", ".join(pieces) + b"}" if some else b"{}"


def _escaped(placed: list[tuple[int, str]]) -> bytes:
    """One filler as it is, several as a list in the order of the text."""
    if len(placed) == 1:
        return nested(placed[0][1])
    texts = [
        nested(text) for text in dict.fromkeys([text for _, text in sorted(placed, key=_first)])
    ]
    return texts[0] if len(texts) == 1 else b"[" + b", ".join(texts) + b"]"

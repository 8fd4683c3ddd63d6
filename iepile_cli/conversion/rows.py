"""Converted rows as bytes: what ``json.dumps`` of a row would give, only faster.

A row is JSON text that holds JSON text, so everything is escaped twice. Escaping works letter by
letter, hence a row can be put together from parts that were escaped before: whatever does not
depend on the record (task, source, instruction, schema, empty answers) is escaped once for each
batch of schema items.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import orjson

from iepile_cli.conversion.choosing import Batch, Key, item_of, key_of
from iepile_cli.conversion.plan import Plan
from iepile_cli.task.instruction import dumps, instruction_json, item_json, schema_json
from iepile_cli.task.shape import Each, Mention, Node, Record, SchemaItem, render
from iepile_cli.task.table import Task

# A flat thing: where its mentions stand in the text, and its answer, escaped twice.
Flat: TypeAlias = tuple[Any, bytes]

_INPUT = b', \\"input\\": '
# Faces of sampled batches that are kept; each holds a few kilobytes.
_FACES = 512

_first = itemgetter(0)
_encode = orjson.dumps


def inner(text: str) -> bytes:
    """A text escaped for the inside of a JSON string."""
    return _encode(text)[1:-1]


def nested(text: str) -> bytes:
    """A text as a JSON string inside a JSON string, its own quotation marks escaped."""
    # What is escaped once holds no control characters any more.
    once = _encode(text)[1:-1].replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'\\"' + once + b'\\"'


class Face:
    """A batch of schema items in one language, escaped: all of a row but the record's own part.

    ``head`` goes up to the input's text; ``pieces`` are the answer's ``key: nothing`` parts,
    ``openings`` their beginnings, and ``place`` says which piece a gold key belongs to.
    """

    __slots__ = ("empty", "head", "openings", "pieces", "place", "shared")

    def __init__(self, head: bytes, parts: Sequence[Part]) -> None:
        self.head = head
        self.place = {part.key: at for at, part in enumerate(parts)}
        self.shared = len({part.type for part in parts}) < len(parts)
        if self.shared:
            firsts: dict[str, Part] = {}
            for part in parts:
                firsts.setdefault(part.type, part)
            order = {name: at for at, name in enumerate(firsts)}
            self.place = {part.key: order[part.type] for part in parts}
            parts = list(firsts.values())
        self.pieces = [part.nothing for part in parts]
        self.openings = [part.opening for part in parts]
        self.empty = b"{" + b", ".join(self.pieces) + b"}"


class Part(NamedTuple):
    """What a schema item puts into a row: itself, its empty answer, its answer's beginning."""

    type: str
    key: Key
    shown: bytes
    nothing: bytes
    opening: bytes


class Faces:
    """Makes the faces of batches; what an item puts into a row is escaped once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.task = plan.task
        named = f'"task": {dumps(self.task.name)}, "source": {dumps(plan.source)}'
        self.start = {}
        for language in self.task.instruction:
            asked = instruction_json(self.task, (), "", language).removesuffix('[], "input": ""}')
            self.start[language] = f'{named}, "instruction": "'.encode() + inner(asked)
        self.of_key = {key_of(item): self._part(item) for item in plan.items}
        # Descriptions turn a list of names into an object.
        self.described = not self.task.item_keys and any(item.description for item in plan.items)
        self.of_batch = functools.lru_cache(_FACES)(self._of_batch)

    def of_keys(self, keys: Sequence[Key], language: str) -> Face:
        """The face of some types of a task without slots."""
        parts = [self.of_key.get(key) or self._part(item_of(key)) for key in keys]
        if self.described:
            return self.of_batch(tuple(self._item(key) for key in keys), language)
        return self._face(parts, language)

    def _item(self, key: Key) -> SchemaItem:
        found = (item for item in self.plan.items if key_of(item) == key)
        return next(found, item_of(key))

    def _of_batch(self, batch: Batch, language: str) -> Face:
        parts = [self._part(item) for item in batch]
        if self.described:
            shown = inner(dumps(schema_json(self.task, batch)))
            return Face(self.start[language] + shown + _INPUT, parts)
        return self._face(parts, language)

    def _face(self, parts: Sequence[Part], language: str) -> Face:
        shown = b", ".join([part.shown for part in parts])
        return Face(b"".join((self.start[language], b"[", shown, b"]", _INPUT)), parts)

    def _part(self, item: SchemaItem) -> Part:
        nothing = dumps(render(self.task.shape, (), item)).encode()
        name = nested(item.type) + b": "
        shown = inner(dumps(item_json(self.task, item)))
        return Part(item.type, key_of(item), shown, name + nothing, name + nothing[:1])


def train_row(face: Face, text: bytes, answer: bytes) -> bytes:
    """A training row; ``text`` is nested, ``answer`` escaped for the inside of a string."""
    return b"".join((b"{", face.head, text, b'}", "output": "', answer, b'"}\n'))


def test_row(face: Face, identity: str, text: bytes, label: bytes | None) -> bytes:
    """A test row; ``label`` is escaped, and None when the record is not annotated."""
    named = f'{{"id": "{identity}", '.encode()
    end = b'}"}\n' if label is None else b'}", "label": "' + label + b'"}\n'
    return b"".join((named, face.head, text, end))


def flat_answer(face: Face, things: Mapping[Key, list[Flat]]) -> bytes:
    """The answer of a flat task, escaped: each type's things in the order of the text."""
    if face.shared:
        things = _joined(face, things)
    pieces: list[bytes] | None = None
    place = face.place.get
    for key, found in things.items():
        at = place(key)
        if at is not None:
            if pieces is None:
                pieces = face.pieces.copy()
            if len(found) == 1:
                pieces[at] = face.openings[at] + found[0][1] + b"]"
            else:
                pieces[at] = face.openings[at] + b", ".join([one for _, one in found]) + b"]"
    return face.empty if pieces is None else b"{" + b", ".join(pieces) + b"}"


def _joined(face: Face, things: Mapping[Key, list[Flat]]) -> dict[Key, list[Flat]]:
    """Items that share an answer's key share its list, in the order of the text."""
    lists: dict[int, tuple[Key, list[Flat]]] = {}
    for key, at in face.place.items():
        if key in things:
            lists.setdefault(at, (key, []))[1].extend(things[key])
    return {key: sorted(found, key=_first) for key, found in lists.values()}


class FlatReader:
    """Reads the entries of tasks whose things are mentions or pairs, with nothing of variable form.

    ``things`` gives None for anything unusual; the record is then read the general way, which
    says what is wrong with it.
    """

    def __init__(self, task: Task) -> None:
        layout = task.layout
        roles = dict(layout.roles)
        names = flat_roles(task.shape) or ()
        self.type = layout.type
        self.typed = (layout.subject_type, layout.object_type) if layout.subject_type else None
        self.unique = bool(layout.unique)
        self.keys = [roles[role] for role, _ in names]
        self.opening = [
            (b", " if index else b"{") + nested(name) + b": "
            for index, (_, name) in enumerate(names)
        ]
        self.plain = len(names) == 1 and not names[0][1]

    def things(self, entries: list[Any], text: str) -> dict[Key, list[Flat]] | None:
        """The things of each type in the text's order, or None when an entry is unusual."""
        found = self._mentions(entries, text) if self.plain else self._pairs(entries, text)
        if found is not None:
            for some in found.values():
                if len(some) > 1:
                    some.sort(key=_first)
        return found

    def _mentions(self, entries: list[Any], text: str) -> dict[Key, list[Flat]] | None:
        type_key, mention_key, find = self.type, self.keys[0], text.find
        found: dict[Key, list[Flat]] = {}
        seen = set()
        try:
            for entry in entries:
                kind, mention = entry[type_key], entry[mention_key]
                if type(kind) is not str or type(mention) is not str or not mention:
                    return None
                at = find(mention)
                if at < 0:
                    return None
                if self.unique:
                    if (kind, mention) in seen:
                        continue
                    seen.add((kind, mention))
                if kind in found:
                    found[kind].append((at, nested(mention)))
                else:
                    found[kind] = [(at, nested(mention))]
        except (KeyError, TypeError):
            return None
        return found

    def _pairs(self, entries: list[Any], text: str) -> dict[Key, list[Flat]] | None:
        (one, other), find = self.keys, text.find
        opening, between = self.opening
        found: dict[Key, list[Flat]] = {}
        seen = set()
        try:
            for entry in entries:
                kind, head, tail = entry[self.type], entry[one], entry[other]
                if type(kind) is not str or type(head) is not str or type(tail) is not str:
                    return None
                places = find(head), find(tail)
                if not head or not tail or places[0] < 0 or places[1] < 0:
                    return None
                key: Key = kind
                if self.typed:
                    key = kind, entry[self.typed[0]], entry[self.typed[1]]
                    if type(key[1]) is not str or type(key[2]) is not str or not key[1]:
                        return None
                if self.unique and (key, head, tail) in seen:
                    continue
                seen.add((key, head, tail))
                thing = opening + nested(head) + between + nested(tail) + b"}"
                found.setdefault(key, []).append((places, thing))
        except (KeyError, TypeError):
            return None
        return found


def flat_roles(shape: Node) -> Sequence[tuple[str, str]] | None:
    """The (role, answer key) pairs of a shape that is a list of mentions or of pairs, else None.

    A list of mentions has one role with an empty key.
    """
    match shape:
        case Each(Mention(role, None)):
            return [(role, "")]
        case Each(Record(fields)):
            pairs = [
                (value.role, name)
                for name, value in fields
                if isinstance(value, Mention) and value.absent is None
            ]
            return pairs if len(pairs) == len(fields) == 2 else None
    return None

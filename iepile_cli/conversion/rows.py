"""Converted rows as bytes: what ``json.dumps`` of a row would give, only faster.

A row is JSON text that holds JSON text, so everything is escaped twice. Escaping works letter by
letter, hence a row can be put together from parts that were escaped before: whatever does not
depend on the record (task, source, instruction, schema items, empty answers) is escaped once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import orjson

from iepile_cli.conversion.record_gold import Key
from iepile_cli.conversion.sampling import Batch, Request, Sampler
from iepile_cli.task.instruction import dumps, instruction_json, item_json, schema_json
from iepile_cli.task.shape import render

# Gives the answer to a request: its empty one, what the record has for it, the request.
Answer: TypeAlias = Callable[[bytes, list[Any], Request], bytes]

_INPUT = b', \\"input\\": '
# The same after a list of schema items, which begins with the row.
_LISTED = b"]" + _INPUT
_END = b'}"}\n'
_OUTPUT = b'}", "output": "{'
# Stand for the slots and the given triggers of a schema item; JSON text holds no such bytes.
_SLOTS, _TRIGGERS = b"\0", b"\1"
_GIVEN = ("\1",)
# So many names and schema items are kept; each holds a few hundred bytes.
_CACHED = 1 << 14

_K = TypeVar("_K")
_V = TypeVar("_V")

_encode = orjson.dumps


def inner(text: str) -> bytes:
    """A text escaped for the inside of a JSON string."""
    return _encode(text)[1:-1]


def nested(text: str) -> bytes:
    """A text as a JSON string inside a JSON string, its own quotation marks escaped."""
    once = _encode(text)
    if b"\\" in once:
        return _encode(once.decode())[1:-1]
    # Without escapes, only its own quotation marks get any.
    return b'\\"' + once[1:-1] + b'\\"'


def id_of(text: str) -> str:
    """A record's id: the sha256 of its text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class Cache(dict[_K, _V]):
    """Makes a value when it is first looked up, and forgets all of them when they are too many."""

    def __init__(self, make: Callable[[_K], _V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: _K) -> _V:
        if len(self) >= _CACHED:
            self.clear()
        value = self[key] = self._make(key)
        return value


class BatchTemplate(NamedTuple):
    """A batch in a row: its schema as the row goes on with it, its requests, their places by key.

    ``empty`` are the empty answers of its requests, ``nothing`` all of them. ``shares_types`` says
    that some of its requests share the key of their answer.
    """

    schema: bytes
    requests: Batch
    places: dict[Key, int]
    empty: list[bytes]
    nothing: bytes
    shares_types: bool


class RowWriter:
    """Writes the rows of a dataset's records; what depends on no record is escaped once."""

    def __init__(self, sampler: Sampler) -> None:
        plan = sampler.plan
        self.sampler = sampler
        self.task = plan.task
        named = f'"task": {dumps(self.task.name)}, "source": {dumps(plan.source)}'
        # Descriptions turn a list of names into an object.
        self.described = not self.task.item_keys and any(item.description for item in plan.items)
        opening = b"" if self.described else b"["
        self.start = {}
        for language in self.task.instruction:
            text = instruction_json(self.task, (), "", language).removesuffix('[], "input": ""}')
            self.start[language] = f'{named}, "instruction": "'.encode() + inner(text) + opening
        self.described_slots = {
            key for key, item in self.sampler.items.items() if any(item.descriptions)
        }
        self.names: Cache[str, bytes] = Cache(nested)
        self.shown: Cache[tuple[Key, Any], bytes] = Cache(self._shown)
        self.nothing: Cache[Key, bytes] = Cache(self._nothing)

    def _nothing(self, key: Key) -> bytes:
        """The empty answer to a key, escaped."""
        empty = dumps(render(self.task.shape, (), self.sampler.item(Request(key))))
        return nested(_type_of(key)) + b": " + empty.encode()

    def _shown(self, item: tuple[Key, Any]) -> bytes:
        """The item of a key and a trigger as the instruction shows it: ``item_json``, escaped.

        Marks stand for the slots and for the given triggers, which differ from record to record.
        """
        item_key, trigger = item
        names, parts = self.names, []
        for key, field in self.task.item_keys:
            if field == "slots":
                value = b"[" + _SLOTS + b"]"
            elif field == "triggers":
                if trigger is not _GIVEN:
                    continue
                value = b"[" + _TRIGGERS + b"]"
            elif field == "trigger":
                value = b"false" if trigger is False else b"true"
            elif field == "type":
                value = names[_type_of(item_key)]
            else:
                value = names[item_key[1 if field == "subject_type" else 2]]
            parts.append(names[key] + b": " + value)
        return b"{" + b", ".join(parts) + b"}"

    def _item(self, request: Request) -> bytes:
        """A request as the instruction shows it, escaped."""
        key, slots, trigger = request
        if key in self.described_slots:
            return inner(dumps(item_json(self.task, self.sampler.item(request))))
        if type(trigger) is not tuple:
            shown = self.shown[key, trigger]
        else:
            shown = self.shown[key, _GIVEN]
            shown = shown.replace(_TRIGGERS, b", ".join(map(nested, trigger)))
        if not slots:
            return shown.replace(_SLOTS, b"")
        names = self.names
        return shown.replace(_SLOTS, b", ".join([names[slot] for slot in slots]))

    def batch(self, requests: Batch) -> BatchTemplate:
        """The template of a batch."""
        nothing = self.nothing
        places = {one.key: at for at, one in enumerate(requests)}
        empty = [nothing[key] for key in places]
        shares = False
        if self.described:
            items = [self.sampler.item(one) for one in requests]
            schema = inner(dumps(schema_json(self.task, items))) + _INPUT
        elif not self.task.item_keys:
            names = self.names
            schema = b", ".join([names[key] for key in places]) + _LISTED  # type: ignore[index]
        else:
            schema = b", ".join([self._item(one) for one in requests]) + _LISTED
            if self.task.layout.subject_type:
                shares = len(set(map(_type_of, places))) < len(places)
        whole = b", ".join(dict.fromkeys(empty) if shares else empty)
        return BatchTemplate(schema, requests, places, empty, whole, shares)

    def train_rows(
        self,
        batches: Iterable[BatchTemplate],
        text: str,
        language: str,
        found: Mapping[Key, list[Any]],
        answer: Answer,
    ) -> tuple[list[bytes], list[bool]]:
        """Training rows, and for each whether its whole answer is empty."""
        start, shown, own = b"{" + self.start[language], nested(text) + _OUTPUT, found.keys()
        rows, empty = [], []
        for batch in batches:
            nothing = batch.nothing
            given = nothing if own.isdisjoint(batch.places) else self._answer(batch, found, answer)
            rows.append(b"".join((start, batch.schema, shown, given, _END)))
            empty.append(given == nothing)
        return rows, empty

    def test_rows(
        self, batches: Iterable[BatchTemplate], text: str, language: str, label: bytes | None
    ) -> list[bytes]:
        """Test rows; ``label`` is escaped, and None when the record is not annotated."""
        before = b'{"id": "' + id_of(text).encode() + b'", ' + self.start[language]
        after = nested(text) + (_END if label is None else b'}", "label": "' + label + b'"}\n')
        return [b"".join((before, batch.schema, after)) for batch in batches]

    def _answer(
        self, batch: BatchTemplate, found: Mapping[Key, list[Any]], answer: Answer
    ) -> bytes:
        """The answer to a batch, without its braces."""
        _, requests, places, empty, _, shares = batch
        if shares:
            return self._shared_answer(batch, found, answer)
        pieces = empty.copy()
        for key, some in found.items():
            if key in places:
                at = places[key]
                pieces[at] = answer(pieces[at], some, requests[at])
        return b", ".join(pieces)

    def _shared_answer(
        self, batch: BatchTemplate, found: Mapping[Key, list[Any]], answer: Answer
    ) -> bytes:
        """``_answer`` where requests that share a type share its list."""
        shared: dict[str, tuple[bytes, list[Any], Request]] = {}
        for request, nothing in zip(batch.requests, batch.empty, strict=True):
            some = shared.setdefault(_type_of(request.key), (nothing, [], request))[1]
            some += found.get(request.key, ())
        return b", ".join([answer(*one) if one[1] else one[0] for one in shared.values()])


def _type_of(key: Key) -> str:
    """The key of an answer."""
    return key if isinstance(key, str) else key[0]

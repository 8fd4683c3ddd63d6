"""Converted rows as bytes: what ``json.dumps`` of a row would give, only faster.

A row is JSON text that holds JSON text, so everything is escaped twice. Escaping works letter by
letter, hence a row can be put together from parts that were escaped before: whatever does not
depend on the record (task, source, instruction, schema items, empty answers) is escaped once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from iepile_cli.conversion.escaping import inner, nested, nested_name
from iepile_cli.conversion.gold import Key
from iepile_cli.conversion.sampling import Batch, Request, Sampler
from iepile_cli.conversion.slotted import Found, SlottedReader
from iepile_cli.task.instruction import answer_json, dumps, instruction_json, item_json, schema_json
from iepile_cli.task.shape import Each, Mention, Node, Record, Roles, render

# Where a mention or a pair stands in the text, and its answer, escaped twice.
Placed: TypeAlias = tuple[Any, bytes]

_INPUT = b', \\"input\\": '
_END = b'}"}\n'
_OUTPUT = b'}", "output": "{'
# Stands for given triggers in a template; JSON text holds no such byte.
_MARK = b"\0"
_MARKED = ("\0",)
_MARKED_JSON = nested(_MARKED[0])
# So many templates of requests with sampled slots are kept; each holds a few hundred bytes.
_TEMPLATES = 1 << 14

_first = itemgetter(0)
_second = itemgetter(1)


def id_of(text: str) -> str:
    """A record's id: the sha256 of its text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class Template(NamedTuple):
    """What a request puts into a row, escaped: itself in the schema, and its empty answer."""

    type: str
    shown: bytes
    nothing: bytes


class BatchTemplate(NamedTuple):
    """A batch in a row: its schema, escaped, the keys of its requests, and the requests."""

    schema: bytes
    keys: tuple[Key, ...]
    batch: Batch
    shares_types: bool


class RowWriter:
    """Writes the rows of a dataset's records; what depends on no record is escaped once."""

    def __init__(self, sampler: Sampler) -> None:
        plan = sampler.plan
        self.sampler = sampler
        self.task = plan.task
        named = f'"task": {dumps(self.task.name)}, "source": {dumps(plan.source)}'
        self.start = {}
        for language in self.task.instruction:
            text = instruction_json(self.task, (), "", language).removesuffix('[], "input": ""}')
            self.start[language] = f'{named}, "instruction": "'.encode() + inner(text)
        # Descriptions turn a list of names into an object.
        self.described = not self.task.item_keys and any(item.description for item in plan.items)
        self._templates: dict[Any, Template] = {}
        self.nothing: dict[Key, bytes] = {}
        self.nothing = {key: self._template(Request(key)).nothing for key in sampler.items}
        # Where a schema item is a bare name: the names, escaped.
        bare = not self.task.item_keys and not self.described
        names = {key: nested(item.type) for key, item in sampler.items.items()}
        self.names = names if bare else None

    def template(self, request: Request) -> Template:
        """The template of a request."""
        if type(request.trigger) is tuple:
            return self._with_triggers(request, request.trigger)
        # Without slots, a type's requests are all the same.
        name: Any = request if request.slots else request.key
        return self._templates.get(name) or self._remember(name, request)

    def _with_triggers(self, request: Request, triggers: tuple[str, ...]) -> Template:
        """A template with the record's own triggers in their place."""
        known = self._templates.get((request.key, request.slots))
        if known is None:
            marked = request._replace(trigger=_MARKED)
            known = self._remember((request.key, request.slots), marked)
        type_, shown, nothing = known
        written = b", ".join(map(nested, triggers)) if len(triggers) > 1 else nested(triggers[0])
        return Template(type_, shown.replace(_MARK, written), nothing)

    def _remember(self, name: Any, request: Request) -> Template:
        if len(self._templates) >= _TEMPLATES:
            self._templates.clear()
        template = self._templates[name] = self._template(request)
        return template

    def _template(self, request: Request) -> Template:
        key = request.key
        name = key if isinstance(key, str) else key[0]
        nothing = self.nothing.get(key)
        if nothing is None:
            empty = dumps(render(self.task.shape, (), self.sampler.item(request))).encode()
            nothing = nested(name) + b": " + empty
        known = self.sampler.items.get(key)
        if known is not None and any(known.descriptions):
            shown = inner(dumps(item_json(self.task, self.sampler.item(request))))
            shown = shown.replace(_MARKED_JSON, _MARK)
        else:
            shown = self._shown(request, name)
        return Template(name, shown, nothing)

    def _shown(self, request: Request, name: str) -> bytes:
        """A request as the instruction shows it: ``item_json``, escaped."""
        if not self.task.item_keys:
            return nested(name)
        parts = []
        for key, field in self.task.item_keys:
            if field == "slots":
                value = b"[" + b", ".join(map(nested_name, request.slots)) + b"]"
            elif field == "triggers":
                if not isinstance(request.trigger, tuple):
                    continue
                value = b"[" + _MARK + b"]"
            elif field == "trigger":
                value = b"false" if request.trigger is False else b"true"
            elif field == "type":
                value = nested_name(name)
            else:
                value = nested(request.key[1 if field == "subject_type" else 2])
            parts.append(nested_name(key) + b": " + value)
        return b"{" + b", ".join(parts) + b"}"

    def batch(self, requests: Batch) -> BatchTemplate:
        """The template of a batch."""
        keys = tuple([one.key for one in requests])
        if self.names is not None:
            try:
                names = self.names
                shown = b"[" + b", ".join([names[key] for key in keys]) + b"]"
                return BatchTemplate(shown, keys, requests, False)
            except KeyError:
                # A type that the schema lacks.
                pass
        templates = [self.template(one) for one in requests]
        shares = bool(self.task.layout.subject_type) and len({one.type for one in templates}) < len(
            templates
        )
        if self.described:
            items = [self.sampler.item(one) for one in requests]
            schema = inner(dumps(schema_json(self.task, items)))
        else:
            schema = b"[" + b", ".join([one.shown for one in templates]) + b"]"
        return BatchTemplate(schema, keys, requests, shares)

    def train_row(self, start: bytes, batch: BatchTemplate, text: bytes, answer: bytes) -> bytes:
        """A training row; ``text`` is nested, ``answer`` the inside of the answer's braces."""
        return b"".join((b"{", start, batch.schema, _INPUT, text, _OUTPUT, answer, _END))

    def test_row(
        self, start: bytes, batch: BatchTemplate, text: bytes, identity: bytes, label: bytes | None
    ) -> bytes:
        """A test row; ``label`` is escaped, and None when the record is not annotated."""
        end = _END if label is None else b'}", "label": "' + label + b'"}\n'
        return b"".join((b'{"id": "', identity, b'", ', start, batch.schema, _INPUT, text, end))

    # --------------------------------------------------------------------------------- answers

    def answer(
        self, batch: BatchTemplate, gold: Mapping[Key, Sequence[Roles]], text: str
    ) -> tuple[bytes, bool]:
        """The answer to a batch, and whether all of it is empty; any task, any gold."""
        pieces: dict[str, bytes] = {}
        empty = True
        for request in batch.batch:
            template = self.template(request)
            if request.key in gold:
                # Items that share a type share its list.
                same = [one for one in batch.batch if self.template(one).type == template.type]
                found = [(self.sampler.item(one), gold.get(one.key, ())) for one in same]
                piece = inner(dumps(answer_json(self.task, found, text)))[1:-1]
                empty &= piece == template.nothing
                pieces[template.type] = piece
            else:
                pieces.setdefault(template.type, template.nothing)
        return b", ".join(pieces.values()), empty

    def slotted_answers(
        self, batches: Sequence[BatchTemplate], found: Found, reader: SlottedReader
    ) -> list[tuple[bytes, bool]]:
        """The answers of a record whose gold has slots."""
        answers = []
        nothing = self.nothing
        for batch in batches:
            empty, pieces = True, []
            for request in batch.batch:
                key = request.key
                piece = nothing[key]
                if key in found:
                    piece = reader.answer(piece, found[key], request.slots)
                    empty = empty and piece == nothing[key]
                pieces.append(piece)
            answers.append((b", ".join(pieces), empty))
        return answers

    def flat_answers(
        self, batches: Sequence[BatchTemplate], found: Mapping[Key, list[Placed]]
    ) -> list[tuple[bytes, bool]]:
        """The answers of a record whose gold is a list of placed mentions or pairs."""
        filled = self.nothing.copy()
        for key, some in found.items():
            known = filled.get(key)
            if known is None:
                known = self.template(Request(key)).nothing
            listed = some[0][1] if len(some) == 1 else b", ".join(map(_second, some))
            filled[key] = known[:-1] + listed + b"]"
        own = found.keys()
        return [
            (self._shared(batch, found), own.isdisjoint(batch.keys))
            if batch.shares_types
            else (b", ".join([filled[key] for key in batch.keys]), own.isdisjoint(batch.keys))
            for batch in batches
        ]

    def _shared(self, batch: BatchTemplate, found: Mapping[Key, list[Placed]]) -> bytes:
        """Items that share a type share its list, in the order of the text."""
        lists: dict[str, list[Placed]] = {}
        nothing: dict[str, bytes] = {}
        for request in batch.batch:
            template = self.template(request)
            nothing.setdefault(template.type, template.nothing)
            lists.setdefault(template.type, []).extend(found.get(request.key, ()))
        return b", ".join(
            nothing[name][:-1] + b", ".join(map(_second, sorted(some, key=_first))) + b"]"
            for name, some in lists.items()
        )


class FlatReader:
    """Reads decoded entries of tasks whose gold is mentions or pairs, nothing of variable form.

    ``read`` gives None for anything unusual; the record is then read the general way, which says
    what is wrong with it. Without ``writes`` the mentions' answers are left empty.
    """

    def __init__(self, shape: Node, *, typed: bool, unique: bool, writes: bool) -> None:
        names = flat_names(shape) or ()
        self.typed, self.unique, self.writes = typed, unique, writes
        self.opening = [
            (b", " if index else b"{") + nested(name) + b": " for index, name in enumerate(names)
        ]

    def read(self, entries: Sequence[Any], text: str) -> dict[Key, list[Placed]] | None:
        """The mentions or pairs of each key, in the order of the text, each once if ``unique``."""
        find, writes = text.find, self.writes
        pairs = len(self.opening) == 2
        opening, between = self.opening if pairs else (b"", b"")
        found: dict[Key, list[Placed]] = {}
        seen = set()
        unique = self.unique and len(entries) > 1
        for entry in entries:
            key: Key = entry.kind
            head = entry.role0
            places: Any = find(head)
            tail = ""
            if places < 0 or not head:
                return None
            written = nested(head) if writes else b""
            if pairs:
                tail = entry.role1
                places = places, find(tail)
                if places[1] < 0 or not tail:
                    return None
                if writes:
                    written = b"".join((opening, written, between, nested(tail), b"}"))
            if self.typed:
                key = entry.kind, entry.subject_type, entry.object_type
                if not entry.subject_type:
                    return None
            if unique:
                if (key, head, tail) in seen:
                    continue
                seen.add((key, head, tail))
            if key in found:
                found[key].append((places, written))
            else:
                found[key] = [(places, written)]
        return _sorted(found)


def _sorted(found: dict[Key, list[Placed]]) -> dict[Key, list[Placed]]:
    for some in found.values():
        if len(some) > 1:
            some.sort(key=_first)
    return found


def flat_names(shape: Node) -> Sequence[str] | None:
    """The answer keys of a shape that is a list of mentions (``[""]``) or of pairs, else None."""
    match shape:
        case Each(Mention(_, None)):
            return [""]
        case Each(Record(fields)):
            names = [
                name
                for name, value in fields
                if isinstance(value, Mention) and value.absent is None
            ]
            return names if len(names) == len(fields) == 2 else None
    return None

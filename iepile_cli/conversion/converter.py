"""Records of one set into rows, one record after the other; knows no files and no processes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import orjson

from iepile_cli.conversion.choosing import (
    Batch,
    Chooser,
    Dice,
    Key,
    Own,
    Parts,
    item_of,
    key_of,
    seed_for,
)
from iepile_cli.conversion.gold import (
    NO_GOLD,
    NOT_IN_SCHEMA,
    NOT_JSON,
    Unusable,
    distinct_entries,
    doubts,
    key_of_gold,
    parts_of,
    read_gold,
    text_of,
)
from iepile_cli.conversion.plan import Plan
from iepile_cli.conversion.rows import (
    Face,
    Faces,
    Flat,
    FlatReader,
    flat_answer,
    flat_roles,
    inner,
    nested,
    test_row,
    train_row,
)
from iepile_cli.task.instruction import answer_json, dumps
from iepile_cli.task.language import detect_language
from iepile_cli.task.records import Gold
from iepile_cli.task.shape import Roles

Report: TypeAlias = Callable[[str, str], None]
# Rows, and for each whether its whole answer is empty.
Rows: TypeAlias = tuple[list[bytes], list[bool]]

_BARE = Parts()


def read_json(raw: bytes) -> Any:
    """Decode one record; raises ``Unusable``."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Unusable(NOT_JSON, error.msg) from None


class Converter:
    """Turns records into rows as a plan says. ``fast`` False takes the general way for all."""

    def __init__(self, plan: Plan, *, fast: bool = True) -> None:
        self.plan = plan
        self.task = plan.task
        self.field = self.task.layout.field
        self.chooser = Chooser(plan)
        self.trains = plan.split == "train"
        usual = flat_roles(self.task.shape) is not None
        odd = any(item.trigger is False for item in plan.items)
        self.flat = FlatReader(self.task) if fast and usual and not odd else None
        self.faces = Faces(plan)
        self._random = random.Random()
        self._whole = {
            language: [self.faces.of_batch(batch, language) for batch in self.chooser.whole]
            for language in self.task.instruction
        }

    def convert(self, record: Any, number: int, report: Report) -> Rows:
        """The rows of one decoded record, and for each whether its whole answer is empty.

        ``number`` is the record's place in its file, from which its randomness comes. What is odd
        but kept goes to ``report``. Raises ``Unusable``.
        """
        text = text_of(record)
        entries = record.get(self.field)
        if entries is None:
            if self.trains:
                raise Unusable(NO_GOLD, f"no {self.field!r}")
            return self._test_rows(self._faces(self._batches(None, number), text), text, None)
        if self.flat is not None and type(entries) is list:
            things = self.flat.things(entries, text)
            if things is not None:
                return self._flat_rows(text, entries, things, number, report)
        return self._general_rows(text, entries, number, report)

    def _flat_rows(
        self,
        text: str,
        entries: list[Any],
        things: dict[Key, list[Flat]],
        number: int,
        report: Report,
    ) -> Rows:
        """The quick way, for records that hold nothing unusual."""
        known = self.chooser.items
        strays = [key for key in things if key not in known]
        for key in strays:
            for _ in things[key]:
                report(NOT_IN_SCHEMA, repr(item_of(key).type))
        language = self._language(text)
        if self.chooser.same_for_all and not (strays and self.trains):
            faces = self._whole[language]
        else:
            own = dict.fromkeys(things, _BARE)
            batches = self.chooser.key_batches(own, self._dice(number))
            faces = [self.faces.of_keys(keys, language) for keys in batches]
        if not self.trains:
            if sum(map(len, things.values())) < len(entries):
                entries = distinct_entries(self.task.layout, entries)
            return self._test_rows(faces, text, entries)
        return _train_rows(faces, text, [flat_answer(face, things) for face in faces])

    def _general_rows(self, text: str, entries: Any, number: int, report: Report) -> Rows:
        entries = distinct_entries(self.task.layout, entries)
        gold = read_gold(self.task, entries, self.plan.items)
        for kind, what in doubts(self.task, gold, text, self.chooser.items):
            report(kind, what)
        if self.task.gold_types_only and not gold:
            return [], []
        batches = self._batches(parts_of(self.task, gold, text), number)
        faces = self._faces(batches, text)
        if not self.trains:
            return self._test_rows(faces, text, entries)
        answers = [
            self._answer(face, batch, gold, text)
            for face, batch in zip(faces, batches, strict=True)
        ]
        return _train_rows(faces, text, answers)

    def _answer(self, face: Face, batch: Batch, gold: Sequence[Gold], text: str) -> bytes:
        by_key: dict[Key, list[Roles]] = {}
        for thing in gold:
            key = key_of_gold(thing)
            if key in face.place:
                by_key.setdefault(key, []).append(thing.roles)
        if not by_key:
            return face.empty
        found = [(item, by_key.get(key_of(item), [])) for item in batch]
        return inner(dumps(answer_json(self.task, found, text)))

    def _test_rows(self, faces: Sequence[Face], text: str, entries: Any) -> Rows:
        identity, shown = id_of(text), nested(text)
        label = None if entries is None else inner(dumps(entries))
        made = [test_row(face, identity, shown, label) for face in faces]
        return made, [False] * len(made)

    def _language(self, text: str) -> str:
        language = self.plan.language
        return detect_language(text) if language == "auto" else language

    def _batches(self, own: Own | None, number: int) -> Sequence[Batch]:
        return self.chooser.batches(own, self._dice(number))

    def _dice(self, number: int) -> Dice:
        """The record's randomness, made when it is first asked for: most records need none."""
        seeded: list[random.Random] = []

        def dice() -> random.Random:
            if not seeded:
                self._random.seed(seed_for(self.plan.seed, number))
                seeded.append(self._random)
            return seeded[0]

        return dice

    def _faces(self, batches: Sequence[Batch], text: str) -> list[Face]:
        language = self._language(text)
        return [self.faces.of_batch(batch, language) for batch in batches]


def _train_rows(faces: Sequence[Face], text: str, answers: Sequence[bytes]) -> Rows:
    shown = nested(text)
    pairs = list(zip(faces, answers, strict=True))
    made = [train_row(face, shown, answer) for face, answer in pairs]
    return made, [answer == face.empty for face, answer in pairs]


def id_of(text: str) -> str:
    """A record's id: the sha256 of its text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()

"""Records of one set into rows, one record after the other; knows no files and no processes."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from iepile_cli.conversion import rows
from iepile_cli.conversion.choosing import Batch, Chooser, Key, Own, Parts, dice_for, key_of
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
from iepile_cli.task.ask import answer_json, dumps
from iepile_cli.task.language import detect_language
from iepile_cli.task.records import Gold
from iepile_cli.task.shape import Roles, SchemaItem

Report = Callable[[str, str], None]

_BARE = Parts()
# Faces of sampled batches that are kept; each holds a few kilobytes.
_FACES = 512


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
        usual = rows.flat_roles(self.task.shape) is not None
        odd = any(item.trigger is False for item in plan.items)
        self.flat = rows.FlatReader(self.task) if fast and usual and not odd else None
        self.face = functools.lru_cache(_FACES)(functools.partial(rows.Face, plan))
        self._whole = {
            language: [self.face(batch, language) for batch in self.chooser.whole]
            for language in self.task.instruction
        }

    def convert(self, raw: bytes, number: int, report: Report) -> tuple[list[bytes], list[bool]]:
        """The rows of one record, and for each whether its whole answer is empty.

        ``number`` is the record's place in its file, from which its randomness comes. What is odd
        but kept goes to ``report``. Raises ``Unusable``.
        """
        return self.rows(read_json(raw), number, report)

    def rows(self, record: Any, number: int, report: Report) -> tuple[list[bytes], list[bool]]:
        """As ``convert``, for a decoded record."""
        text = text_of(record)
        entries = record.get(self.field)
        if entries is None:
            if self.trains:
                raise Unusable(NO_GOLD, f"no {self.field!r}")
            return self._unannotated(text, number)
        if self.flat is not None and type(entries) is list:
            things = self.flat.things(entries, text)
            if things is not None:
                return self._flat_rows(text, entries, things, number, report)
        return self._general_rows(text, entries, number, report)

    # ------------------------------------------------------------------------ the quick way

    def _flat_rows(
        self,
        text: str,
        entries: list[Any],
        things: dict[Key, list[rows.Flat]],
        number: int,
        report: Report,
    ) -> tuple[list[bytes], list[bool]]:
        known = self.chooser.items
        strange = False
        for key in things:
            if key not in known:
                strange = True
                for _ in things[key]:
                    report(NOT_IN_SCHEMA, repr(key if isinstance(key, str) else key[0]))
        faces = self._whole_for(text) if not (strange and self.trains) else None
        if faces is None:
            faces = self._faces(dict.fromkeys(things, _BARE), text, number)
        shown = rows.nested(text)
        if not self.trains:
            if sum(map(len, things.values())) < len(entries):
                entries = distinct_entries(self.task.layout, entries)
            return self._test_rows(faces, text, shown, entries)
        answers = [rows.flat_answer(face, things) for face in faces]
        made = [
            rows.train_row(face, shown, answer)
            for face, answer in zip(faces, answers, strict=True)
        ]
        empty = [answer is face.empty for face, answer in zip(faces, answers, strict=True)]
        return made, empty

    def _whole_for(self, text: str) -> list[rows.Face] | None:
        if not self.chooser.same_for_all:
            return None
        return self._whole[self._language(text)]

    def _language(self, text: str) -> str:
        language = self.plan.language
        return detect_language(text) if language == "auto" else language

    # ---------------------------------------------------------------------- the general way

    def _general_rows(
        self, text: str, entries: Any, number: int, report: Report
    ) -> tuple[list[bytes], list[bool]]:
        entries = distinct_entries(self.task.layout, entries)
        gold = read_gold(self.task, entries, self.plan.items)
        for kind, what in doubts(self.task, gold, text, self.chooser.items):
            report(kind, what)
        if self.task.asks_gold_types and not gold:
            return [], []
        own = parts_of(self.task, gold, text)
        faces_of = self._batches(own, number)
        language = self._language(text)
        faces = [self.face(batch, language) for batch in faces_of]
        shown = rows.nested(text)
        if not self.trains:
            return self._test_rows(faces, text, shown, entries)
        answers = [
            self._answer(face, batch, gold, text)
            for face, batch in zip(faces, faces_of, strict=True)
        ]
        made = [
            rows.train_row(face, shown, answer)
            for face, answer in zip(faces, answers, strict=True)
        ]
        return made, [
            answer == face.empty for face, answer in zip(faces, answers, strict=True)
        ]

    def _answer(self, face: rows.Face, batch: Batch, gold: Sequence[Gold], text: str) -> bytes:
        by_key: dict[Key, list[Roles]] = {}
        for thing in gold:
            key = key_of_gold(thing)
            if key in face.place:
                by_key.setdefault(key, []).append(thing.roles)
        if not by_key:
            return face.empty
        found: list[tuple[SchemaItem, list[Roles]]] = [
            (item, by_key.get(key_of(item), [])) for item in batch
        ]
        return rows.inner(dumps(answer_json(self.task, found, text)))

    def _unannotated(self, text: str, number: int) -> tuple[list[bytes], list[bool]]:
        faces = self._faces(None, text, number)
        return self._test_rows(faces, text, rows.nested(text), None)

    def _test_rows(
        self, faces: Sequence[rows.Face], text: str, shown: bytes, entries: Any
    ) -> tuple[list[bytes], list[bool]]:
        identity = id_of(text)
        label = None
        if entries is not None:
            label = rows.inner(dumps(entries))
        made = [rows.test_row(face, identity, shown, label) for face in faces]
        return made, [False] * len(made)

    # --------------------------------------------------------------------------- the choice

    def _batches(self, own: Own | None, number: int) -> Sequence[Batch]:
        dice: list[random.Random] = []

        def throw() -> random.Random:
            if not dice:
                dice.append(dice_for(self.plan.seed, number))
            return dice[0]

        return self.chooser.batches(own, throw)

    def _faces(self, own: Own | None, text: str, number: int) -> Sequence[rows.Face]:
        language = self._language(text)
        return [self.face(batch, language) for batch in self._batches(own, number)]


def id_of(text: str) -> str:
    """A record's id: the sha256 of its text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()

"""Records of one dataset into rows, one after the other; knows no files and no processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from iepile_cli.conversion.label_aliases import (
    NAMINGS,
    LabelAliases,
    Naming,
    draw_naming,
    rename_entries,
)
from iepile_cli.conversion.plan import Plan
from iepile_cli.conversion.quick_records import QuickReader
from iepile_cli.conversion.record_gold import (
    NO_GOLD,
    NOT_IN_SCHEMA,
    GoldLabels,
    Key,
    Unusable,
    distinct_entries,
    gold_labels,
    item_of,
    key_of_gold,
    read_annotation,
    read_json,
    text_of,
    warnings,
)
from iepile_cli.conversion.rows import Answer, BatchTemplate, RowWriter, inner
from iepile_cli.conversion.sampling import Request, Sampler, rng_for
from iepile_cli.task.instruction import answer_json, dumps
from iepile_cli.task.language import detect_language
from iepile_cli.task.shape import Roles

Report: TypeAlias = Callable[[str, str], None]
# Rows, and for each whether its answer is empty.
Rows: TypeAlias = tuple[list[bytes], list[bool]]


class Converted(NamedTuple):
    """The rows of a record, for each whether its whole answer is empty, and what identifies it.

    ``id`` and ``doc_id`` are the record's own.
    """

    rows: list[bytes]
    empty: list[bool]
    text: str
    id: Any = None
    doc_id: Any = None


class Converter:
    """Turns records into rows as a plan says. ``fast`` False takes the general way for all."""

    def __init__(self, plan: Plan, *, fast: bool = True) -> None:
        self.plan = plan
        self.task = plan.task
        self.field = self.task.layout.field
        self.sampler = Sampler(plan)
        self.trains = plan.split == "train"
        self.writer = RowWriter(self.sampler)
        odd = bool(plan.renames) or any(item.trigger is False for item in plan.items)
        self.quick = (
            QuickReader(self.task, self.sampler.slots, trains=self.trains)
            if fast and not odd
            else None
        )
        self._whole: dict[int, list[BatchTemplate]] = {}

    def convert(self, raw: bytes, number: int, report: Report) -> Converted:
        """The rows of one record, in JSON.

        ``number`` is the record's place in its file, from which its randomness comes. What is odd
        but kept goes to ``report``. Raises ``Unusable``.
        """
        record = self.quick.read(raw) if self.quick is not None else None
        if record is None:
            return self.convert_value(read_json(raw), number, report)
        assert self.quick is not None
        text, id_, doc_id, found, label = record
        sampler = self.sampler
        whole = sampler.asks_all
        if not sampler.items.keys() >= found.keys():
            whole = whole and not self.trains
            for key, items in found.items():
                for _ in items if key not in sampler.items else ():
                    report(NOT_IN_SCHEMA, repr(item_of(key).type))
        labels = {} if whole else self.quick.labels(found)
        rows = self._rows(text, found, labels, self.quick.answer, number, label)
        return Converted(*rows, text, id_, doc_id)

    def convert_value(self, record: Any, number: int, report: Report) -> Converted:
        """``convert`` for a decoded record of whatever form."""
        text = text_of(record)
        known = record.get("id"), record.get("doc_id")
        entries = record.get(self.field)
        if entries is None:
            if self.trains:
                raise Unusable(NO_GOLD, f"no {self.field!r}")
            batches = self._batches(None, number)
            return Converted(*self._test_rows(batches, text, None), text, *known)
        entries = rename_entries(entries, self.field, self.plan.renames)
        entries = distinct_entries(self.task.layout, entries)
        gold = read_annotation(self.task, entries, self.plan.items)
        for kind, what in warnings(self.task, gold, text, self.sampler.items):
            report(kind, what)
        found: dict[Key, list[Roles]] = {}
        for one in gold:
            found.setdefault(key_of_gold(one), []).append(one.roles)

        def answer(_: bytes, roles: list[Roles], request: Request) -> bytes:
            item = self.sampler.item(request)
            return inner(dumps(answer_json(self.task, [(item, roles)], text)))[1:-1]

        labels = gold_labels(self.task, gold, text)
        label = b"" if self.trains else inner(dumps(entries))
        return Converted(*self._rows(text, found, labels, answer, number, label), text, *known)

    def _rows(
        self,
        text: str,
        found: Mapping[Key, list[Any]],
        labels: GoldLabels,
        answer: Answer,
        number: int,
        label: bytes,
    ) -> Rows:
        if self.task.gold_types_only and not found:
            return [], []
        batches = self._batches(labels, number)
        if self.trains:
            return self.writer.train_rows(batches, text, self._language(text), found, answer)
        return self._test_rows(batches, text, label)

    def _test_rows(self, batches: Sequence[BatchTemplate], text: str, label: bytes | None) -> Rows:
        rows = self.writer.test_rows(batches, text, self._language(text), label)
        return rows, [False] * len(rows)

    def _language(self, text: str) -> str:
        language = self.plan.language
        return detect_language(text) if language == "auto" else language

    def _batches(self, gold: GoldLabels | None, number: int) -> Sequence[BatchTemplate]:
        sampler = self.sampler
        if sampler.asks_all and not (self.trains and sampler.out_of_schema(gold or {})):
            order = sampler.order_of(number)
            if order not in self._whole:
                self._whole[order] = [self.writer.batch(one) for one in sampler.whole(order)]
            return self._whole[order]
        return [self.writer.batch(batch) for batch in sampler.batches(gold, number)]


class AliasConverter:
    """Does what ``Converter`` does, with the names that label aliases give to labels.

    Namings come from the plan's seed, and which one a record gets from its place in its file.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.aliases = plan.aliases or LabelAliases()
        self.labels = tuple(dict.fromkeys(item.type for item in plan.items))
        self._made: dict[int, tuple[Naming, Converter | None]] = {}

    def convert(self, raw: bytes, number: int, report: Report) -> Converted:
        """The rows of one record, as ``Converter.convert``; none if nothing is asked."""
        which = rng_for(self.plan.seed ^ NAMINGS, number).randrange(NAMINGS)
        if which not in self._made:
            self._made[which] = self._make(which)
        naming, converter = self._made[which]
        record = read_json(raw)
        if converter is None:
            return Converted([], [], text_of(record))
        if isinstance(record, dict) and converter.field in record:
            layout = converter.task.layout
            entries = rename_entries(record[layout.field], layout.field, self.plan.renames)
            record = {**record, layout.field: naming.entries(entries, layout)}
        return converter.convert_value(record, number, report)

    def _make(self, which: int) -> tuple[Naming, Converter | None]:
        plan = self.plan
        naming = draw_naming(self.aliases, self.labels, random.Random(f"{plan.seed}/{which}"))
        items = naming.items(plan.items)
        named = replace(
            plan,
            items=items,
            aliases=None,
            renames={},
            hard=naming.hard(plan.hard),
            split_num=naming.split_num if plan.split_num is None else plan.split_num,
        )
        return naming, Converter(named) if items else None

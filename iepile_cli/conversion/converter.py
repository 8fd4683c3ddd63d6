"""Records of one dataset into rows, one after the other; knows no files and no processes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import msgspec
import orjson

from iepile_cli.conversion.escaping import inner, nested
from iepile_cli.conversion.gold import (
    NO_GOLD,
    NOT_IN_SCHEMA,
    GoldLabels,
    GoldSlots,
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
from iepile_cli.conversion.label_aliases import (
    NAMINGS,
    LabelAliases,
    Naming,
    draw_naming,
    rename_entries,
)
from iepile_cli.conversion.plan import Plan
from iepile_cli.conversion.rows import (
    BatchTemplate,
    FlatReader,
    Placed,
    RowWriter,
    flat_names,
    id_of,
)
from iepile_cli.conversion.sampling import Sampler, rng_for
from iepile_cli.conversion.slotted import SlottedReader
from iepile_cli.conversion.typed import RecordDecoder
from iepile_cli.task.instruction import dumps
from iepile_cli.task.language import detect_language
from iepile_cli.task.records import Gold
from iepile_cli.task.shape import Roles

Report: TypeAlias = Callable[[str, str], None]
# Rows, and for each whether its answer is empty.
Rows: TypeAlias = tuple[list[bytes], list[bool]]

_BARE = GoldSlots()
# A number in JSON text that Python may write otherwise than it stands there.
_FRACTION = re.compile(rb"[:\[,]\s*-?\d+[.eE]")


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
        odd = any(item.trigger is False for item in plan.items)
        layout = self.task.layout
        self.flat = (
            FlatReader(
                self.task.shape,
                typed=bool(layout.subject_type),
                unique=bool(layout.unique),
                writes=self.trains,
            )
            if flat_names(self.task.shape) is not None and not odd
            else None
        )
        usual = bool(self.task.slots) and not odd
        self.slotted = SlottedReader(self.task, self.sampler.slots) if usual else None
        usable = fast and not plan.renames and bool(self.flat or self.slotted)
        self.decoder = RecordDecoder(self.task, raw=not self.trains) if usable else None
        self._whole: dict[int, list[BatchTemplate]] = {}

    def convert(self, raw: bytes, number: int, report: Report) -> Converted:
        """The rows of one record, in JSON.

        ``number`` is the record's place in its file, from which its randomness comes. What is odd
        but kept goes to ``report``. Raises ``Unusable``.
        """
        if self.decoder is not None:
            try:
                record = self.decoder.decode(raw)
                if record.entries is not None:
                    converted = self._typed(record, number, report)
                    if converted is not None:
                        return converted
            except (msgspec.DecodeError, UnicodeDecodeError):
                pass
        return self.convert_value(read_json(raw), number, report)

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
        return Converted(*self._rows(text, gold, entries, number, report), text, *known)

    # ----------------------------------------------------------------- records of the usual form

    def _typed(self, record: Any, number: int, report: Report) -> Converted | None:
        """The quick way, for records that hold nothing unusual; None for all others."""
        text = record.text
        if not self.trains:
            return self._typed_test(record, number, report)
        if self.flat is not None:
            found = self.flat.read(record.entries, text)
            rows = None if found is None else self._flat_rows(text, found, number, report)
        else:
            rows = self._slotted_rows(text, record.entries, number)
        return None if rows is None else Converted(*rows, text, record.id, record.doc_id)

    def _flat_rows(
        self, text: str, found: dict[Key, list[Placed]], number: int, report: Report
    ) -> Rows:
        unknown = self._report_unknown(found, report)
        batches: Sequence[BatchTemplate]
        if self.sampler.asks_all and not unknown:
            batches = self._whole_schema(number)
        else:
            batches = self._batches(dict.fromkeys(found, _BARE), number)
        return self._train_rows(batches, text, self.writer.flat_answers(batches, found))

    def _report_unknown(self, found: dict[Key, list[Placed]], report: Report) -> bool:
        """Report mentions of types that the schema lacks; whether there are any."""
        known = self.sampler.items
        if known.keys() >= found.keys():
            return False
        for key, some in found.items():
            for _ in some if key not in known else ():
                report(NOT_IN_SCHEMA, repr(item_of(key).type))
        return True

    def _slotted_rows(self, text: str, entries: Sequence[Any], number: int) -> Rows | None:
        assert self.slotted is not None
        found = self.slotted.read(entries, text)
        if found is None:
            return None
        if self.task.gold_types_only and not found:
            return [], []
        batches: Sequence[BatchTemplate]
        if self.sampler.asks_all:
            batches = self._whole_schema(number)
        else:
            batches = self._batches(self.slotted.labels(found), number)
        answers = self.writer.slotted_answers(batches, found, self.slotted)
        return self._train_rows(batches, text, answers)

    def _typed_test(self, record: Any, number: int, report: Report) -> Converted | None:
        assert self.decoder is not None
        text = record.text
        raw, entries, strings = self.decoder.entries_of(record)
        repeated = False
        gold: GoldLabels = {}
        if self.flat is not None:
            flat = self.flat.read(entries, text)
            if flat is None:
                return None
            repeated = sum(map(len, flat.values())) < len(entries)
            self._report_unknown(flat, report)
        else:
            assert self.slotted is not None
            found = self.slotted.read(entries, text)
            if found is None:
                return None
            if self.task.gold_types_only:
                gold = self.slotted.labels(found)
                if not gold:
                    return Converted([], [], text, record.id, record.doc_id)
        batches = self._batches(gold, number)
        if repeated:
            label = inner(dumps(distinct_entries(self.task.layout, orjson.loads(raw))))
        else:
            label = _label(raw, strings=strings)
        return Converted(*self._test_rows(batches, text, label), text, record.id, record.doc_id)

    # ------------------------------------------------------------------------- any gold, any task

    def _rows(self, text: str, gold: list[Gold], entries: Any, number: int, report: Report) -> Rows:
        for kind, what in warnings(self.task, gold, text, self.sampler.items):
            report(kind, what)
        if self.task.gold_types_only and not gold:
            return [], []
        batches = self._batches(gold_labels(self.task, gold, text), number)
        if not self.trains:
            return self._test_rows(batches, text, inner(dumps(entries)))
        by_key: dict[Key, list[Roles]] = {}
        for one in gold:
            by_key.setdefault(key_of_gold(one), []).append(one.roles)
        answers = [self.writer.answer(batch, by_key, text) for batch in batches]
        return self._train_rows(batches, text, answers)

    def _batches(self, gold: GoldLabels | None, number: int) -> Sequence[BatchTemplate]:
        sampler = self.sampler
        if sampler.asks_all and not (self.trains and sampler.out_of_schema(gold or {})):
            return self._whole_schema(number)
        return [self.writer.batch(batch) for batch in sampler.batches(gold, number)]

    def _whole_schema(self, number: int) -> list[BatchTemplate]:
        order = self.sampler.order_of(number)
        if order not in self._whole:
            self._whole[order] = [self.writer.batch(one) for one in self.sampler.whole(order)]
        return self._whole[order]

    def _start(self, text: str) -> bytes:
        language = self.plan.language
        return self.writer.start[detect_language(text) if language == "auto" else language]

    def _test_rows(self, batches: Sequence[BatchTemplate], text: str, label: bytes | None) -> Rows:
        identity, shown, start = id_of(text).encode(), nested(text), self._start(text)
        row = self.writer.test_row
        rows = [row(start, batch, shown, identity, label) for batch in batches]
        return rows, [False] * len(rows)

    def _train_rows(
        self,
        batches: Sequence[BatchTemplate],
        text: str,
        answers: Sequence[tuple[bytes, bool]],
    ) -> Rows:
        shown, start, row = nested(text), self._start(text), self.writer.train_row
        rows = [
            row(start, batch, shown, answer)
            for batch, (answer, _) in zip(batches, answers, strict=True)
        ]
        return rows, [empty for _, empty in answers]


def _label(raw: bytes, *, strings: bool) -> bytes:
    """Annotation as a test row's label, in Python's layout, escaped.

    ``strings`` says that it holds no numbers.
    """
    if b"\\" in raw or not (strings or _FRACTION.search(raw) is None):
        return inner(dumps(orjson.loads(raw)))
    # What holds neither escapes nor fractions differs from Python's layout in blanks alone.
    return inner(msgspec.json.format(raw, indent=0).decode())


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

"""Rows of a prediction file put together into documents, and both sides made comparable.

Rows are schema batches: those with one task, source, id and label belong to one document. A batch
that comes again under them starts the next document, so two records with the same text stay two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Any, BinaryIO, TypeAlias

from iepile_cli.evaluation.batches import Batch, BatchReader
from iepile_cli.evaluation.counts import (
    ANSWERS,
    MALFORMED,
    REPAIRED,
    SILENT,
    TRUNCATED,
    UNLABELLED,
    Confusion,
    Counts,
    Group,
)
from iepile_cli.evaluation.decoding import (
    BROKEN,
    NOT_TYPED,
    Row,
    decode_answer,
    decode_record,
    decode_row,
    is_cut,
    repair,
    row_of,
)
from iepile_cli.evaluation.facts import Fact, FactReader, Facts
from iepile_cli.evaluation.matching import match_facts
from iepile_cli.evaluation.normalise import is_asked, normalise, with_asked_ends
from iepile_cli.evaluation.options import EvalOptions
from iepile_cli.task.table import TASKS

# A source that a record does not name; the original script says "None".
NO_SOURCE = ""

# Answers without content that are remembered: a few strings make up much of a file.
_REMEMBERED = 1000

# Bytes of lines that are read at once.
_BLOCK = 1 << 15

# Why a line is no row to be scored.
_UNREADABLE, _BLANK, _OTHER_TASK = "unreadable", "blank", "another task"

# Receives each document with the byte after its last row.
Receiver: TypeAlias = "Callable[[Document, int], None]"


_NO_SURFACES: Mapping[tuple[int, int], str] = MappingProxyType({})


class Document:
    """A text with its gold facts and everything that was predicted for it.

    ``gold`` is None until the label has been read, and when there is none; ``optional`` is gold
    that need not be answered. ``batches`` are the schema batches asked so far, by number;
    ``broken`` the answers that could not be read. ``comparable_text`` is the text in the form in
    which mentions are compared. Where mentions are offsets, ``surfaces`` has their text. ``group``
    is where the document is counted, and ``rows`` are the counts of rows there.
    """

    # One is made for each text: with slots, its attributes are found faster.
    __slots__ = (
        "batches",
        "broken",
        "comparable_text",
        "first",
        "gold",
        "group",
        "id",
        "label",
        "optional",
        "predicted",
        "reader",
        "rows",
        "source",
        "surfaces",
        "text",
    )

    def __init__(
        self,
        reader: FactReader,
        group: Group,
        id: str,
        label: str | None,
        text: str | None,
        first: int = 0,
    ) -> None:
        self.reader = reader
        self.group = group
        self.rows = group.rows
        self.source = group.source
        self.id = id
        self.label = label
        self.text = self.comparable_text = text
        self.first = first
        self.predicted: Facts = reader.empty()
        self.batches: dict[int, Batch] = {}
        self.gold: Facts | None = None
        self.optional: Sequence[Fact] = ()
        self.broken: Sequence[str] = ()
        self.surfaces: Mapping[tuple[int, int], str] = _NO_SURFACES

    @property
    def key(self) -> tuple[str, str, str]:
        """Task, source and id."""
        return self.reader.task.name, self.source, self.id

    def read_gold(self) -> bool:
        """Read the label; False when there is no gold."""
        if self.label is None:
            return False
        try:
            self.gold = self.reader.read_usual_label(self.label)
        except NOT_TYPED:
            self.gold, self.optional = self.reader.read_label(self.label)
        return self.gold is not None

    def confusions(self) -> list[Confusion]:
        """(gold label, predicted label) of mentions that are on both sides, right or mixed up.

        "" stands for nothing: a gold label with "" was missed, "" with a predicted one is
        spurious.
        """
        if self.gold is None:
            return []
        number, name = self.reader.named_unit, self.reader.label_name
        hits, pairs, missed, spurious = match_facts(
            self.gold[number],
            self.predicted[number],
            self.reader.labels[number],
            "boundary",
            None,
        )
        return [
            *((name(fact), name(fact)) for fact in hits),
            *((name(one), name(other)) for one, other, _ in pairs),
            *((name(fact), "") for fact in missed),
            *(("", name(fact)) for fact in spurious),
        ]


def count_document(options: EvalOptions, counts: Counts, document: Document, end: int) -> None:
    """Count a document; its gold is read where that has not been, both sides made comparable."""
    if document.gold is None and not document.read_gold():
        document.rows[UNLABELLED] += 1
        return
    gold, reader = document.gold, document.reader
    assert gold is not None
    if options.transforms or reader.transforms or document.optional:
        normalise(document, options)
    counts.add(
        document.group,
        document.id,
        gold,
        document.predicted,
        reader.labels,
        options.mode,
        document.comparable_text,
        document.first,
        end,
    )
    if options.confusions:
        counts.add_confusions(reader.task.name, reader.named_unit, document.confusions())


# ------------------------------------------------------------------------------ rows to documents


class TaskRows:
    """What reads the rows of one task."""

    def __init__(self, reader: FactReader, asked_only: bool) -> None:
        self.reader = reader
        self.batch_reader = BatchReader(reader.task)
        # Whether what an answer means depends on what was asked.
        self.needs_batch = asked_only or any(reader.typed_ends)


# A row, what reads its task, what was asked of which text, and the row's bytes [start, end).
Read: TypeAlias = tuple[Row, TaskRows, Batch, str | None, int, int]


class RowReader:
    """Reads lines into rows and rows into documents, whatever they are like."""

    def __init__(self, options: EvalOptions) -> None:
        self.options = options
        self._tasks: dict[str | None, TaskRows] = {}
        self._empty_answers: set[str] = set()

    def rows(self, file: BinaryIO, start: int, stop: int, counts: Counts) -> Iterator[Read]:
        """The rows of the lines of a file that begin in bytes [start, stop).

        Lines that are not to be scored are counted.
        """
        file.seek(start)
        end, tasks = start, self._tasks
        while end < stop and (lines := file.readlines(min(_BLOCK, stop - end))):
            try:
                rows: Iterable[Row | None] = list(map(decode_row, lines))
            except NOT_TYPED:
                rows = map(_usual_row, lines)
            for line, row in zip(lines, rows, strict=True):
                start = end
                if start >= stop:
                    return
                end += len(line)
                task = tasks.get(row.task) if row is not None else None
                if row is None or task is None:
                    odd = self._read_odd(line)
                    if isinstance(odd, str):
                        counts.skipped += odd == _OTHER_TASK
                        if odd == _UNREADABLE:
                            counts.count_unreadable(start)
                        continue
                    row, task = odd
                batch, text = task.batch_reader.read(row.instruction)
                if row.source is None or row.id is None:
                    _name(row, text)
                yield row, task, batch, text, start, end

    def read(
        self, file: BinaryIO, start: int, stop: int, counts: Counts, receive: Receiver
    ) -> None:
        """Give the documents of the lines of a file that begin in bytes [start, stop).

        Rows of one document that do not stand together make several documents here.
        """
        document: Document | None = None
        last = start
        literal = self.options.literal
        for row, task, batch, text, first, end in self.rows(file, start, stop, counts):
            if (
                document is None
                or document.label != row.label
                or document.id != row.id
                or document.source != row.source
                or document.reader is not task.reader
                or (batch.number in document.batches and not literal)
            ) and not (literal and document is not None and document.key == _key(row, task)):
                if document is not None:
                    receive(document, last)
                document = self.begin(row, task, text, first, counts)
            self.add_answer(row, task, batch, document)
            last = end
        if document is not None:
            receive(document, last)

    def _read_odd(self, line: bytes) -> tuple[Row, TaskRows] | str:
        """Read any line: the row and what reads its task, or else why it is not scored."""
        value = decode_record(line)
        if not isinstance(value, dict):
            return _UNREADABLE if line.strip(b" \t\r\n\0\xef\xbb\xbf") else _BLANK
        row = row_of(value)
        task = self._task(row.task)
        if task is None:
            return _OTHER_TASK if self.options.task else _UNREADABLE
        return row, task

    def _task(self, name: object) -> TaskRows | None:
        """What reads the rows that name their task so; None when they are not to be scored."""
        wanted = self.options.task
        if name is not None and not isinstance(name, str):
            return None
        task = TASKS.get(name.upper() if name else wanted)
        if task is None or wanted not in ("", task.name):
            return None
        if task.name not in self._tasks:
            self.options.check(task)
            reader = FactReader(task, literal=self.options.literal)
            self._tasks[task.name] = TaskRows(reader, self.options.asked_only)
        known = self._tasks[name] = self._tasks[task.name]
        return known

    def begin(
        self, row: Row, task: TaskRows, text: str | None, first: int, counts: Counts
    ) -> Document:
        """A document whose first row is this one, without its answer yet."""
        group = counts.group(task.reader.task.name, row.source or NO_SOURCE)
        return Document(task.reader, group, row.id or "", row.label, text, first)

    def add_answer(self, row: Row, task: TaskRows, batch: Batch, document: Document) -> None:
        """Add what one row answered to its document; count what is wrong with it."""
        rows, output = document.rows, row.output
        rows[ANSWERS] += 1
        if batch.number:
            document.batches[batch.number] = batch
        if task.needs_batch or row.truncated or not isinstance(output, str):
            self._add_odd_answer(row, batch, document)
        elif output not in self._empty_answers:
            predicted = document.predicted
            before = len(predicted[0])
            try:
                task.reader.add_usual_answer(output, predicted)
            except NOT_TYPED:
                self._add_odd_answer(row, batch, document)
                return
            if len(predicted[0]) == before and len(self._empty_answers) < _REMEMBERED:
                self._empty_answers.add(output)

    def _add_odd_answer(self, row: Row, batch: Batch, document: Document) -> None:
        rows, output = document.rows, row.output
        answer = decode_answer(output) if isinstance(output, str) else BROKEN
        if not isinstance(answer, dict):
            answer = self._repaired(output, row.truncated, rows)
            if answer is None:
                shown = output if isinstance(output, str) else "(no output)"
                document.broken = [*document.broken, shown]
                return
        elif row.truncated:
            rows[TRUNCATED] += 1
        found = document.reader.empty()
        document.reader.read_value(answer, found)
        for number, (into, facts) in enumerate(zip(document.predicted, found, strict=True)):
            if document.reader.typed_ends[number]:
                facts = [with_asked_ends(fact, batch) for fact in facts]
            if self.options.asked_only and batch.labels:
                labels = document.reader.labels[number]
                facts = [fact for fact in facts if is_asked(fact, labels, number, batch)]
            into += facts

    def _repaired(self, output: object, cut: bool, rows: list[int]) -> dict[str, Any] | None:
        """What can be saved of an output that is not a JSON object, if anything is to be saved.

        Counts what is wrong with it; ``cut`` says that the row calls itself truncated.
        """
        if not isinstance(output, str):
            rows[SILENT] += 1
        elif cut or is_cut(output):
            rows[TRUNCATED] += 1
        if self.options.repair and isinstance(output, str):
            repaired = repair(output)
            if repaired is not BROKEN:
                rows[REPAIRED] += 1
                return repaired  # type: ignore[no-any-return]
        rows[MALFORMED] += 1
        return None


def _usual_row(line: bytes) -> Row | None:
    try:
        return decode_row(line)
    except NOT_TYPED:
        return None


def _key(row: Row, task: TaskRows) -> tuple[str, str | None, str | None]:
    return task.reader.task.name, row.source, row.id


def _name(row: Row, text: str | None) -> None:
    """Give a row the source and id that it does not name."""
    if row.source is None:
        row.source = NO_SOURCE
    if row.id is None:
        row.id = (
            "None" if text is None else sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        )

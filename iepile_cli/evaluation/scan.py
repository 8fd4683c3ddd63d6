"""Reading a prediction file, or a part of it, from end to end: bytes in, a ``Sheet`` out.

Rows of a document stand together in all but odd files, so a document is scored and forgotten as
soon as the next one begins.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, TypeAlias

import orjson

from iepile_cli.evaluation.asking import Batch, Instructions
from iepile_cli.evaluation.decoding import decode_object
from iepile_cli.evaluation.document import Document, Key, confusions, score, settle
from iepile_cli.evaluation.facts import Facts, Reader
from iepile_cli.evaluation.plain import is_plain, plain_closer
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.rows import OTHER_TASK, Rows
from iepile_cli.evaluation.sheet import ANSWERS, UNLABELLED, Place, Sheet

Tick: TypeAlias = Callable[[int], None]
# A document that has been read, where it goes, and the bytes [first, end) that it was read from.
Read: TypeAlias = tuple[Document, Place, int, int]

_USUAL = itemgetter("task", "source", "id", "label", "instruction", "output")
# Equal to nothing that a row can hold.
_UNLIKE: Any = object()
_ODD = (ValueError, LookupError, TypeError, AttributeError)
_NOTHING: dict[str, Any] = {}
# Different answers without content that are remembered.
_REMEMBERED = 1000


def finish(document: Document, plan: Plan) -> bool:
    """Read the gold of a document and make both sides comparable; False without gold."""
    label = document.key[3]
    if label is None:
        return False
    document.gold, optional = document.reader.label(label)
    if document.gold is None:
        return False
    if optional:
        document.optional = optional
    settle(document, plan)
    return True


def close(read: Read, plan: Plan, sheet: Sheet, *, counted: bool = False) -> None:
    """Score a document; one without gold is counted as such unless it is ``counted`` already."""
    document, place, first, end = read
    if not finish(document, plan):
        if not counted:
            place.counts[UNLABELLED] += 1
        return
    mixed = confusions(document) if plan.confusions else ()
    sheet.add(document.key, score(document, plan), first, end, mixed, document.reader.named_unit)


def made(
    key: Key,
    reader: Reader,
    asked: Instructions,
    head: str,
    instruction: str,
    predicted: Facts,
    batches: dict[int, Batch],
) -> Document:
    """The document of what has been read of it."""
    document = Document(key, reader, asked.text_after(head, instruction))
    document.predicted, document.batches = predicted, batches
    return document


def scan(path: str, plan: Plan, start: int, stop: int) -> Sheet:
    """Score the documents of the lines that begin in bytes [start, stop) of a file."""
    # Nothing here makes reference cycles, and looking for them takes a quarter of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _scan(path, plan, start, stop)
    finally:
        if collects:
            gc.enable()


class _Scan:
    """One way through the lines of a file, or of a part of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows = Rows(plan)
        self.sheet = Sheet()

    def read(self, lines: Iterable[bytes], at: int, stop: int) -> None:
        """Read the lines that begin before byte ``stop``, the first at ``at``, and score them.

        Nearly every row is like the one before: of its task, often of its document, and asking
        what came after that row's schema batch the last time. Such rows are read here, in half
        the steps that ``Rows`` takes for any row, to the same effect; what is known of their
        document is a ``Document`` only once that is needed.
        """
        rows, sheet, loads = self.rows, self.sheet, orjson.loads
        asked_only, literal = self.plan.asked_only, self.plan.literal
        plain = is_plain(self.plan)
        # Answers that say that there is nothing: a few strings make up much of a file.
        silent: set[str] = set()
        # Where the document that is being read goes (None: there is none) and where it begins.
        place: Any = None
        first = at
        # The document itself, or None while it consists of usual rows. Then it has the task,
        # source, number and label of the row before, and this is its first instruction.
        document: Any = None
        head, asking = "", ""
        # What has been predicted for it, and its schema batches.
        predicted: Any = []
        batches: Any = {}
        # What reads the rows of the task, and what closes its documents.
        task: Any = ""
        reader: Any = None
        asked: Any = None
        close_plain: Any = None
        # Of the row before; no label where it was not read here.
        task_name = source = number = label = _UNLIKE
        asked_number = 0
        for line in lines:
            if at >= stop:
                break
            try:
                value = loads(line)
                its_task, its_source, its_number, its_label, instruction, output = _USUAL(value)
                if its_task != task_name:
                    if place is not None and document is None:
                        key = (task, source, number, label)
                        document = made(key, reader, asked, head, asking, predicted, batches)
                    task, reader, asked = rows.task(its_task)  # type: ignore[misc]
                    task_name, label, asked_number = its_task, _UNLIKE, 0
                    direct = not (asked_only or reader.unusual)
                    close_plain = plain_closer(reader, sheet) if plain else None
                    after = asked.after
                    places: dict[str, Place] = {}
                known = after.get(asked_number)
                if known is None or not instruction.startswith(known[0]):
                    known = after[asked_number] = asked.usual(instruction)
                its_head, batch, asked_number = known
                goes_on = its_label == label and its_number == number and its_source == source
                if not goes_on and not (
                    type(its_source) is type(its_number) is type(its_label) is str
                ):
                    raise TypeError
                nothing = output in silent
            except _ODD:
                if place is not None and document is None:
                    key = (task, source, number, label)
                    document = made(key, reader, asked, head, asking, predicted, batches)
                label = _UNLIKE
                row = rows.open(line)
                if isinstance(row, str):
                    self._count_unread(row, at)
                else:
                    key, _, _, its_batch, value = row
                    if document is None or not rows.belongs(key, its_batch, document):
                        if document is not None:
                            close((document, place, first, at), self.plan, sheet)
                        document, first = rows.begin(row), at
                        place = sheet.place(key[0], key[1], len(document.reader.labels))
                    rows.answer(value, its_batch, document, place.counts)
                at += len(line)
                continue
            if not goes_on or asked_number in batches:
                if place is None:
                    begins = True
                elif document is None:
                    key = (task, source, number, label)
                    # A row that differs from the one before begins a document.
                    begins = not literal
                    if not (
                        begins
                        and close_plain is not None
                        and close_plain(place, number, label, head, asking, predicted, first, at)
                    ):
                        document = made(key, reader, asked, head, asking, predicted, batches)
                else:
                    begins = not (literal or label is _UNLIKE)
                if document is not None:
                    begins = begins or not rows.belongs(
                        (task, its_source, its_number, its_label), batch, document
                    )
                    if begins:
                        close((document, place, first, at), self.plan, sheet)
                if begins:
                    document, first = None, at
                    head, asking = its_head, instruction
                    predicted, batches = reader.empty(), {}
                    place = places.get(its_source)
                    if place is None:
                        place = sheet.place(task, its_source, len(reader.labels))
                        places[its_source] = place
                    counts = place.counts
                else:
                    predicted, batches, counts = document.predicted, document.batches, place.counts
                source, number, label = its_source, its_number, its_label
            if direct and "truncated" not in value:
                counts[ANSWERS] += 1
                if asked_number:
                    batches[asked_number] = batch
                try:
                    answer = _NOTHING if nothing else loads(output)
                except ValueError:
                    answer, nothing = decode_object(output), True
                if type(answer) is not dict:
                    answer, nothing = rows.mended(output, False, counts), True
                if answer:
                    into = predicted[0]
                    before = len(into)
                    reader.answer(answer, predicted)
                    if (
                        len(into) == before
                        and not nothing
                        and len(silent) < _REMEMBERED
                        and not any(answer.values())
                    ):
                        silent.add(output)
            else:
                if document is None:
                    key = (task, source, number, label)
                    document = made(key, reader, asked, head, asking, predicted, batches)
                rows.answer(value, batch, document, counts)
            at += len(line)
        if place is not None:
            if document is None:
                key = (task, source, number, label)
                document = made(key, reader, asked, head, asking, predicted, batches)
            close((document, place, first, at), self.plan, sheet)
        sheet.flush()

    def _count_unread(self, reason: str, at: int) -> None:
        if reason == OTHER_TASK:
            self.sheet.skipped += 1
        elif reason:
            self.sheet.unreadable += 1
            if self.sheet.first_unreadable < 0:
                self.sheet.first_unreadable = at


def _scan(path: str, plan: Plan, start: int, stop: int) -> Sheet:
    whole = _Scan(plan)
    with open(path, "rb", buffering=1 << 20) as file:
        if start:
            # The line that is cut by ``start`` belongs to the part before.
            file.seek(start - 1)
            start += len(file.readline()) - 1
        whole.read(file, start, stop)
    return whole.sheet

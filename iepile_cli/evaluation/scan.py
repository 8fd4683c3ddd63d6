"""Reading a prediction file, or a part of it, from end to end: bytes in, a ``Tally`` out.

Rows of a document stand together in all but odd files, so a document is scored and forgotten as
soon as the next one begins.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, TypeAlias

import orjson

from iepile_cli.evaluation.asking import NOTHING_ASKED
from iepile_cli.evaluation.document import Document, confusions, score, settle
from iepile_cli.evaluation.plain import Read, close_plain, is_plain
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.rows import OTHER_TASK, Rows
from iepile_cli.evaluation.tally import ANSWERS, UNLABELLED, Place, Tally

Tick: TypeAlias = Callable[[int], None]

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


def close(read: Read, plan: Plan, tally: Tally, *, counted: bool = False) -> None:
    """Score a document; one without gold is counted as such unless it is ``counted`` already."""
    document, place, first, end = read
    if not finish(document, plan):
        if not counted:
            place.counts[UNLABELLED] += 1
        return
    mixed = confusions(document) if plan.confusions else ()
    tally.add(document.key, score(document, plan), first, end, mixed, document.reader.named_unit)


def scan(path: str, plan: Plan, start: int, stop: int) -> Tally:
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
        self.tally = Tally()

    def read(self, lines: Iterable[bytes], at: int, stop: int) -> None:
        """Read the lines that begin before byte ``stop``, the first at ``at``, and score them.

        Nearly every row is like the one before: of its task, often of its document, and asking
        what came after that row's schema batch the last time. Such rows are read here, in half
        the steps that ``Rows`` takes for any row, to the same effect.
        """
        rows, tally, loads = self.rows, self.tally, orjson.loads
        asked_only, literal = self.plan.asked_only, self.plan.literal
        plain = is_plain(self.plan)
        # Answers that say that there is nothing: a few strings make up much of a file.
        silent: set[str] = set()
        # The document that is being read, where it goes, and where it begins.
        document: Any = None
        place: Any = None
        first = at
        # Of the row before; no label where it was not read here.
        task_name = source = number = label = _UNLIKE
        batch = NOTHING_ASKED
        for line in lines:
            if at >= stop:
                break
            try:
                value = loads(line)
                its_task, its_source, its_number, its_label, instruction, output = _USUAL(value)
                if its_task != task_name:
                    task, reader, asked = rows.task(its_task)  # type: ignore[misc]
                    task_name, label, batch = its_task, _UNLIKE, NOTHING_ASKED
                    direct = not (asked_only or reader.unusual)
                    after = asked.after
                    places: dict[str, Place] = {}
                known = after.get(batch.number)
                if known is None or not instruction.startswith(known[0]):
                    known = after[batch.number] = asked.usual(instruction)
                head, batch = known
                goes_on = its_label == label and its_number == number and its_source == source
                if not goes_on and not (
                    type(its_source) is type(its_number) is type(its_label) is str
                ):
                    raise TypeError
                nothing = output in silent
            except _ODD:
                label = _UNLIKE
                row = rows.open(line)
                if isinstance(row, str):
                    self._count_unread(row, at)
                else:
                    key, _, _, its_batch, value = row
                    if document is None or not rows.belongs(key, its_batch, document):
                        if document is not None:
                            close((document, place, first, at), self.plan, tally)
                        document, first = rows.begin(row), at
                        place = tally.place(key[0], key[1], len(document.reader.labels))
                    rows.answer(value, its_batch, document, place.counts)
                at += len(line)
                continue
            if not goes_on or batch.number in document.batches:
                key = (task, its_source, its_number, its_label)
                # A row that differs from the one before begins a document.
                if not (literal or label is _UNLIKE) or not (
                    document is not None and rows.belongs(key, batch, document)
                ):
                    if document is not None and not (
                        plain and close_plain(document, place, first, at, tally)
                    ):
                        close((document, place, first, at), self.plan, tally)
                    document = Document(key, reader, asked.text_after(head, instruction))
                    first = at
                    place = places.get(its_source)
                    if place is None:
                        place = tally.place(task, its_source, len(reader.labels))
                        places[its_source] = place
                source, number, label = its_source, its_number, its_label
                predicted, batches, counts = document.predicted, document.batches, place.counts
            answer = None
            if direct and "truncated" not in value:
                try:
                    answer = _NOTHING if nothing else loads(output)
                except (ValueError, TypeError):
                    answer = None
            if type(answer) is dict:
                counts[ANSWERS] += 1
                if batch.number:
                    batches[batch.number] = batch
                if answer:
                    into = predicted[0]
                    before = len(into)
                    reader.answer(answer, predicted)
                    empty = len(into) == before and not any(answer.values())
                    if empty and len(silent) < _REMEMBERED:
                        silent.add(output)
            else:
                rows.answer(value, batch, document, counts)
            at += len(line)
        if document is not None:
            close((document, place, first, at), self.plan, tally)
        tally.flush()

    def _count_unread(self, reason: str, at: int) -> None:
        if reason == OTHER_TASK:
            self.tally.skipped += 1
        elif reason:
            self.tally.unreadable += 1
            if self.tally.first_unreadable < 0:
                self.tally.first_unreadable = at


def _scan(path: str, plan: Plan, start: int, stop: int) -> Tally:
    whole = _Scan(plan)
    with open(path, "rb", buffering=1 << 20) as file:
        if start:
            # The line that is cut by ``start`` belongs to the part before.
            file.seek(start - 1)
            start += len(file.readline()) - 1
        whole.read(file, start, stop)
    return whole.tally

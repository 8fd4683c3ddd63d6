"""Reading a prediction file from end to end: bytes in, a ``Tally`` out.

Rows of a document stand together in all but odd files, so a document is scored and forgotten as
soon as the next one begins. Documents whose key comes again later are put together in a second,
exact look at their rows. A large file is read in parts by several processes; the number of parts
depends on the file alone, so the result does not depend on the machine.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from iepile_cli.evaluation.asking import NOTHING_ASKED
from iepile_cli.evaluation.document import Document, confusions, score, settle
from iepile_cli.evaluation.plain import close_plain, is_plain
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.rows import OTHER_TASK, Row, Rows
from iepile_cli.evaluation.tally import (
    ANSWERS,
    CELL,
    CONFUSION,
    DIGEST,
    DOCUMENT,
    END,
    FIRST,
    UNLABELLED,
    Tally,
    digest,
    regrouped,
    renumbered,
)

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from multiprocessing.pool import Pool

import orjson

_USUAL = itemgetter("task", "source", "id", "label", "instruction", "output")
_UNLIKE: object = object()

# From two parts of this size on, processes are worth starting.
PART_BYTES = 12 << 20
MOST_PARTS = 64

Tick = Callable[[int], None]


class AnswerFile:
    """A file of converted test records with their ``output``, read from a path that can seek."""

    def __init__(self, path: str, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        self._rows = Rows(plan)
        # Documents put together from several places: first byte -> all (first, end).
        self._scattered: dict[int, list[tuple[int, int]]] = {}

    def tally(self, tick: Tick | None = None) -> Tally:
        """Score every document, in the order in which they begin."""
        size = os.path.getsize(self.path)
        parts = max(1, min(MOST_PARTS, size // PART_BYTES))
        bounds = [size * number // parts for number in range(parts + 1)]
        jobs = [(self.path, self.plan, first, last) for first, last in pairwise(bounds)]
        total = Tally()
        for tally in _in_processes(jobs, tick):
            total.absorb(tally)
        return self._join_scattered(total)

    def document(self, key_digest: int, first: int, end: int) -> Document | None:
        """Read one document again; None when the file has changed meanwhile."""
        spans = self._scattered.get(first, [(first, end)])
        for document, places in group_rows(self._rows, self._read(spans)):
            if places[0][0] == first and digest(document.key) == key_digest:
                return document if _finish(document, self.plan) else None
        return None

    def _read(self, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Row, tuple[int, int]]]:
        with open(self.path, "rb") as file:
            for first, end in spans:
                file.seek(first)
                at = first
                while at < end and (line := file.readline()):
                    row = self._rows.open(line)
                    if not isinstance(row, str):
                        yield row, (at, at + len(line))
                    at += len(line)

    def _join_scattered(self, tally: Tally) -> Tally:
        """Put documents together whose rows stand apart, and restore the order of the file."""
        import numpy as np

        documents = np.array(tally.documents, dtype=np.int64).reshape(-1, DOCUMENT)
        digests = documents[:, DIGEST]
        order = np.argsort(digests, kind="stable")
        same = digests[order][1:] == digests[order][:-1]
        again = np.zeros(len(digests), dtype=bool)
        again[order[1:][same]] = True
        again[order[:-1][same]] = True
        if not again.any():
            return tally
        joined = Tally()
        for run in _runs(order[again[order]], digests):
            spans = sorted(map(tuple, documents[run][:, [FIRST, END]].tolist()))
            for document, places in group_rows(self._rows, self._read(spans)):
                self._scattered[places[0][0]] = places
                _close(document, self.plan, joined, (places[0][0], places[-1][1]), counted=True)
        joined.flush()
        return _replace(tally, again, joined)


def _runs(order: Any, digests: Any) -> Iterator[list[int]]:
    run: list[int] = []
    for number in order.tolist():
        if run and digests[run[-1]] != digests[number]:
            yield run
            run = []
        run.append(number)
    if run:
        yield run


def _replace(tally: Tally, again: Any, joined: Tally) -> Tally:
    """The tally with the documents marked in ``again`` replaced by those in ``joined``."""
    import numpy as np

    groups = [tally.group(*key) for key in joined.groups]
    labels = [tally.label(*key) for key in joined.labels]
    kept = np.array(tally.documents, dtype=np.int64).reshape(-1, DOCUMENT)[~again]
    new = np.array(regrouped(joined.documents, groups), dtype=np.int64).reshape(-1, DOCUMENT)
    both = np.concatenate([kept, new])
    order = np.argsort(both[:, FIRST], kind="stable")
    place = np.empty(len(order), dtype=np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    tally.documents = array("q", both[order].tobytes())
    target = np.full(len(again), -1, dtype=np.int32)
    target[~again] = place[: len(kept)]
    for name, width, columns in (("cells", CELL, (1,)), ("confusions", CONFUSION, (1, 2))):
        old = np.array(getattr(tally, name), dtype=np.int32).reshape(-1, width)
        old = old[~again[old[:, 0]]]
        old[:, 0] = target[old[:, 0]]
        cells = renumbered(getattr(joined, name), width, 0, labels, columns)
        late = np.array(cells, dtype=np.int32).reshape(-1, width)
        late[:, 0] = place[len(kept) :][late[:, 0]]
        whole = np.concatenate([old, late])
        setattr(tally, name, array("i", whole[np.argsort(whole[:, 0], kind="stable")].tobytes()))
    return tally


def group_rows(
    rows: Rows, found: Iterable[tuple[Row, tuple[int, int]]]
) -> list[tuple[Document, list[tuple[int, int]]]]:
    """Documents from rows in any order, each with the places of its rows.

    The n-th time that a schema batch comes under one key it belongs to the n-th document.
    """
    documents: dict[tuple[Any, ...], tuple[Document, list[tuple[int, int]]]] = {}
    times: dict[tuple[Any, ...], int] = {}
    for row, span in found:
        own, _, _, batch, value = row
        key: tuple[Any, ...] = own[:3] if rows.plan.literal else own
        number = batch.number
        time = 0
        if number and not rows.plan.literal:
            time = times.get((key, number), 0)
            times[key, number] = time + 1
        if (key, time) not in documents:
            documents[key, time] = (rows.begin(row), [])
        document, places = documents[key, time]
        rows.answer(value, batch, document, [0] * 16)
        places.append(span)
    return list(documents.values())


def _finish(document: Document, plan: Plan) -> bool:
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


def _close(
    document: Document, plan: Plan, tally: Tally, span: tuple[int, int], *, counted: bool = False
) -> None:
    if not _finish(document, plan):
        if not counted:
            tally.row_counts[tally.group(*document.key[:2])][UNLABELLED] += 1
        return
    mixed = confusions(document) if plan.confusions else ()
    tally.add(document.key, score(document, plan), span, mixed, document.reader.named_unit)


def scan(path: str, plan: Plan, start: int, stop: int, tick: Tick | None = None) -> Tally:
    """Score the documents of the lines that begin in bytes [start, stop) of a file."""
    # Nothing here makes reference cycles, and looking for them takes a quarter of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _scan(path, plan, start, stop, tick)
    finally:
        if collects:
            gc.enable()


def _scan(path: str, plan: Plan, start: int, stop: int, tick: Tick | None) -> Tally:
    tally = Tally()
    rows = Rows(plan)
    plain = is_plain(plan)
    loads = orjson.loads
    document: Document | None = None
    counts: list[int] = []
    first = at = told = start
    # Nearly every row is like the one before: of its task, often of its document, and asking what
    # came after that row's schema batch the last time. Such rows are read in few steps, which do
    # what ``Rows`` does for any row.
    named = of_source = of_number = of_label = _UNLIKE
    batch = NOTHING_ASKED
    # Answers that say that there is nothing: a few strings make up much of a file.
    silent: set[str] = set()
    with open(path, "rb", buffering=1 << 20) as file:
        if start:
            # The line that is cut by ``start`` belongs to the part before.
            file.seek(start - 1)
            at = start - 1 + len(file.readline())
            first = at
        for line in file:
            if at >= stop:
                break
            try:
                value = loads(line)
                name, source, number, label, instruction, output = _USUAL(value)
                if name != named:
                    task, reader, asked = rows.task(name)  # type: ignore[misc]
                    named, of_label, batch = name, _UNLIKE, NOTHING_ASKED
                    direct = not (plan.asked_only or reader.unusual)
                    after = asked.after
                usual = after.get(batch.number)
                if usual is None or not instruction.startswith(usual[0]):
                    usual = after[batch.number] = asked.usual(instruction)
                head, batch = usual
                same = label == of_label and number == of_number and source == of_source
                if not same and not (type(source) is type(number) is type(label) is str):
                    raise TypeError
                nothing = output in silent and "truncated" not in value
            except (ValueError, LookupError, TypeError, AttributeError):
                row = rows.open(line)
                if isinstance(row, str):
                    if row:
                        _count_unread(tally, row, at)
                else:
                    if document is None or not rows.belongs(row[0], row[3], document):
                        if document is not None:
                            _close(document, plan, tally, (first, at))
                        document = rows.begin(row)
                        counts = tally.row_counts[tally.group(*row[0][:2])]
                        first = at
                    rows.answer(row[4], row[3], document, counts)
                    of_label = _UNLIKE
            else:
                if not same or batch.number in document.batches:
                    key = (task, source, number, label)
                    if document is None or not rows.belongs(key, batch, document):
                        if document is not None and not (
                            plain and close_plain(document, tally, (first, at))
                        ):
                            _close(document, plan, tally, (first, at))
                        document = Document(key, reader, asked.text_after(head, instruction))
                        counts = tally.row_counts[tally.group(task, source)]
                        first = at
                    of_source, of_number, of_label = source, number, label
                answer = None
                if direct and not nothing and "truncated" not in value:
                    try:
                        answer = loads(output)
                    except (ValueError, TypeError):
                        pass
                if nothing or type(answer) is dict:
                    counts[ANSWERS] += 1
                    if batch.number:
                        document.batches[batch.number] = batch
                    if not nothing:
                        into = document.predicted[0]
                        before = len(into)
                        reader.answer(answer, document.predicted)
                        if len(into) == before and not any(answer.values()) and len(silent) < 1000:
                            silent.add(output)
                else:
                    rows.answer(value, batch, document, counts)
            at += len(line)
            if tick is not None and at - told > 1 << 21:
                tick(at - told)
                told = at
    if document is not None:
        _close(document, plan, tally, (first, at))
    tally.flush()
    return tally


def _count_unread(tally: Tally, reason: str, at: int) -> None:
    if reason == OTHER_TASK:
        tally.skipped += 1
        return
    tally.unreadable += 1
    if tally.first_unreadable < 0:
        tally.first_unreadable = at


# ----------------------------------------------------------------------------------- processes


def _in_processes(jobs: list[tuple[str, Plan, int, int]], tick: Tick | None) -> Iterator[Tally]:
    """Run ``scan`` on every job, in several processes if that helps; results in the jobs' order."""
    workers = min(_cores(), len(jobs))
    if workers < 2:
        yield from (scan(*job, tick) for job in jobs)
        return
    with _pool(workers) as pool:
        waiting = [pool.apply_async(scan, job) for job in jobs]
        # Meanwhile there is time for this.
        import numpy as np  # noqa: F401

        for (*_, first, last), result in zip(jobs, waiting, strict=True):
            yield result.get()
            if tick is not None:
                tick(last - first)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pool(size: int) -> Pool:
    import multiprocessing

    # Forking is fast, and safe as long as there is one thread.
    forks = sys.platform == "linux" and threading.active_count() == 1
    context: BaseContext = multiprocessing.get_context("fork" if forks else "spawn")
    return context.Pool(size, initializer=_ignore_interrupt)


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the parent, which ends its workers."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

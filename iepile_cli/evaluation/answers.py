"""A whole prediction file: scored part by part, and its documents read again.

A large file is read in parts by several processes; the number of parts depends on the file alone,
so the result does not depend on the machine. Documents whose key comes again later are put
together in a second, exact look at their rows.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from iepile_cli.evaluation.document import Document
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.rows import Row, Rows
from iepile_cli.evaluation.scan import Tick, close, finish, scan
from iepile_cli.evaluation.sheet import CELL, CONFUSION, Sheet
from iepile_cli.evaluation.tally import (
    DIGEST,
    DOCUMENT,
    END,
    FIRST,
    Tally,
    digest,
    regrouped,
    renumbered,
)
from iepile_cli.evaluation.workers import in_processes

# From two parts of this size on, processes are worth starting.
PART_BYTES = 6 << 20
MOST_PARTS = 64
# How many bytes are looked through for a place between two documents.
_NEAR = 1 << 16


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
        cuts = [self._between(size * number // parts) for number in range(1, parts)]
        jobs = [(self.path, self.plan, *span) for span in pairwise(sorted([0, *cuts, size]))]
        total = Tally()
        for (*_, first, last), sheet in zip(
            jobs, in_processes(scan, jobs, self._prepare), strict=True
        ):
            total.absorb(sheet)
            if tick is not None:
                tick(last - first)
        return self._join_scattered(total)

    def _prepare(self) -> None:
        """Do what does not depend on the answers: load what scores, draw for the intervals."""
        import numpy as np  # noqa: F401

        from iepile_cli.evaluation import scores  # noqa: F401
        from iepile_cli.evaluation.resampling import BLOCKS, draws

        if self.plan.resamples:
            # A file that is read in parts has more documents than that, or very long ones.
            draws(BLOCKS, self.plan.resamples, self.plan.seed)

    def _between(self, at: int) -> int:
        """A place from byte ``at`` on where a document ends; ``at`` itself where none is near.

        Cutting a document in two costs a second look at it, and no more than that.
        """
        before = None
        with open(self.path, "rb") as file:
            file.seek(at)
            file.readline()
            while (place := file.tell()) < at + _NEAR and (line := file.readline()):
                row = self._rows.open(line)
                if isinstance(row, str):
                    continue
                key = row[0][:3]
                if before not in (None, key):
                    return place
                before = key
        return at

    def document(self, key_digest: int, first: int, end: int) -> Document | None:
        """Read one document again; None when the file has changed meanwhile."""
        spans = self._scattered.get(first, [(first, end)])
        for document, places in group_rows(self._rows, self._read(spans)):
            if places[0][0] == first and digest(document.key) == key_digest:
                return document if finish(document, self.plan) else None
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
        ordered = np.sort(digests)
        if not (ordered[1:] == ordered[:-1]).any():
            return tally
        order = np.argsort(digests, kind="stable")
        same = digests[order][1:] == digests[order][:-1]
        again = np.zeros(len(digests), dtype=bool)
        again[order[1:][same]] = True
        again[order[:-1][same]] = True
        sheet = Sheet()
        for run in _runs(order[again[order]], digests):
            spans = sorted(map(tuple, documents[run][:, [FIRST, END]].tolist()))
            for document, places in group_rows(self._rows, self._read(spans)):
                self._scattered[places[0][0]] = places
                key = document.key
                place = sheet.place(key[0], key[1], len(document.reader.labels))
                read = (document, place, places[0][0], places[-1][1])
                close(read, self.plan, sheet, counted=True)
        joined = Tally()
        joined.absorb(sheet)
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
    new = np.array(joined.documents, dtype=np.int64).reshape(-1, DOCUMENT)
    both = np.concatenate([kept, regrouped(new, groups)])
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
        other = np.array(getattr(joined, name), dtype=np.int32).reshape(-1, width)
        late = renumbered(other, 0, labels, columns)
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

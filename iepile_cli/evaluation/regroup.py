"""Documents whose rows do not stand together, or whose key comes again: put together exactly.

A file is counted as if the rows of a document stood together, as they do in all but odd files.
Where a key comes more than once, its rows are read a second time here, and its documents take the
places of what was counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from iepile_cli.evaluation.counts import DIGEST, END, FIRST, Counts
from iepile_cli.evaluation.documents import Document, Read, RowReader, count_document

Span: TypeAlias = tuple[int, int]
# The bytes of each row of a document that was put together, by the first of them.
Regrouped: TypeAlias = dict[int, list[Span]]


def regroup(
    counts: Counts, rows: RowReader, read: Callable[[Iterable[Span]], Iterator[Read]]
) -> Regrouped:
    """Count documents with a repeated key anew, and restore the order of the file."""
    import numpy as np

    digests = counts.document_table()[:, DIGEST].copy()
    _, inverse, times = np.unique(digests, return_inverse=True, return_counts=True)
    if (times == 1).all():
        return {}
    again = times[inverse] > 1
    anew = Counts()
    regrouped: Regrouped = {}
    for fragments in _by_digest(counts, again):
        for document, places in _documents(rows, read(sorted(fragments)), anew):
            regrouped[document.first] = places
            count_document(rows.options, anew, document, places[-1][1])
    # Rows that were counted are not counted again.
    for row in anew.rows:
        row[:] = [0] * len(row)
    before = len(counts)
    counts.merge(anew)
    keep = np.concatenate([np.flatnonzero(~again), np.arange(before, len(counts))])
    first = counts.document_table()[keep, FIRST]
    counts.select(keep[np.argsort(first, kind="stable")])
    return regrouped


def _by_digest(counts: Counts, again: Any) -> Iterator[list[Span]]:
    """The pieces of the file that were counted as documents of one key."""
    import numpy as np

    table = np.array(counts.document_table()[again])
    table = table[np.argsort(table[:, DIGEST], kind="stable")]
    bounds = np.flatnonzero(np.diff(table[:, DIGEST])) + 1
    for part in np.split(table[:, [FIRST, END]], bounds):
        yield [(start, end) for start, end in part.tolist()]


class Grouping:
    """Tells which document each row belongs to, in whatever order rows come.

    The n-th time that a schema batch comes under one key it belongs to the n-th document.
    """

    def __init__(self, literal: bool) -> None:
        self._literal = literal
        self._times: Counter[Any] = Counter()

    def key(self, read: Read) -> tuple[Any, ...]:
        """What rows of one document have in common."""
        row, task, batch, *_ = read
        name = task.reader.task.name
        if self._literal:
            return name, row.source, row.id
        key = (name, row.source, row.id, row.label)
        number = 0
        if batch.number:
            number = self._times[key, batch.number]
            self._times[key, batch.number] += 1
        return *key, number


def _documents(
    rows: RowReader, found: Iterable[Read], counts: Counts
) -> list[tuple[Document, list[Span]]]:
    """Documents from rows in any order, each with the places of its rows."""
    documents: dict[Any, tuple[Document, list[Span]]] = {}
    grouping = Grouping(rows.options.literal)
    for read in found:
        row, task, batch, text, start, end = read
        key = grouping.key(read)
        if key not in documents:
            documents[key] = rows.begin(row, task, text, start, counts), []
        document, places = documents[key]
        rows.add_answer(row, task, batch, document)
        places.append((start, end))
    return list(documents.values())

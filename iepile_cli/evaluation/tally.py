"""What is kept of each scored document: numbers in flat arrays, no text.

A worker fills a ``Tally`` while it reads; tallies of several parts of a file are joined into one.
Half a million documents take about 25 MB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from struct import pack
from typing import NamedTuple
from zlib import adler32, crc32

from iepile_cli.evaluation.document import Counts, Key

# What is counted of the rows of one task and source, document or not.
ANSWERS, MALFORMED, TRUNCATED, REPAIRED, SILENT, UNLABELLED = range(6)
ROW_COUNTS = ("answers", "malformed", "truncated", "repaired", "without_output", "unlabelled")

# Integers in one cell: document, label, and the five counts.
CELL = 7
# Integers in one document, and which of them is what.
DOCUMENT = 4
DIGEST, GROUP, FIRST, END = range(DOCUMENT)

# Integers in one confusion: document, gold label, predicted label (-1: nothing), times.
CONFUSION = 4
_FLUSH = 50_000


class _Labels(dict[str, int]):
    """The numbers of the types of one unit; a new type gets the next number of the tally."""

    def __init__(self, tally: Tally, task: str, unit: int) -> None:
        super().__init__()
        self._of = tally, task, unit

    def __missing__(self, kind: str) -> int:
        tally, task, unit = self._of
        number = self[kind] = tally.label(task, unit, kind)
        return number


class Place(NamedTuple):
    """Where documents of one task and source go.

    ``group`` is the number of the two, ``seeds`` is where their digests begin, ``labels`` numbers
    the types of each unit, and ``counts`` holds the ``ROW_COUNTS``.
    """

    group: int
    seeds: tuple[int, int]
    labels: list[_Labels]
    counts: list[int]


class Tally:
    """Counts of documents. ``cells`` holds ``CELL`` numbers for each type that a document has.

    ``labels`` and ``groups`` number the (task, unit, type) and the (task, source) that occurred.
    ``documents`` holds ``DOCUMENT`` numbers each: a digest of its key, its group, and the bytes
    [first, end) that it was read from.
    """

    def __init__(self) -> None:
        self.labels: dict[tuple[str, int, str], int] = {}
        self.groups: dict[tuple[str, str], int] = {}
        self.row_counts: list[list[int]] = []
        self.cells = array("i")
        self.confusions = array("i")
        self.documents = array("q")
        # Not yet in the arrays: a list grows faster.
        self._cells: list[int] = []
        self._documents: list[int] = []
        self._places: dict[tuple[str, str], Place] = {}
        self._labels: dict[tuple[str, int], _Labels] = {}
        self._count = 0
        self.unreadable = 0
        self.skipped = 0
        self.first_unreadable = -1

    def group(self, task: str, source: str) -> int:
        """The number of a task and source."""
        known = self.groups.get((task, source))
        if known is None:
            known = self.groups[task, source] = len(self.groups)
            self.row_counts.append([0] * len(ROW_COUNTS))
        return known

    def label(self, task: str, unit: int, kind: str) -> int:
        """The number of a type of a task's unit."""
        key = (task, unit, kind)
        known = self.labels.get(key)
        if known is None:
            known = self.labels[key] = len(self.labels)
        return known

    def add(
        self,
        key: Key,
        units: Sequence[dict[str, Counts]],
        first: int,
        end: int,
        confusions: Sequence[tuple[str, str]] = (),
        confused_unit: int = 0,
    ) -> None:
        """Add one scored document."""
        task, source, name, _ = key
        place = self.place(task, source, len(units))
        number = self.begin(place, name, first, end)
        for numbers, types in zip(place.labels, units, strict=True):
            self.put([number, numbers[kind], *counts] for kind, counts in types.items())
        for gold, predicted in confusions:
            self.confusions.extend(
                (
                    number,
                    self.label(task, confused_unit, gold) if gold else -1,
                    self.label(task, confused_unit, predicted) if predicted else -1,
                    1,
                )
            )

    def place(self, task: str, source: str, units: int) -> Place:
        """Where documents of a task, which has so many units, and a source go."""
        place = self._places.get((task, source))
        if place is None:
            group = self.group(task, source)
            labels = [
                self._labels.setdefault((task, unit), _Labels(self, task, unit))
                for unit in range(units)
            ]
            place = Place(group, _seeds(task, source), labels, self.row_counts[group])
            self._places[task, source] = place
        return place

    def begin(self, place: Place, name: str, first: int, end: int) -> int:
        """Enter a document with the id ``name``; gives its number."""
        number = self._count
        self._count = number + 1
        group, (one, other), _, _ = place
        try:
            text = name.encode()
        except UnicodeEncodeError:
            text = name.encode("utf-8", "surrogatepass")
        self._documents += ((crc32(text, one) << 31) ^ adler32(text, other), group, first, end)
        return number

    def put(self, cells: Iterable[Sequence[int]]) -> None:
        """Add cells, each of ``CELL`` numbers."""
        for cell in cells:
            self._cells += cell
        if len(self._cells) > _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Bring the arrays up to date."""
        # Packing is several times faster than ``array.fromlist``.
        self.cells.frombytes(pack(f"{len(self._cells)}i", *self._cells))
        self.documents.frombytes(pack(f"{len(self._documents)}q", *self._documents))
        self._cells, self._documents = [], []

    def absorb(self, other: Tally) -> None:
        """Add all of another tally, its documents after these. Both are flushed."""
        documents = len(self.documents) // DOCUMENT
        labels = [self.label(*key) for key in other.labels]
        groups = [self.group(*key) for key in other.groups]
        for number, counts in zip(groups, other.row_counts, strict=True):
            mine = self.row_counts[number]
            for place, count in enumerate(counts):
                mine[place] += count
        self.documents.extend(regrouped(other.documents, groups))
        self.cells.extend(renumbered(other.cells, CELL, documents, labels, (1,)))
        self.confusions.extend(renumbered(other.confusions, CONFUSION, documents, labels, (1, 2)))
        self._count = len(self.documents) // DOCUMENT
        self.unreadable += other.unreadable
        self.skipped += other.skipped
        if self.first_unreadable < 0:
            self.first_unreadable = other.first_unreadable


def regrouped(documents: array[int], groups: list[int]) -> array[int]:
    """Documents with their group looked up anew."""
    import numpy as np

    table = np.array(documents, dtype=np.int64).reshape(-1, DOCUMENT)
    table[:, GROUP] = np.array(groups or [0], dtype=np.int64)[table[:, GROUP]]
    return array("q", table.tobytes())


def renumbered(
    cells: array[int], width: int, documents: int, labels: list[int], columns: tuple[int, ...]
) -> array[int]:
    """Cells with ``documents`` added to their document and their labels looked up anew."""
    import numpy as np

    table = np.array(cells, dtype=np.int32).reshape(-1, width)
    table[:, 0] += documents
    # A label of -1 stands for nothing and stays: it looks up the last place.
    lookup = np.array([*labels, -1], dtype=np.int32)
    for column in columns:
        table[:, column] = lookup[table[:, column]]
    return array("i", table.tobytes())


def digest(key: Key) -> int:
    """64 bits that are equal for documents of the same task, source and id.

    They are no secret and need not be safe: documents that share them by chance are told apart
    by their rows.
    """
    text, (one, other) = key[2].encode("utf-8", "surrogatepass"), _seeds(key[0], key[1])
    # Two checksums that are cheap and of different kinds; the shift keeps within a signed int64.
    return (crc32(text, one) << 31) ^ adler32(text, other)


def _seeds(task: str, source: str) -> tuple[int, int]:
    name = f"{task}\0{source}".encode("utf-8", "surrogatepass")
    return crc32(name), adler32(name)

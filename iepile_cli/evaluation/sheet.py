"""What is written down of each scored document while a file is read: numbers, no text.

Several workers each fill a ``Sheet``; a ``Tally`` takes them all in. A sheet is written without
numpy, which would take a worker longer to load than many a file takes to read.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from struct import pack
from typing import Any, NamedTuple
from zlib import adler32, crc32

from iepile_cli.evaluation.document import Counts, Key

# What is counted of the rows of one task and source, document or not.
ANSWERS, MALFORMED, TRUNCATED, REPAIRED, SILENT, UNLABELLED = range(6)
ROW_COUNTS = ("answers", "malformed", "truncated", "repaired", "without_output", "unlabelled")

# Integers in one cell: document, label, and the five counts.
CELL = 7
# Integers in one confusion: document, gold label, predicted label (-1: nothing), times.
CONFUSION = 4
# Integers in one document of a sheet: group, the bytes [first, end) that it was read from, and
# where in ``facts`` its own end.
WRITTEN = 4

# A fact of a document that is scored fact by fact: what it is, and its label above that. Invented
# facts are predicted ones with a mention that is not in the text.
GOLD_FACT, RIGHT_FACT, WRONG_FACT, INVENTED_RIGHT, INVENTED_WRONG = range(5)
KIND_BITS = 3
# More facts than this in one document are written as cells.
MOST_FACTS = 4000

# So many facts, or documents without, wait in lists.
WAITING = 20_000


class _Labels(dict[str, int]):
    """The numbers of the types of one unit; a new type gets the next number of the sheet."""

    def __init__(self, sheet: Sheet, task: str, unit: int) -> None:
        super().__init__()
        self._of = sheet, task, unit

    def __missing__(self, kind: str) -> int:
        sheet, task, unit = self._of
        number = self[kind] = sheet.label(task, unit, kind)
        return number


class _Codes(dict[str, int]):
    """The codes of facts of one kind, by their type."""

    def __init__(self, labels: _Labels, kind: int) -> None:
        super().__init__()
        self._of = labels, kind

    def __missing__(self, kind: str) -> int:
        labels, of_fact = self._of
        code = self[kind] = labels[kind] << KIND_BITS | of_fact
        return code


class Place(NamedTuple):
    """Where documents of one task and source go.

    ``group`` is the number of the two, ``labels`` numbers the types of each unit, ``codes`` codes
    the facts of the first one, one table for each kind of fact, and ``counts`` holds the
    ``ROW_COUNTS``.
    """

    group: int
    labels: list[_Labels]
    codes: tuple[_Codes, ...]
    counts: list[int]


class Written:
    """Documents in flat arrays, in the order in which they were read.

    ``cells`` holds ``CELL`` numbers for each type that a document has, or ``facts`` a code for
    each of its facts. ``documents`` holds ``WRITTEN`` numbers each, ``sums`` and ``others`` two
    checksums of each id.
    """

    def __init__(self) -> None:
        self.cells = array("i")
        self.facts = array("i")
        self.confusions = array("i")
        self.documents = array("q")
        self.sums = array("I")
        self.others = array("I")


class Sheet:
    """What is written down while a file is read.

    ``labels`` and ``groups`` number the (task, unit, type) and the (task, source) that occurred.
    """

    def __init__(self) -> None:
        self.labels: dict[tuple[str, int, str], int] = {}
        self.groups: dict[tuple[str, str], int] = {}
        self.row_counts: list[list[int]] = []
        self.unreadable = 0
        self.skipped = 0
        self.first_unreadable = -1
        # What is being written, in lists, which grow faster than arrays: codes of facts,
        # ``WRITTEN`` numbers for each document, and ids. ``done`` facts are in the arrays already.
        self.facts: list[int] = []
        self.documents: list[int] = []
        self.names: list[str] = []
        self.done = 0
        self.written = Written()
        self._places: dict[tuple[str, str], Place] = {}
        self._labels: dict[tuple[str, int], _Labels] = {}

    def __getstate__(self) -> dict[str, Any]:
        # What only helps writing is not sent from one process to another.
        return {**self.__dict__, "_places": {}, "_labels": {}}

    def group(self, task: str, source: str) -> int:
        """The number of a task and source."""
        known = self.groups.get((task, source))
        if known is None:
            known = self.groups[task, source] = len(self.groups)
            self.row_counts.append([0] * len(ROW_COUNTS))
        return known

    def label(self, task: str, unit: int, kind: Any) -> int:
        """The number of a type of a task's unit, a string in all but odd gold."""
        key = (task, unit, str(kind))
        known = self.labels.get(key)
        if known is None:
            known = self.labels[key] = len(self.labels)
        return known

    def place(self, task: str, source: str, units: int) -> Place:
        """Where documents of a task, which has so many units, and a source go."""
        place = self._places.get((task, source))
        if place is None:
            group = self.group(task, source)
            labels = [
                self._labels.setdefault((task, unit), _Labels(self, task, unit))
                for unit in range(units)
            ]
            codes = tuple(_Codes(labels[0], kind) for kind in range(INVENTED_WRONG + 1))
            place = Place(group, labels, codes, self.row_counts[group])
            self._places[task, source] = place
        return place

    def add(
        self,
        key: Key,
        units: Sequence[dict[str, Counts]],
        first: int,
        end: int,
        confusions: Sequence[tuple[str, str]] = (),
        confused_unit: int = 0,
    ) -> None:
        """Write down one scored document as counts."""
        task, source, name, _ = key
        place = self.place(task, source, len(units))
        number = self.begin(place, name, first, end)
        for numbers, types in zip(place.labels, units, strict=True):
            for kind, counts in types.items():
                self.written.cells.extend((number, numbers[kind], *counts))
        for gold, predicted in confusions:
            self.written.confusions.extend(
                (
                    number,
                    self.label(task, confused_unit, gold) if gold else -1,
                    self.label(task, confused_unit, predicted) if predicted else -1,
                    1,
                )
            )

    def begin(self, place: Place, name: str, first: int, end: int) -> int:
        """Write down a document with the id ``name`` and no facts; gives its number."""
        self.names.append(name)
        self.documents += (place.group, first, end, self.done + len(self.facts))
        number = len(self.written.sums) + len(self.names) - 1
        if len(self.names) > WAITING:
            self.flush()
        return number

    def flush(self) -> Written:
        """Bring the arrays up to date, and give them."""
        written = self.written
        # Packing is several times faster than ``array.fromlist``.
        written.facts.frombytes(pack(f"{len(self.facts)}i", *self.facts))
        written.documents.frombytes(pack(f"{len(self.documents)}q", *self.documents))
        names = _encoded(self.names)
        written.sums.extend(map(crc32, names))
        written.others.extend(map(adler32, names))
        self.done = len(written.facts)
        for waiting in (self.facts, self.documents, self.names):
            waiting.clear()
        return written


def _encoded(names: list[str]) -> list[bytes]:
    try:
        return list(map(str.encode, names))
    except UnicodeEncodeError:
        return [name.encode("utf-8", "surrogatepass") for name in names]


def checksums(name: str) -> tuple[int, int]:
    """The two checksums of an id, as they stand in a sheet."""
    (encoded,) = _encoded([name])
    return crc32(encoded), adler32(encoded)


def salt(task: str, source: str) -> int:
    """A number of 63 bits that tells ids of one task and source from the same ids of another."""
    name = f"{task}\0{source}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 1

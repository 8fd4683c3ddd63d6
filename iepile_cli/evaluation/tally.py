"""The counts of all documents of a file: numbers in flat arrays, no text.

Half a million documents take about 25 MB.
"""

from __future__ import annotations

from array import array
from typing import Any

from iepile_cli.evaluation.document import FOUND, GOLD, INVENTED, PREDICTED, RIGHT, Key
from iepile_cli.evaluation.matching import FULL
from iepile_cli.evaluation.sheet import (
    CELL,
    CONFUSION,
    GOLD_FACT,
    INVENTED_RIGHT,
    INVENTED_WRONG,
    KIND_BITS,
    RIGHT_FACT,
    ROW_COUNTS,
    WRITTEN,
    Sheet,
    Written,
    checksums,
    salt,
)

# Integers in one document, and which of them is what.
DOCUMENT = 4
DIGEST, GROUP, FIRST, END = range(DOCUMENT)

# Up to this many keys, a place for each is kept instead of sorting them.
_DENSE = 1 << 20
# Of one type in one document: gold facts, predicted, right and invented ones, added up as one
# number with so many bits for each.
_BITS = 12


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
        self.unreadable = 0
        self.skipped = 0
        self.first_unreadable = -1

    def group(self, task: str, source: str) -> int:
        """The number of a task and source."""
        if (task, source) not in self.groups:
            self.groups[task, source] = len(self.groups)
            self.row_counts.append([0] * len(ROW_COUNTS))
        return self.groups[task, source]

    def label(self, task: str, unit: int, kind: str) -> int:
        """The number of a type of a task's unit."""
        return self.labels.setdefault((task, unit, kind), len(self.labels))

    def absorb(self, sheet: Sheet) -> None:
        """Add all that a sheet holds, its documents after these."""
        import numpy as np

        new = sheet.flush()
        documents = len(self.documents) // DOCUMENT
        labels = [self.label(*key) for key in sheet.labels]
        groups = [self.group(*key) for key in sheet.groups]
        for number, counts in zip(groups, sheet.row_counts, strict=True):
            mine = self.row_counts[number]
            for place, count in enumerate(counts):
                mine[place] += count
        written = np.frombuffer(new.documents, dtype=np.int64).reshape(-1, WRITTEN)
        table = np.empty((len(written), DOCUMENT), dtype=np.int64)
        if len(written):
            group, table[:, FIRST], table[:, END], ends = written.T
            table[:, GROUP] = np.array(groups)[group]
            table[:, DIGEST] = _digests(new) ^ _salts(sheet)[group]
            self.documents.frombytes(table.tobytes())
            own = np.frombuffer(new.cells, dtype=np.int32).reshape(-1, CELL)
            for cells in (own, _cells(new, ends, len(sheet.labels))):
                self.cells.frombytes(renumbered(cells, documents, labels, (1,)).tobytes())
        mixed = np.frombuffer(new.confusions, dtype=np.int32).reshape(-1, CONFUSION)
        self.confusions.frombytes(renumbered(mixed, documents, labels, (1, 2)).tobytes())
        self.unreadable += sheet.unreadable
        self.skipped += sheet.skipped
        if self.first_unreadable < 0:
            self.first_unreadable = sheet.first_unreadable


def _cells(written: Written, ends: Any, labels: int) -> Any:
    """Facts as cells; ``ends`` is where those of each document end."""
    import numpy as np

    facts = np.frombuffer(written.facts, dtype=np.int32)
    document = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    labels = max(1, labels)
    kinds = np.zeros(1 << KIND_BITS)
    kinds[GOLD_FACT] = 1
    kinds[RIGHT_FACT:] = 1 << _BITS
    kinds[[RIGHT_FACT, INVENTED_RIGHT]] += 1 << 2 * _BITS
    kinds[[INVENTED_RIGHT, INVENTED_WRONG]] += 1 << 3 * _BITS
    # A float holds whole numbers of 53 bits exactly.
    weights = kinds[facts & (1 << KIND_BITS) - 1]
    key, sums = added(document * labels + (facts >> KIND_BITS), weights[:, None])
    packed = sums[:, 0].astype(np.int64)
    gold, predicted, right, invented = (
        packed >> place * _BITS & (1 << _BITS) - 1 for place in range(4)
    )
    cells = np.empty((len(key), CELL), dtype=np.int32)
    cells[:, 0], cells[:, 1] = key // labels, key % labels
    counts = cells[:, 2:]
    counts[:, GOLD], counts[:, PREDICTED], counts[:, INVENTED] = gold, predicted, invented
    counts[:, FOUND] = counts[:, RIGHT] = FULL * right
    return cells


def added(key: Any, counts: Any) -> tuple[Any, Any]:
    """The distinct keys in their order, and for each the sums of its rows of ``counts``."""
    import numpy as np

    size = int(key.max()) + 1 if len(key) else 0
    if size <= max(_DENSE, len(key)):
        # Sorting the keys would take longer than everything else.
        distinct = np.flatnonzero(np.bincount(key, minlength=size))
        place = key
    else:
        distinct, place = np.unique(key, return_inverse=True)
        size = len(distinct)
    sums = [np.bincount(place, weights=column, minlength=size) for column in counts.T]
    return distinct, np.stack(sums, axis=-1)[distinct if place is key else slice(None)]


def regrouped(documents: Any, groups: list[int]) -> Any:
    """Documents, ``DOCUMENT`` numbers each, with their group looked up anew."""
    import numpy as np

    table = documents.copy()
    table[:, GROUP] = np.array(groups or [0], dtype=np.int64)[table[:, GROUP]]
    return table


def renumbered(table: Any, documents: int, labels: list[int], columns: tuple[int, ...]) -> Any:
    """Cells with ``documents`` added to their document and their labels looked up anew."""
    import numpy as np

    table = table.copy()
    table[:, 0] += documents
    # A label of -1 stands for nothing and stays: it looks up the last place.
    lookup = np.array([*labels, -1], dtype=np.int32)
    for column in columns:
        table[:, column] = lookup[table[:, column]]
    return table


def digest(key: Key) -> int:
    """64 bits that are equal for documents of the same task, source and id.

    They are no secret and need not be safe: documents that share them by chance are told apart
    by their rows.
    """
    one, other = checksums(key[2])
    # Two checksums that are cheap and of different kinds; the shift keeps within a signed int64.
    return (one << 31) ^ other ^ salt(key[0], key[1])


def _digests(written: Written) -> Any:
    import numpy as np

    one, other = (np.array(sums, dtype=np.int64) for sums in (written.sums, written.others))
    return (one << 31) ^ other


def _salts(sheet: Sheet) -> Any:
    import numpy as np

    return np.array([salt(*key) for key in sheet.groups], dtype=np.int64)

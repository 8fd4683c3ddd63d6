"""The counts of an evaluation: each document as a few small numbers, from which all scores follow.

Goes in: the gold and predicted facts of one document after another (``Counts.add``). Comes out:
tables of sums, by document or by any other grouping of documents. Each worker fills counts of its
own; ``merge`` puts them together. Half a million documents take about 30 MB.

What is written down of a document is one code for each outcome: a hit, a missed gold fact, a
spurious prediction. A code is the number of a label (task, unit and type) times ``OUTCOMES``,
plus the outcome; ``WORTH`` says what each outcome adds to the sums.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from struct import pack
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import adler32, crc32

from iepile_cli.evaluation.facts import Facts
from iepile_cli.evaluation.matching import FULL, invented, match_facts, same_facts
from iepile_cli.task.table import TASKS

if TYPE_CHECKING:
    import numpy.typing as npt

    Table: TypeAlias = "npt.NDArray[Any]"

# What is counted of the rows of one task and source, document or not.
ANSWERS, MALFORMED, TRUNCATED, REPAIRED, SILENT, UNLABELLED = range(6)
ROW_COUNTS = ("answers", "malformed", "truncated", "repaired", "without_output", "unlabelled")

# Gold and predicted facts, the credit for each side (true positives by gold and by prediction, in
# halves; they differ by type where labels may differ), and predictions that are not in the text.
GOLD, PREDICTED, TRUE_GOLD, TRUE_PREDICTED, HALLUCINATED = range(5)
SUMS = 5

OUTCOMES = 8
(HIT, MISSED, SPURIOUS, INVENTED, GOLD_HALF, GOLD_FULL, PREDICTED_HALF, PREDICTED_FULL) = range(
    OUTCOMES
)
# What one outcome adds to each of the ``SUMS``. An invented prediction is spurious or a hit too.
WORTH = (
    (1, 1, 2, 2, 0),
    (1, 0, 0, 0, 0),
    (0, 1, 0, 0, 0),
    (0, 0, 0, 0, 1),
    (1, 0, 1, 0, 0),
    (1, 0, 2, 0, 0),
    (0, 1, 0, 1, 0),
    (0, 1, 0, 2, 0),
)
_GOLD_OUTCOME = (MISSED, GOLD_HALF, GOLD_FULL)
_PREDICTED_OUTCOME = (SPURIOUS, PREDICTED_HALF, PREDICTED_FULL)

# Numbers of one document: a digest of its key, its group, the bytes [first, end) that it was read
# from, and where its codes end.
DOCUMENT = 5
DIGEST, GROUP, FIRST, END, CODES_END = range(DOCUMENT)
# Numbers of one confusion: document, gold label, predicted label (-1: nothing).
CONFUSION = 3

# So many numbers of documents wait in lists.
_WAITING = 100_000

# A confusion of types: the gold one and the predicted one, "" for nothing.
Confusion: TypeAlias = tuple[str, str]


class _Codes(dict[Any, int]):
    """The number of each type of a unit, times ``OUTCOMES``; a new type gets the next number."""

    def __init__(self, counts: Counts, task: str, unit: int) -> None:
        super().__init__()
        self._of = counts, task, unit

    def __missing__(self, kind: Any) -> int:
        counts, task, unit = self._of
        code = self[kind] = counts.label(task, unit, str(kind)) * OUTCOMES
        return code


class Group:
    """The documents of one task and source: their number, and the counts of their rows.

    ``salt`` are the checksums of both names, ``codes`` the codes of the types of each unit.
    """

    def __init__(self, counts: Counts, task: str, source: str) -> None:
        self.number = len(counts.groups)
        self.source = source
        self.rows = [0] * len(ROW_COUNTS)
        name = f"{task}\0{source}\0".encode("utf-8", "surrogatepass")
        self.salt = crc32(name), adler32(name)
        self.codes = counts.codes_of(task)


class Counts:
    """Outcomes of documents, in the order in which they were added.

    ``labels`` and ``groups`` number the (task, unit, type) and the (task, source) that occurred;
    ``rows`` has the ``ROW_COUNTS`` of each group. ``documents`` holds ``DOCUMENT`` numbers for
    each document, ``codes`` its outcomes, ``confusions`` ``CONFUSION`` numbers for each pair.
    """

    def __init__(self) -> None:
        self.labels: dict[tuple[str, int, str], int] = {}
        self.groups: dict[tuple[str, str], int] = {}
        self.rows: list[list[int]] = []
        self.codes = array("i")
        self.documents = array("q")
        self.confusions = array("i")
        self.unreadable = 0
        self.skipped = 0
        self.first_unreadable = -1
        self._groups: dict[tuple[str, str], Group] = {}
        self._codes: dict[str, list[_Codes]] = {}
        # What was added last, in lists, which grow several times faster than arrays.
        self._new_codes: list[int] = []
        self._new_documents: list[int] = []

    def __getstate__(self) -> dict[str, Any]:
        self._flush()
        # What only helps counting is not sent from one process to another.
        return {**self.__dict__, "_groups": {}, "_codes": {}}

    def __len__(self) -> int:
        return (len(self.documents) + len(self._new_documents)) // DOCUMENT

    def _flush(self) -> None:
        """Bring the arrays up to date."""
        if self._new_documents:
            self.codes.frombytes(pack(f"{len(self._new_codes)}i", *self._new_codes))
            self.documents.frombytes(pack(f"{len(self._new_documents)}q", *self._new_documents))
            self._new_codes.clear()
            self._new_documents.clear()

    def group(self, task: str, source: str) -> Group:
        """Where documents of a task and source are counted."""
        group = self._groups.get((task, source))
        if group is None:
            group = self._groups[task, source] = Group(self, task, source)
            self.groups[task, source] = group.number
            self.rows.append(group.rows)
        return group

    def codes_of(self, task: str) -> list[_Codes]:
        """The codes of the types of each unit of a task."""
        if task not in self._codes:
            units = range(len(TASKS[task].units))
            self._codes[task] = [_Codes(self, task, unit) for unit in units]
        return self._codes[task]

    def label(self, task: str, unit: int, kind: str) -> int:
        """The number of a type of a task's unit."""
        return self.labels.setdefault((task, unit, kind), len(self.labels))

    def count_unreadable(self, at: int) -> None:
        """Count a line that cannot be read, which begins at a byte."""
        self.unreadable += 1
        if self.first_unreadable < 0:
            self.first_unreadable = at

    def add(
        self,
        group: Group,
        id: str,
        gold: Facts,
        predicted: Facts,
        labels: Sequence[int],
        mode: str,
        text: str | None,
        first: int,
        end: int,
    ) -> None:
        """Count a document: its group and id, gold and predicted facts of each unit.

        ``labels`` is how many values of the facts of each unit are their label; ``text`` tells
        what is hallucinated, None where it is not known; [``first``, ``end``) are its bytes.
        """
        put = self._new_codes.append
        for unit, codes in enumerate(group.codes):
            of_gold, of_predicted = gold[unit], predicted[unit]
            if mode == "strict":
                hits, missed, spurious = same_facts(of_gold, of_predicted)
            else:
                hits, pairs, missed, spurious = match_facts(
                    of_gold, of_predicted, labels[unit], mode, text
                )
                for one, other, credit in pairs:
                    put(codes[one[0]] + _GOLD_OUTCOME[credit])
                    put(codes[other[0]] + _PREDICTED_OUTCOME[credit])
            for fact in hits:
                put(codes[fact[0]])
            for fact in missed:
                put(codes[fact[0]] + MISSED)
            for fact in spurious:
                put(codes[fact[0]] + SPURIOUS)
            if text is not None and of_predicted:
                for fact in invented(of_predicted, labels[unit], text):
                    put(codes[fact[0]] + INVENTED)
        end_of_codes = len(self.codes) + len(self._new_codes)
        self._new_documents += (_digest(group.salt, id), group.number, first, end, end_of_codes)
        if len(self._new_documents) > _WAITING:
            self._flush()

    def add_confusions(self, task: str, unit: int, confusions: Sequence[Confusion]) -> None:
        """Write down the confusions of the document that was added last."""
        for pair in confusions:
            numbers = (self.label(task, unit, kind) if kind else -1 for kind in pair)
            self.confusions.extend((len(self) - 1, *numbers))

    # ------------------------------------------------------------------------ putting together

    def merge(self, other: Counts) -> None:
        """Add all that other counts hold, their documents after these."""
        import numpy as np

        self._flush()
        documents, codes = len(self), len(self.codes)
        groups, labels = self._numbers(other)
        for number, rows in zip(groups[:-1].tolist(), other.rows, strict=True):
            mine = self.rows[number]
            mine[:] = [a + b for a, b in zip(mine, rows, strict=True)]
        table = np.array(other.document_table())
        table[:, GROUP] = groups[table[:, GROUP]]
        table[:, CODES_END] += codes
        self.documents.frombytes(table.tobytes())
        self.codes.frombytes(_renumbered(other.code_table(), labels).tobytes())
        confusions = np.array(other.confusion_table())
        confusions[:, 0] += documents
        confusions[:, 1:] = labels[confusions[:, 1:]]
        self.confusions.frombytes(confusions.tobytes())
        self.unreadable += other.unreadable
        self.skipped += other.skipped
        if self.first_unreadable < 0:
            self.first_unreadable = other.first_unreadable

    def _numbers(self, other: Counts) -> tuple[Table, Table]:
        """The numbers that groups and labels of other counts have here; -1 stays -1."""
        import numpy as np

        groups = [self.group(*key).number for key in other.groups]
        labels = [self.label(*key) for key in other.labels]
        return np.array([*groups, -1], dtype=np.int64), np.array([*labels, -1], dtype=np.int32)

    def select(self, numbers: Table) -> None:
        """Keep the documents of these numbers only, in this order."""
        import numpy as np

        documents, codes = np.array(self.document_table()), self.code_table()
        ends = documents[:, CODES_END]
        starts = ends - np.diff(ends, prepend=0)
        sizes = (ends - starts)[numbers]
        new_ends = np.cumsum(sizes)
        # For each code its place before: where those of its document began, and so many after.
        places = np.repeat(starts[numbers] - (new_ends - sizes), sizes) + np.arange(sizes.sum())
        new_codes = codes[places]
        documents = documents[numbers]
        documents[:, CODES_END] = new_ends
        new_number = np.full(len(self), -1, dtype=np.int32)
        new_number[numbers] = np.arange(len(numbers), dtype=np.int32)
        confusions = np.array(self.confusion_table())
        confusions[:, 0] = new_number[confusions[:, 0]]
        confusions = confusions[confusions[:, 0] >= 0]
        confusions = confusions[np.argsort(confusions[:, 0], kind="stable")]
        self.documents = array("q", documents.tobytes())
        self.codes = array("i", new_codes.tobytes())
        self.confusions = array("i", confusions.tobytes())

    # -------------------------------------------------------------------------------- tables

    def document_table(self) -> Table:
        """Documents x ``DOCUMENT``, not to be kept while documents are added."""
        import numpy as np

        self._flush()
        return np.frombuffer(self.documents, dtype=np.int64).reshape(-1, DOCUMENT)

    def code_table(self) -> Table:
        """The codes of all outcomes, in the order of the documents."""
        import numpy as np

        self._flush()
        return np.frombuffer(self.codes, dtype=np.int32)

    def confusion_table(self) -> Table:
        """Confusions x ``CONFUSION``."""
        import numpy as np

        return np.frombuffer(self.confusions, dtype=np.int32).reshape(-1, CONFUSION)

    def document_of_code(self) -> Table:
        """For each code the number of its document."""
        import numpy as np

        sizes = np.diff(self.document_table()[:, CODES_END], prepend=0)
        return np.repeat(np.arange(len(self), dtype=np.int32), sizes)

    def document_sums(self, task: str, unit: int) -> Table:
        """Documents x ``SUMS`` of one unit of a task."""
        import numpy as np

        wanted = np.array([key[:2] == (task, unit) for key in self.labels], dtype=bool)
        codes, document = self.code_table(), self.document_of_code()
        if len(wanted):
            here = wanted[codes // OUTCOMES]
            codes, document = codes[here], document[here]
        return added_up(document, np.array(WORTH)[codes % OUTCOMES], len(self))

    def sums(self, key: Table) -> tuple[Table, Table, Table]:
        """Sums over documents with one key, for each label: keys, labels, and rows of ``SUMS``.

        ``key`` has a small number for each document; only pairs that occur are given, in order.
        """
        import numpy as np

        codes = self.code_table()
        width = max(1, len(self.labels)) * OUTCOMES
        both = key[self.document_of_code()].astype(np.int64) * width + codes
        distinct, times = _counted(both)
        pair, place = np.unique(distinct // OUTCOMES, return_inverse=True)
        worth = np.array(WORTH)[distinct % OUTCOMES] * times[:, None]
        labels = width // OUTCOMES
        return pair // labels, pair % labels, added_up(place, worth, len(pair))

    def wrong_documents(self) -> list[int]:
        """The numbers of documents that have an error: not all hits or full credit."""
        import numpy as np

        outcomes = self.code_table() % OUTCOMES
        full = np.array([FULL in worth[TRUE_GOLD : TRUE_PREDICTED + 1] for worth in WORTH])
        wrong = ~full[outcomes] & (outcomes != INVENTED)
        return [int(number) for number in np.unique(self.document_of_code()[wrong])]


# Up to this many keys, a place for each is kept instead of sorting them.
_DENSE = 1 << 22


def _counted(keys: Table) -> tuple[Table, Table]:
    """The distinct keys in order, and how often each comes."""
    import numpy as np

    if len(keys) and int(keys.max()) < max(_DENSE, len(keys)):
        times = np.bincount(keys)
        distinct = np.flatnonzero(times)
        return distinct, times[distinct]
    return np.unique(keys, return_counts=True)


def added_up(place: Table, rows: Table, size: int) -> Table:
    """The sums of the rows that have one place: ``size`` x columns."""
    import numpy as np

    sums = [np.bincount(place, weights=column, minlength=size) for column in rows.T]
    return np.stack(sums, axis=-1)


def _renumbered(codes: Table, labels: Table) -> Table:
    import numpy as np

    renumbered: Table = (labels[codes // OUTCOMES] * OUTCOMES + codes % OUTCOMES).astype(np.int32)
    return renumbered


def _digest(salt: tuple[int, int], id: str) -> int:
    """62 bits that are equal for documents of the same task, source and id.

    They are no secret and need not be safe: documents that share them by chance are told apart
    by their rows.
    """
    try:
        data = id.encode()
    except UnicodeEncodeError:
        data = id.encode("utf-8", "surrogatepass")
    # Two checksums that are cheap and of different kinds; the shift keeps within a signed int64.
    return (crc32(data, salt[0]) << 31) ^ adler32(data, salt[1])

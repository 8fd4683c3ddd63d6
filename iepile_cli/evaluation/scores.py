"""Scores from counts: micro and macro precision, recall and F1, with their intervals.

Micro counts every fact alike; macro is the plain mean over the types that occur in the gold or in
the predictions. All in percent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from iepile_cli.errors import DataError
from iepile_cli.evaluation.counts import (
    DIGEST,
    GOLD,
    GROUP,
    PREDICTED,
    ROW_COUNTS,
    TRUE_GOLD,
    TRUE_PREDICTED,
    Counts,
    added_up,
)
from iepile_cli.evaluation.options import EvalOptions
from iepile_cli.evaluation.resampling import (
    SUMS,
    blocked,
    compare,
    draws,
    f1_parts,
    interval,
    resampled,
)
from iepile_cli.task.table import TASKS

if TYPE_CHECKING:
    from iepile_cli.evaluation.resampling import Table

# Types resampled together; bounds the memory where there are thousands.
_COLUMNS = 256
_SUMMED = (GOLD, PREDICTED, TRUE_GOLD, TRUE_PREDICTED)


@dataclass
class Score:
    """Counts of one set of facts, and what follows from them.

    ``true_gold`` and ``true_predicted`` are true positives by gold and by prediction: the credit
    of gold facts and of predicted ones, which differ by type where labels may differ.
    """

    gold: int = 0
    predicted: int = 0
    true_gold: float = 0
    true_predicted: float = 0
    hallucinated: int = 0
    intervals: dict[str, list[float]] = field(default_factory=dict)

    def add(self, sums: Iterable[int]) -> None:
        """Add one type's sums; credits come in halves."""
        gold, predicted, true_gold, true_predicted, hallucinated = sums
        self.gold += gold
        self.predicted += predicted
        self.true_gold += true_gold / 2
        self.true_predicted += true_predicted / 2
        self.hallucinated += hallucinated

    @property
    def precision(self) -> float:
        """In percent; 0 when nothing was predicted."""
        return 100 * self.true_predicted / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """In percent; 0 when there is no gold."""
        return 100 * self.true_gold / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of the unrounded precision and recall, in percent."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    def as_json(self) -> dict[str, Any]:
        """The form of the report."""
        whole = int(self.true_predicted)
        correct = whole if whole == self.true_predicted else self.true_predicted
        shown = {
            "P": round(self.precision, 2),
            "R": round(self.recall, 2),
            "F1": round(self.f1, 2),
            "gold": self.gold,
            "predicted": self.predicted,
            "correct": correct,
            "hallucinated": self.hallucinated,
        }
        return {**shown, "interval_95": self.intervals} if self.intervals else shown


@dataclass
class UnitScores:
    """Scores of one unit of a task: all, per type, per source, and per type within a source."""

    name: str
    micro: Score = field(default_factory=Score)
    macro: dict[str, Any] = field(default_factory=dict)
    types: dict[str, Score] = field(default_factory=dict)
    sources: dict[str, Score] = field(default_factory=dict)
    source_types: dict[str, dict[str, Score]] = field(default_factory=dict)


@dataclass
class TaskScores:
    """Everything that is known about one task of a file."""

    task: str
    documents: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    units: list[UnitScores] = field(default_factory=list)
    source_documents: dict[str, int] = field(default_factory=dict)
    source_rows: dict[str, dict[str, int]] = field(default_factory=dict)


def macro(types: dict[str, Score]) -> dict[str, float]:
    """The mean over types of precision, recall and F1."""
    count = max(1, len(types))
    return {
        "P": round(sum(score.precision for score in types.values()) / count, 2),
        "R": round(sum(score.recall for score in types.values()) / count, 2),
        "F1": round(sum(score.f1 for score in types.values()) / count, 2),
    }


class _Sums(NamedTuple):
    """Sums of outcomes over the documents of one block, one group and one label.

    ``block``, ``group`` and ``label`` say whose each row of ``sums`` is; ``blocks`` is how many
    blocks each task has.
    """

    sums: Any
    block: Any
    group: Any
    label: Any
    blocks: dict[str, int]


def task_scores(counts: Counts, options: EvalOptions) -> dict[str, TaskScores]:
    """Score everything that was counted, task by task."""
    import numpy as np

    result: dict[str, TaskScores] = {}
    group_of = counts.document_table()[:, GROUP]
    of_group = np.bincount(group_of, minlength=len(counts.groups)).tolist()
    for (task, source), number in counts.groups.items():
        scores = result.setdefault(task, TaskScores(task, rows=dict.fromkeys(ROW_COUNTS, 0)))
        scores.documents += of_group[number]
        scores.source_documents[source] = of_group[number]
        rows = dict(zip(ROW_COUNTS, counts.rows[number], strict=True))
        scores.source_rows[source] = rows
        for name, count in rows.items():
            scores.rows[name] += count
    labels, groups = list(counts.labels), list(counts.groups)
    for scores in result.values():
        scores.units = [UnitScores(unit.name) for unit in TASKS[scores.task].units]
    sums = _block_sums(counts, group_of, options)
    for group, label, total in _totals(sums, len(labels)):
        task, unit, kind = labels[label]
        into = result[task].units[unit]
        source = groups[group][1]
        into.micro.add(total)
        into.types.setdefault(kind, Score()).add(total)
        into.sources.setdefault(source, Score()).add(total)
        into.source_types.setdefault(source, {}).setdefault(kind, Score()).add(total)
    for scores in result.values():
        for unit_scores in scores.units:
            for source in scores.source_documents:
                unit_scores.sources.setdefault(source, Score())
            unit_scores.macro = macro(unit_scores.types)
        if options.resamples and scores.documents:
            _add_intervals(scores, counts, sums, options)
    return result


def _block_sums(counts: Counts, group_of: Any, options: EvalOptions) -> _Sums:
    """Sums over the documents of one block, or over all where nothing is resampled."""
    import numpy as np

    block = np.zeros(len(counts), dtype=np.int64)
    blocks: dict[str, int] = {}
    for task in dict.fromkeys(task for task, _ in counts.groups) if options.resamples else ():
        ours = [number for (other, _), number in counts.groups.items() if other == task]
        mine = np.flatnonzero(np.isin(group_of, ours))
        block[mine], blocks[task] = blocked(np.arange(len(mine)), len(mine))
    groups = max(1, len(counts.groups))
    both, label, sums = counts.sums(block * groups + group_of)
    return _Sums(sums, both // groups, both % groups, label, blocks)


def _totals(sums: _Sums, labels: int) -> Iterable[tuple[int, int, list[int]]]:
    """Sums over all blocks: (group, label, sums) of every group and label that occur."""
    import numpy as np

    distinct, place = np.unique(sums.group * max(1, labels) + sums.label, return_inverse=True)
    totals = added_up(place, sums.sums, len(distinct))
    for both, total in zip(distinct.tolist(), totals.tolist(), strict=True):
        yield both // labels, both % labels, list(map(int, total))


def _add_intervals(scores: TaskScores, counts: Counts, sums: _Sums, options: EvalOptions) -> None:
    """Resample the documents of one task and write down 95 % intervals."""
    import numpy as np

    blocks = sums.blocks[scores.task]
    weights = draws(blocks, options.resamples, options.seed)
    for number, unit in enumerate(scores.units):
        # Where each type, and each source, of this unit stands in the table of sums.
        kinds = {kind: place for place, kind in enumerate(unit.types)}
        sources = {source: place for place, source in enumerate(unit.sources)}
        kind_of = np.full(len(counts.labels), -1)
        for (task, label_unit, kind), label in counts.labels.items():
            if (task, label_unit) == (scores.task, number):
                kind_of[label] = kinds.get(kind, -1)
        source_of = np.array([sources.get(source, -1) for _, source in counts.groups])
        here = kind_of[sums.label] >= 0
        table = _BlockTable(sums.sums[here][:, _SUMMED], sums.block[here], blocks)
        _write([unit.micro], resampled(weights, table.columns(0 * sums.label[here], 0, 1)))
        means = np.zeros((options.resamples, 3))
        occurring = np.zeros((options.resamples, 1))
        kind_place = kind_of[sums.label[here]]
        for start in range(0, len(kinds), _COLUMNS):
            chunk = list(unit.types.values())[start : start + _COLUMNS]
            drawn = resampled(weights, table.columns(kind_place, start, len(chunk)))
            for part, values in enumerate(_write(chunk, drawn)):
                means[:, part] += values.sum(axis=1)
            # A type that a resample does not hold is no part of its mean.
            there = drawn[..., :2].sum(axis=2) > 0
            occurring[:, 0] += there.sum(axis=1)
        if kinds:
            bounds = interval(means / np.maximum(1, occurring))
            unit.macro["interval_95"] = dict(zip(("P", "R", "F1"), bounds, strict=True))
        source_place = source_of[sums.group[here]]
        for start in range(0, len(sources), _COLUMNS):
            chunk = list(unit.sources.values())[start : start + _COLUMNS]
            _write(chunk, resampled(weights, table.columns(source_place, start, len(chunk))))


class _BlockTable(NamedTuple):
    """Sums, the block of each row, and how many blocks there are."""

    sums: Any
    block: Any
    blocks: int

    def columns(self, place: Any, start: int, size: int) -> Table:
        """Sums of rows whose ``place`` is in [start, start + size): blocks x size x ``SUMS``."""
        import numpy as np

        here = (place >= start) & (place < start + size)
        key = self.block[here] * size + place[here] - start
        sums = added_up(key, self.sums[here], self.blocks * size)
        table: Table = sums.reshape(self.blocks, size, SUMS).astype(np.float64)
        # Credits are counted in halves.
        table[..., 2:] /= 2
        return table


def _write(scores: list[Score], sums: Table) -> tuple[Table, Table, Table]:
    """Write down the intervals of scores, from their sums in each resample."""
    parts = f1_parts(sums)
    for name, values in zip(("P", "R", "F1"), parts, strict=True):
        for score, bounds in zip(scores, interval(values), strict=True):
            score.intervals[name] = bounds
    return parts


# ----------------------------------------------------------------------------- two systems


def compared(system: Counts, baseline: Counts, options: EvalOptions) -> dict[str, Any]:
    """For each task and unit, the difference on the documents that are in both files.

    Raises ``DataError`` when the files have no document in common.
    """
    result: dict[str, Any] = {}
    for task in dict.fromkeys(task for task, _ in system.groups):
        units: dict[str, Any] = {}
        shared = alone = other_gold = 0
        for number, unit in enumerate(TASKS[task].units):
            mine, names = _unit_sums(system, task, number)
            theirs, other_names = _unit_sums(baseline, task, number)
            left, right = _common(names, other_names)
            shared, alone = len(left), len(names) + len(other_names) - 2 * len(left)
            if not shared:
                continue
            other_gold += int((mine[left][:, 0] != theirs[right][:, 0]).sum())
            difference = compare(
                mine[left],
                theirs[right],
                shuffles=options.shuffles,
                resamples=options.resamples,
                seed=options.seed,
            )
            units[unit.name] = asdict(difference)
        if units:
            result[task] = {
                "documents": shared,
                "only_in_one": alone,
                "other_gold": other_gold,
                "units": units,
            }
    if not result:
        raise DataError(
            "the baseline has no document in common with the predictions",
            hint="both files need the same records: task, source and id",
        )
    return result


def _unit_sums(counts: Counts, task: str, unit: int) -> tuple[Table, Any]:
    """Sums of one unit for each document of a task, and these documents' digests."""
    import numpy as np

    documents = counts.document_table()
    ours = [number for (name, _), number in counts.groups.items() if name == task]
    keep = np.isin(documents[:, GROUP], ours)
    table = counts.document_sums(task, unit)[keep][:, _SUMMED]
    table[:, 2:] /= 2
    return table, documents[keep][:, DIGEST]


def _common(first: Any, second: Any) -> tuple[Any, Any]:
    """Places of equal names in two lists; the n-th of a name goes with the n-th."""
    import numpy as np

    _, left, right = np.intersect1d(
        _numbered(first), _numbered(second), assume_unique=True, return_indices=True
    )
    order = np.argsort(left, kind="stable")
    return left[order], right[order]


def _numbered(names: Any) -> Any:
    """Each name with how often it came before, as one structured array."""
    import numpy as np

    order = np.argsort(names, kind="stable")
    ordered = names[order]
    fresh = np.ones(len(names), dtype=bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    starts = np.maximum.accumulate(np.where(fresh, np.arange(len(names)), 0))
    keys = np.zeros(len(names), dtype=[("name", "i8"), ("time", "i8")])
    keys["name"] = names
    keys["time"][order] = np.arange(len(names)) - starts
    return keys

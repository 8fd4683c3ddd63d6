"""Scores from tallies: micro and macro precision, recall and F1, with their intervals.

Micro counts every fact alike; macro is the plain mean over the types that occur in the gold or in
the predictions. All in percent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from iepile_cli.evaluation.document import FOUND, GOLD, PREDICTED, RIGHT
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.resampling import (
    SUMS,
    blocked,
    draws,
    f1_parts,
    interval,
    resampled,
)
from iepile_cli.evaluation.sheet import CELL, ROW_COUNTS
from iepile_cli.evaluation.tally import DIGEST, DOCUMENT, GROUP, Tally, added
from iepile_cli.task.table import TASKS

if TYPE_CHECKING:
    from iepile_cli.evaluation.resampling import Table

# Types resampled together; bounds the memory where there are thousands.
_COLUMNS = 256
_SUMMED = (GOLD, PREDICTED, FOUND, RIGHT)


@dataclass
class Score:
    """Counts of one set of facts, and what follows from them."""

    gold: int = 0
    predicted: int = 0
    found: float = 0
    right: float = 0
    hallucinated: int = 0
    intervals: dict[str, list[float]] = field(default_factory=dict)

    def add(self, counts: Iterable[int]) -> None:
        """Add one type's counts; credits come in halves."""
        gold, predicted, found, right, invented = counts
        self.gold += gold
        self.predicted += predicted
        self.found += found / 2
        self.right += right / 2
        self.hallucinated += invented

    @property
    def precision(self) -> float:
        """In percent; 0 when nothing was predicted."""
        return 100 * self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """In percent; 0 when there is no gold."""
        return 100 * self.found / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of the unrounded precision and recall, in percent."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    def as_json(self) -> dict[str, Any]:
        """The form of the report."""
        correct = int(self.right) if self.right == int(self.right) else self.right
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


class _Condensed(NamedTuple):
    """Counts of cells, added up over the documents of one block.

    ``block``, ``group`` and ``label`` say whose each row is; ``blocks`` is how many blocks each
    task has.
    """

    counts: Any
    block: Any
    group: Any
    label: Any
    blocks: dict[str, int]


def task_scores(tally: Tally, plan: Plan) -> dict[str, TaskScores]:
    """Score everything in a tally, task by task."""
    import numpy as np

    documents = np.frombuffer(tally.documents, dtype=np.int64).reshape(-1, DOCUMENT)
    result: dict[str, TaskScores] = {}
    of_group = np.bincount(documents[:, GROUP], minlength=len(tally.groups)).tolist()
    for (task, source), number in tally.groups.items():
        scores = result.setdefault(task, TaskScores(task, rows=dict.fromkeys(ROW_COUNTS, 0)))
        scores.documents += of_group[number]
        scores.source_documents[source] = of_group[number]
        rows = dict(zip(ROW_COUNTS, tally.row_counts[number], strict=True))
        scores.source_rows[source] = rows
        for name, count in rows.items():
            scores.rows[name] += count
    labels, groups = list(tally.labels), list(tally.groups)
    for scores in result.values():
        scores.units = [UnitScores(unit.name) for unit in TASKS[scores.task].units]
    condensed = _condensed(tally, documents, plan)
    for group, label, counts in _summed(condensed, len(labels)):
        task, unit, kind = labels[label]
        into = result[task].units[unit]
        source = groups[group][1]
        into.micro.add(counts)
        into.types.setdefault(kind, Score()).add(counts)
        into.sources.setdefault(source, Score()).add(counts)
        into.source_types.setdefault(source, {}).setdefault(kind, Score()).add(counts)
    for scores in result.values():
        for unit_scores in scores.units:
            for source in scores.source_documents:
                unit_scores.sources.setdefault(source, Score())
            unit_scores.macro = macro(unit_scores.types)
        if plan.resamples and scores.documents:
            _add_intervals(scores, tally, condensed, plan)
    return result


def _condensed(tally: Tally, documents: Any, plan: Plan) -> _Condensed:
    """The cells of a tally, added up over the documents of one block, or of all without any."""
    import numpy as np

    cells = np.frombuffer(tally.cells, dtype=np.int32).reshape(-1, CELL)
    groups, labels = len(tally.groups), max(1, len(tally.labels))
    block = np.zeros(len(documents), dtype=np.int64)
    blocks: dict[str, int] = {}
    for task in dict.fromkeys(task for task, _ in tally.groups) if plan.resamples else ():
        ours = [number for number, (other, _) in enumerate(tally.groups) if other == task]
        mine = slice(None) if len(ours) == groups else np.isin(documents[:, GROUP], ours)
        count = len(block[mine])
        block[mine], blocks[task] = blocked(np.arange(count), count)
    key = (block * groups + documents[:, GROUP])[cells[:, 0]] * labels + cells[:, 1]
    distinct, counts = added(key, cells[:, 2:])
    both, label = distinct // labels, distinct % labels
    return _Condensed(counts, both // max(1, groups), both % max(1, groups), label, blocks)


def _summed(condensed: _Condensed, labels: int) -> Iterable[tuple[int, int, list[int]]]:
    """Sums over all: (group, label, counts) of every group and label that occur."""
    key = condensed.group * max(1, labels) + condensed.label
    distinct, sums = added(key, condensed.counts)
    for both, counts in zip(distinct.tolist(), sums.tolist(), strict=True):
        yield both // labels, both % labels, list(map(int, counts))


def _add_intervals(scores: TaskScores, tally: Tally, condensed: _Condensed, plan: Plan) -> None:
    """Resample the documents of one task and write down 95 % intervals."""
    import numpy as np

    blocks = condensed.blocks[scores.task]
    weights = draws(blocks, plan.resamples, plan.seed)
    for number, unit in enumerate(scores.units):
        # Where each type, and each source, of this unit stands in the table of sums.
        kinds = {kind: place for place, kind in enumerate(unit.types)}
        sources = {source: place for place, source in enumerate(unit.sources)}
        kind_of = np.full(len(tally.labels), -1)
        for (task, label_unit, kind), label in tally.labels.items():
            if (task, label_unit) == (scores.task, number):
                kind_of[label] = kinds.get(kind, -1)
        source_of = np.array([sources.get(source, -1) for _, source in tally.groups])
        here = kind_of[condensed.label] >= 0
        some = condensed.counts[here][:, _SUMMED]
        where = condensed.block[here]
        kind_place = kind_of[condensed.label[here]]
        source_place = source_of[condensed.group[here]]
        all_kinds = _sums(some, where, 0 * kind_place, 0, 1, blocks)
        _write([unit.micro], resampled(weights, all_kinds))
        means = np.zeros((plan.resamples, 3))
        occurring = np.zeros((plan.resamples, 1))
        for start in range(0, len(kinds), _COLUMNS):
            chunk = list(unit.types.values())[start : start + _COLUMNS]
            sums = resampled(weights, _sums(some, where, kind_place, start, len(chunk), blocks))
            for part, values in enumerate(_write(chunk, sums)):
                means[:, part] += values.sum(axis=1)
            # A type that a resample does not hold is no part of its mean.
            there = sums[..., :2].sum(axis=2) > 0
            occurring[:, 0] += there.sum(axis=1)
        if kinds:
            bounds = interval(means / np.maximum(1, occurring))
            unit.macro["interval_95"] = dict(zip(("P", "R", "F1"), bounds, strict=True))
        for start in range(0, len(sources), _COLUMNS):
            chunk = list(unit.sources.values())[start : start + _COLUMNS]
            table = _sums(some, where, source_place, start, len(chunk), blocks)
            _write(chunk, resampled(weights, table))


def _sums(counts: Any, block: Any, place: Any, start: int, size: int, blocks: int) -> Table:
    """Sums of counts whose ``place`` is in [start, start + size): blocks x size x ``SUMS``."""
    import numpy as np

    here = (place >= start) & (place < start + size)
    key = block[here] * size + place[here] - start
    columns = [
        np.bincount(key, weights=counts[here, column], minlength=blocks * size)
        for column in range(SUMS)
    ]
    table: Table = np.stack(columns, axis=-1).reshape(blocks, size, SUMS).astype(np.float64)
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


def unit_sums(tally: Tally, task: str, unit: int) -> tuple[Table, Any]:
    """Sums of one unit for each document of a task, and these documents' digests."""
    import numpy as np

    documents = np.frombuffer(tally.documents, dtype=np.int64).reshape(-1, DOCUMENT)
    cells = np.frombuffer(tally.cells, dtype=np.int32).reshape(-1, CELL)
    wanted = np.array(
        [(name, number) == (task, unit) for name, number, _ in tally.labels], dtype=bool
    )
    mine = cells[wanted[cells[:, 1]]] if len(wanted) else cells[:0]
    table = np.zeros((len(documents), SUMS))
    for place, column in enumerate(_SUMMED):
        table[:, place] = np.bincount(
            mine[:, 0], weights=mine[:, 2 + column], minlength=len(documents)
        )
    table[:, 2:] /= 2
    ours = [number for number, (name, _) in enumerate(tally.groups) if name == task]
    keep = np.isin(documents[:, GROUP], ours)
    return table[keep], documents[keep][:, DIGEST]

"""How sure a score is: bootstrap intervals, and the paired test of a difference.

Intervals are percentile intervals of the bootstrap over documents (Efron and Tibshirani 1993).
More than ``BLOCKS`` documents are first dealt out into that many equal blocks, and blocks are
drawn: sums over blocks vary as sums over documents do, and the cost no longer grows with the
file. The test is approximate randomisation (Noreen 1989; Yeh 2000): the two systems' answers to
a document are swapped at random.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Table = npt.NDArray[np.float64]

BLOCKS = 2048
# Numbers held at once while resampling.
_CHUNK = 4_000_000
_DRAWN = 1 << 16
# Columns of a sums table: gold, predicted, and the credit for each, in facts.
SUMS = 4


def blocked(document: npt.NDArray[np.int64], documents: int) -> tuple[npt.NDArray[np.int64], int]:
    """The block of each document number, and how many blocks there are."""
    blocks = max(1, min(documents, BLOCKS))
    return document % blocks, blocks


@functools.lru_cache(maxsize=1)
def draws(blocks: int, resamples: int, seed: int) -> Table:
    """How often each resample holds each block: ``resamples`` x ``blocks``, rows sum to blocks.

    The last ones are kept, not to be changed.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, blocks))
    # Some resamples at a time, told apart by adding a multiple of ``blocks``.
    step = max(1, _DRAWN // blocks)
    for start in range(0, resamples, step):
        some = weights[start : start + step]
        drawn = rng.integers(0, blocks, some.shape) + np.arange(len(some))[:, None] * blocks
        some[:] = np.bincount(drawn.ravel(), minlength=some.size).reshape(some.shape)
    weights.flags.writeable = False
    return weights


def f1_parts(sums: Table) -> tuple[Table, Table, Table]:
    """Precision, recall and F1 in percent from sums whose last axis is ``SUMS``; 0/0 is 0."""
    import numpy as np

    gold, predicted, true_gold, true_predicted = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(predicted > 0, 100 * true_predicted / predicted, 0.0)
        recall = np.where(gold > 0, 100 * true_gold / gold, 0.0)
        both = precision + recall
        f1 = np.where(both > 0, 2 * precision * recall / both, 0.0)
    return precision, recall, f1


def resampled(weights: Table, table: Table) -> Table:
    """Sums of each resample, from a table of blocks x columns x ``SUMS``."""
    blocks, columns, _ = table.shape
    sums: Table = (weights @ table.reshape(blocks, columns * SUMS)).reshape(-1, columns, SUMS)
    return sums


def interval(values: Table) -> list[list[float]]:
    """The 95 % interval of each column of resamples x columns, as [low, high]."""
    import numpy as np

    # As np.percentile has it, which takes longer to load than all of this takes.
    ordered = np.sort(values, axis=0)
    bounds = []
    for share in (0.025, 0.975):
        below, part = divmod(share * (len(ordered) - 1), 1)
        one, next_one = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
        bounds.append((one + part * (next_one - one)).tolist())
    return [[round(low, 2), round(high, 2)] for low, high in zip(*bounds, strict=True)]


@dataclass(frozen=True)
class Difference:
    """System minus baseline in F1 points, its 95 % interval and the two-sided p value."""

    f1: float
    baseline_f1: float
    difference: float
    interval: list[float]
    p: float


def compare(
    system: Table, baseline: Table, *, shuffles: int, resamples: int, seed: int
) -> Difference:
    """Test the difference of two systems' F1 on the same documents, each documents x ``SUMS``."""
    import numpy as np

    rng = np.random.default_rng(seed)
    first, second = _f1(system.sum(axis=0)), _f1(baseline.sum(axis=0))
    observed = first - second
    beyond = 0
    delta, times = _alike(baseline - system)
    rows = max(1, _CHUNK // max(1, len(times)))
    for start in range(0, shuffles, rows):
        size = (min(rows, shuffles - start), len(times))
        moved = rng.binomial(times, 0.5, size=size) @ delta
        shuffled = (
            f1_parts(system.sum(axis=0) + moved)[2] - f1_parts(baseline.sum(axis=0) - moved)[2]
        )
        beyond += int((np.abs(shuffled) >= abs(observed) - 1e-9).sum())
    block, blocks = blocked(np.arange(len(system)), len(system))
    tables = np.zeros((blocks, 2, SUMS))
    np.add.at(tables[:, 0], block, system)
    np.add.at(tables[:, 1], block, baseline)
    spread = f1_parts(resampled(draws(blocks, max(2, resamples), seed), tables))[2]
    return Difference(
        f1=round(float(first), 2),
        baseline_f1=round(float(second), 2),
        difference=round(float(observed), 2),
        interval=interval(spread[:, :1] - spread[:, 1:])[0],
        p=(beyond + 1) / (shuffles + 1),
    )


def _f1(sums: Table) -> float:
    return float(f1_parts(sums)[2])


def _alike(differences: Table) -> tuple[Table, npt.NDArray[np.int64]]:
    """Distinct non-zero rows and how often each comes; swapping them depends on no more."""
    import numpy as np

    differences = differences[differences.any(axis=1)]
    distinct, times = np.unique(differences, axis=0, return_counts=True)
    if len(distinct) > 2 * BLOCKS:
        # Very many different documents: swap whole blocks, which is a valid (coarser) test.
        block, blocks = blocked(np.arange(len(differences)), len(differences))
        distinct = np.zeros((blocks, SUMS))
        np.add.at(distinct, block, differences)
        times = np.ones(blocks, dtype=np.int64)
    return distinct, times

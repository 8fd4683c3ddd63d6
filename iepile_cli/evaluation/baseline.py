"""Another system's predictions for the same documents, and whether the difference is real."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from iepile_cli.errors import DataError
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.resampling import compare
from iepile_cli.evaluation.scores import unit_sums
from iepile_cli.evaluation.tally import Tally
from iepile_cli.task.table import TASKS


def compared(system: Tally, baseline: Tally, plan: Plan) -> dict[str, Any]:
    """For each task and unit, the difference on the documents that are in both files.

    Raises ``DataError`` when the files have no document in common.
    """
    result: dict[str, Any] = {}
    for task in dict.fromkeys(task for task, _ in system.groups):
        units: dict[str, Any] = {}
        shared = alone = other_gold = 0
        for number, unit in enumerate(TASKS[task].units):
            mine, names = unit_sums(system, task, number)
            theirs, other_names = unit_sums(baseline, task, number)
            left, right = _common(names, other_names)
            shared, alone = len(left), len(names) + len(other_names) - 2 * len(left)
            if not shared:
                continue
            other_gold += int((mine[left][:, 0] != theirs[right][:, 0]).sum())
            units[unit.name] = asdict(
                compare(
                    mine[left],
                    theirs[right],
                    shuffles=plan.shuffles,
                    resamples=plan.resamples,
                    seed=plan.seed,
                )
            )
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

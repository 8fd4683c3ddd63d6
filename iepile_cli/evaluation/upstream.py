"""The numbers of the IEPile repository's own script, in its own form.

Its keys mean: samples, undecodable answers, and then precision, recall and F1. F1 is computed from
precision and recall after these were rounded.
"""

from __future__ import annotations

from typing import Any

from iepile_cli.evaluation.scores import Score, TaskScores

SAMPLES, ERRORS = "总样本数", "错误数"


def upstream_numbers(scores: TaskScores, *, by_source: bool) -> dict[str, dict[str, Any]]:
    """``{"total": {...}}`` and, with ``by_source``, the same for each source, sorted."""
    numbers = {
        "total": _numbers(
            scores, scores.documents, scores.rows["malformed"], [u.micro for u in scores.units]
        )
    }
    for source in sorted(scores.source_documents) if by_source else ():
        # A sample without a source is filed under the word "None".
        numbers[source or "None"] = _numbers(
            scores,
            scores.source_documents[source],
            scores.source_rows[source]["malformed"],
            [unit.sources[source] for unit in scores.units],
        )
    return numbers


def _numbers(scores: TaskScores, samples: int, errors: int, counted: list[Score]) -> dict[str, Any]:
    numbers: dict[str, Any] = {SAMPLES: samples, ERRORS: errors}
    for unit, score in zip(scores.units, counted, strict=True):
        prefix = f"{unit.name}_" if len(scores.units) > 1 else ""
        precision, recall = round(score.precision, 2), round(score.recall, 2)
        both = precision + recall
        numbers[f"{prefix}P"] = precision
        numbers[f"{prefix}R"] = recall
        numbers[f"{prefix}F1"] = round(2 * precision * recall / both, 2) if both else 0.0
    return numbers

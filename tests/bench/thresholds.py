"""The least score worth showing, task by task: chosen on development data.

Run: ``python tests/bench/thresholds.py SOURCE... [--rows 60] [--model MODEL] [--adapter ADAPTER]``.
Sources are those of ``development.py``, at least one for each task that is to have a threshold. For
each task the table has precision, recall and strict F1 by least score, as means over its sets. The
choice raises precision as far as F1 keeps: of the least scores whose mean F1 is within ``KEPT``
points of the best, the highest. Where precision stays below ``WORTH`` even so, it is the first that
reaches ``WORTH`` while anything is found at all, else 1: the task is silent by default. The last
line goes into the adapter's entry of ``catalogue.toml`` (or, as JSON, into its ``iepile.json``).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import development

import iepile_cli as iepile
from iepile_cli.backends.opening import open_model
from iepile_cli.extraction.forms import InstructionLines
from iepile_cli.extraction.pipeline import ExtractOptions
from iepile_cli.extraction.results import Result, merge

# F1 points that a higher precision may cost.
KEPT = 1.0
# A list of which less than so many percent is right is not worth showing.
WORTH = 33.0
# Recall in percent below which nothing is found.
NOTHING = 1.0
SCORES = [round(0.05 * step, 2) for step in range(20)]

# Precision, recall and F1 in percent.
Score: TypeAlias = tuple[float, float, float]


def scored(results: Sequence[Result], least: float, file: Path) -> Score:
    """All units of a set together, with what scores less left out."""
    form, options = InstructionLines(), ExtractOptions(min_score=least)
    with file.open("wb") as lines:
        for result in results:
            items = result.document.instruction.items  # type: ignore[attr-defined]
            merged = merge(result.task, items, result.items, result.document.text, options)
            lines.write(form.result(replace(result, answer=merged.answer)))
    ((_, report),) = iepile.evaluate(file, resamples=0)["tasks"].items()
    units = [unit["micro"] for unit in report["units"].values()]
    gold, predicted, correct = (
        sum(unit[name] for unit in units) for name in ("gold", "predicted", "correct")
    )
    precision = 100 * correct / predicted if predicted else 100.0
    recall = 100 * correct / max(1, gold)
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if correct else 0.0


def chosen(scores: dict[float, Score]) -> float:
    """The least score of a task, from the means by least score."""
    best = max(f1 for _, _, f1 in scores.values())
    kept = max(least for least, (_, _, f1) in scores.items() if f1 >= best - KEPT)
    worth = [
        least
        for least, (precision, recall, _) in scores.items()
        if least >= kept and precision >= WORTH and recall >= NOTHING
    ]
    return min(worth, default=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--model")
    parser.add_argument("--adapter", action="append", default=[])
    given = parser.parse_args()
    tasks: dict[str, list[dict[float, Score]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        model = open_model(given.model, adapters=given.adapter)
        for rows in development.draw(given.sources, given.rows, Path(scratch)):
            results = list(development.answers(model, rows, ExtractOptions(min_score=0)))
            file = Path(scratch) / "scored.jsonl"
            scores = {least: scored(results, least, file) for least in SCORES}
            task, _, name = rows.stem.partition("-")
            tasks[task].append(scores)
            print(f"{task} {name}: {_shown(scores[0.0])} with all that is found", flush=True)
        model.runner.close()
    table = {}
    for task, sets in tasks.items():
        means = {least: _mean([one[least] for one in sets]) for least in SCORES}
        table[task] = chosen(means)
        print(f"\n{task}, mean of {len(sets)}:\n\n| least | P, R, F1 |\n|---|---|")
        for least, score in means.items():
            mark = " <" if least == table[task] else ""
            print(f"| {least:.2f} | {_shown(score)}{mark} |")
    inner = ", ".join(f"{task} = {least:.2f}" for task, least in table.items())
    print(f"\nmin_scores = {{ {inner} }}")


def _mean(scores: Sequence[Score]) -> Score:
    precision, recall, f1 = map(statistics.mean, zip(*scores, strict=True))
    return precision, recall, f1


def _shown(score: Score) -> str:
    return ", ".join(f"{part:.1f}" for part in score)


if __name__ == "__main__":
    main()

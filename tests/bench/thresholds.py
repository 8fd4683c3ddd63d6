"""The least scores worth showing, and the types at once, task by task: chosen on development data.

    python tests/bench/thresholds.py CORPORA SET... [--texts 40] [--adapter A] [--split-num N ...]

Sets are named as ``embedded.py`` names them, at least one for each task that is to have settings.
All types of a set are asked of texts of its development part. For each task the table has the mean
of strict F1 over its sets by least score, and by how near to the best of its span a type's score
must be (0: all types, 1: the best alone). The choice takes the nearness with the best F1, and
raises precision as far as F1 keeps: of the least scores whose mean F1 is within ``KEPT`` points of
the best, the highest. Where precision stays below ``WORTH`` even so, it is the first that reaches
``WORTH`` while anything is found at all, else 1: the task is silent by default. With several
``--split-num`` the one with the best mean is taken. The last lines go into the adapter's entry of
``catalogue.toml`` (or, as JSON, into its ``iepile.json``).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import embedded

import iepile_cli as iepile
from iepile_cli.backends.opening import Opened, open_model
from iepile_cli.errors import raise_error
from iepile_cli.extraction.inputs import document_of
from iepile_cli.extraction.pipeline import ExtractOptions, extract
from iepile_cli.extraction.results import Result, merge, to_json
from iepile_cli.models.adapter_settings import TaskSettings

# F1 points that a higher precision may cost.
KEPT = 0.5
# A list of which less than so many percent is right is not worth showing.
WORTH = 33.0
# Recall in percent below which nothing is found.
NOTHING = 1.0
LEAST = [round(0.05 * step, 2) for step in range(20)]
NEAR = [0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0]

# Precision, recall and F1 in percent, by least score and nearness.
Scores: TypeAlias = dict[tuple[float, float], tuple[float, float, float]]


def scored(
    opened: Opened, folder: Path, texts: int, scratch: Path, split_num: tuple[int, ...]
) -> Scores:
    """What each pair of thresholds gives on one set, all units of its task together."""
    key, label = embedded.PARTS[folder.parent.name]
    records = embedded.drawn(folder, key, texts, ("dev", "test"))
    schema = iepile.read_schema(
        {
            "task": folder.parent.name,
            "schema": embedded.asked(folder, key, label, records),
        }
    )
    names = set(schema.names)
    gold = scratch / "gold.jsonl"
    embedded.write(
        gold, ({**r, key: [i for i in r.get(key, ()) if i[label] in names]} for r in records)
    )
    options = ExtractOptions(min_score=0, best_type=False).suiting(opened)
    if split_num:
        options = replace(options, by_task={schema.task.name: TaskSettings(split_num=split_num)})
    documents = (document_of(record["text"], int(record["id"])) for record in records)
    results = list(
        extract(
            documents,
            opened.runner,
            opened.template,
            options,
            task=schema.task,
            schema=schema.items,
            on_error=raise_error,
        )
    )
    return {
        (least, near): _evaluated(results, records, schema, least, near, gold)
        for least in LEAST
        for near in NEAR
    }


def _evaluated(
    results: Sequence[Result],
    records: Sequence[dict[str, Any]],
    schema: iepile.Schema,
    least: float,
    near: float,
    gold: Path,
) -> tuple[float, float, float]:
    options = ExtractOptions(by_task={schema.task.name: TaskSettings(least, near)})
    predicted = gold.with_name("predicted.jsonl")
    records_out = []
    for record, result in zip(records, results, strict=True):
        merged = merge(result.task, schema.items, result.items, result.document.text, options)
        kept = replace(result, items=tuple(merged.items), answer=merged.answer)
        records_out.append({**to_json(kept), "id": record["id"]})
    embedded.write(predicted, records_out)
    (report,) = iepile.evaluate(predicted, gold=gold, resamples=0)["tasks"].values()
    units = [unit["micro"] for unit in report["units"].values()]
    found, listed, correct = (
        sum(unit[name] for unit in units) for name in ("gold", "predicted", "correct")
    )
    precision = 100 * correct / listed if listed else 100.0
    recall = 100 * correct / max(1, found)
    return precision, recall, 2 * precision * recall / (precision + recall) if correct else 0.0


def chosen(scores: Scores) -> tuple[float, float]:
    """The least score of a task and the nearness, from the means over its sets."""
    (_, near), (_, _, best) = max(scores.items(), key=lambda pair: pair[1][2])
    column = {least: scores[least, near] for least in LEAST}
    kept = max(least for least, (_, _, f1) in column.items() if f1 >= best - KEPT)
    worth = [
        least
        for least, (precision, recall, _) in column.items()
        if least >= kept and precision >= WORTH and recall >= NOTHING
    ]
    return min(worth, default=1.0), near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument(
        "--split-num", action="append", help="6, or 6,20 for two readings; default: as it is now"
    )
    parser.add_argument("--model")
    parser.add_argument("--adapter", action="append", default=[])
    given = parser.parse_args()
    tasks: dict[str, dict[tuple[int, ...], list[Scores]]] = defaultdict(lambda: defaultdict(list))
    opened = open_model(given.model, adapters=given.adapter)
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.sets:
            folder = given.corpora / (name if "/" in name else f"NER/{name}")
            for numbers in given.split_num or [""]:
                split_num = tuple(int(one) for one in numbers.split(",") if one)
                scores = scored(opened, folder, given.texts, Path(scratch), split_num)
                tasks[folder.parent.name][split_num].append(scores)
                best = max(scores, key=lambda pair: scores[pair][2])
                every = _shown(scores[0.0, 0.0])
                shown = f"{name}, {numbers or 'usual'} at once: all {every}"
                print(f"{shown}; at most {_shown(scores[best])} with {best}", flush=True)
    opened.runner.close()
    lines = [_choice(task, by_number) for task, by_number in tasks.items()]
    print("\n" + "\n".join(lines))


def _choice(task: str, by_number: dict[tuple[int, ...], list[Scores]]) -> str:
    """Print the means of a task's sets; gives the line of the catalogue."""
    means: dict[tuple[int, ...], Scores] = {
        number: {pair: _mean([one[pair] for one in sets]) for pair in sets[0]}
        for number, sets in by_number.items()
    }
    for number, scores in means.items():
        count = f"{len(by_number[number])} sets, {list(number) or 'usual'} at once"
        print(f"\n{task}, mean of {count}:\n\n| least | {' | '.join(map(str, NEAR))} |")
        print("|---" * (len(NEAR) + 1) + "|")
        for least in LEAST:
            row = " | ".join(f"{scores[least, near][2]:.1f}" for near in NEAR)
            print(f"| {least:.2f} | {row} |")
    number = max(means, key=lambda one: max(f1 for _, _, f1 in means[one].values()))
    least, near = chosen(means[number])
    print(f"\nchosen: {_shown(means[number][least, near]) if least < 1 else 'silent by default'}")
    split = f", split_num = {list(number)}" if number else ""
    return f"by_task.{task} = {{ min_score = {least:.2f}, near_score = {near:.2f}{split} }}"


def _mean(scores: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    precision, recall, f1 = map(statistics.mean, zip(*scores, strict=True))
    return precision, recall, f1


def _shown(score: tuple[float, float, float]) -> str:
    precision, recall, f1 = score
    return f"P {precision:.1f}, R {recall:.1f}, F1 {f1:.1f}"


if __name__ == "__main__":
    main()

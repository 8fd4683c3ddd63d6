"""A finished evaluation as JSON, as table rows, and as the confusions that mining wants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from iepile_cli.evaluation.scores import Score, TaskScores, UnitScores, macro
from iepile_cli.evaluation.sheet import CONFUSION
from iepile_cli.evaluation.tally import DOCUMENT, GROUP, Tally

if TYPE_CHECKING:
    from iepile_cli.evaluation.evaluate import Evaluation

HEADER = (
    "task",
    "unit",
    "source",
    "type",
    "average",
    "P",
    "R",
    "F1",
    "F1_low",
    "F1_high",
    "gold",
    "predicted",
    "correct",
    "hallucinated",
)
ALL = "*"


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The whole report; ``docs/eval.md`` names its keys."""
    plan = evaluation.plan
    report: dict[str, Any] = {
        "predictions": evaluation.name,
        "settings": {
            "match": plan.match,
            "mode": plan.mode,
            "repair": plan.repair,
            "asked_only": plan.asked_only,
            "resamples": plan.resamples,
            "seed": plan.seed,
        },
        "unreadable": evaluation.tally.unreadable,
        "skipped": evaluation.tally.skipped,
        "tasks": {
            task: task_json(scores, evaluation) for task, scores in evaluation.scores.items()
        },
    }
    if evaluation.comparison:
        report["baseline"] = evaluation.comparison
    return report


def task_json(scores: TaskScores, evaluation: Evaluation) -> dict[str, Any]:
    """One task's part of the report."""
    strict = evaluation.unrepaired.get(scores.task)
    part: dict[str, Any] = {"documents": scores.documents, **scores.rows, "units": {}}
    for number, unit in enumerate(scores.units):
        part["units"][unit.name] = {"micro": unit.micro.as_json(), "macro": unit.macro}
        if strict is not None:
            micro = strict.units[number].micro.as_json()
            part["units"][unit.name]["without_repair"] = {
                key: micro[key] for key in ("P", "R", "F1")
            }
    if "source" in evaluation.by:
        part["sources"] = {
            source: _source_json(scores, source, evaluation.by)
            for source in sorted(scores.source_documents)
        }
    if "type" in evaluation.by:
        part["types"] = _types_json((unit.name, unit.types) for unit in scores.units)
    return part


def _source_json(scores: TaskScores, source: str, by: Iterable[str]) -> dict[str, Any]:
    types = [(unit.name, unit.source_types.get(source, {})) for unit in scores.units]
    part: dict[str, Any] = {
        "documents": scores.source_documents[source],
        **scores.source_rows[source],
        "units": {
            unit.name: {"micro": unit.sources[source].as_json(), "macro": macro(of_type)}
            for unit, (_, of_type) in zip(scores.units, types, strict=True)
        },
    }
    if "type" in by:
        part["types"] = _types_json(types)
    return part


def _types_json(units: Iterable[tuple[str, dict[str, Score]]]) -> dict[str, Any]:
    types: dict[str, dict[str, Any]] = {}
    for name, of_type in units:
        for kind, score in of_type.items():
            types.setdefault(kind, {})[name] = score.as_json()
    return dict(sorted(types.items()))


def table(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    """Rows under ``HEADER``: all, then sources, then types; ``*`` stands for all of them."""
    for task, scores in evaluation.scores.items():
        for unit in scores.units:
            yield _row(task, unit, ALL, ALL, unit.micro)
            yield _macro_row(task, unit, ALL, unit.macro)
            if "source" in evaluation.by:
                for source, score in sorted(unit.sources.items()):
                    yield _row(task, unit, source, ALL, score)
                    of_type = unit.source_types.get(source, {})
                    yield _macro_row(task, unit, source, macro(of_type))
            if "type" in evaluation.by:
                for kind, score in sorted(unit.types.items()):
                    yield _row(task, unit, ALL, kind, score)
            if {"source", "type"} <= set(evaluation.by):
                for source, of_type in sorted(unit.source_types.items()):
                    for kind, score in sorted(of_type.items()):
                        yield _row(task, unit, source, kind, score)


def _row(task: str, unit: UnitScores, source: str, kind: str, score: Score) -> tuple[str, ...]:
    low, high = score.intervals.get("F1", ("", ""))
    counts = (score.gold, score.predicted, score.as_json()["correct"], score.hallucinated)
    shares = (f"{value:.2f}" for value in (score.precision, score.recall, score.f1))
    return (
        task,
        unit.name,
        source,
        kind,
        "micro",
        *shares,
        _two(low),
        _two(high),
        *map(str, counts),
    )


def _macro_row(task: str, unit: UnitScores, source: str, mean: dict[str, Any]) -> tuple[str, ...]:
    low, high = mean.get("interval_95", {}).get("F1", ("", ""))
    shares = (f"{mean[name]:.2f}" for name in ("P", "R", "F1"))
    return (task, unit.name, source, ALL, "macro", *shares, _two(low), _two(high), *[""] * 4)


def _two(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


def as_tsv(evaluation: Evaluation) -> Iterator[str]:
    """The table as lines of tab-separated values."""
    yield "\t".join(HEADER)
    for row in table(evaluation):
        yield "\t".join(map(_plain, row))


def _plain(cell: str) -> str:
    """A name without what would break a line or steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in cell)


def confusion_table(tally: Tally) -> dict[tuple[str, str], dict[str, dict[str, int]]]:
    """(task, source) -> gold type -> predicted type -> times; "" is nothing, missed or spurious."""
    import numpy as np

    documents = np.array(tally.documents, dtype=np.int64).reshape(-1, DOCUMENT)
    rows = np.array(tally.confusions, dtype=np.int64).reshape(-1, CONFUSION)
    rows[:, 0] = documents[rows[:, 0], GROUP]
    groups, labels = list(tally.groups), list(tally.labels)
    result: dict[tuple[str, str], dict[str, dict[str, int]]] = {}
    distinct, times = np.unique(rows[:, :3], axis=0, return_counts=True)
    for (group, gold, predicted), count in zip(distinct.tolist(), times.tolist(), strict=True):
        of_gold = result.setdefault(groups[group], {})
        named, other = (labels[label][2] if label >= 0 else "" for label in (gold, predicted))
        of_gold.setdefault(named, {})[other] = count
    return result


def confusions_json(tally: Tally) -> dict[str, Any]:
    """What ``convert --hard-negatives`` reads: gold type -> wrong type -> times, per source."""
    result: dict[str, Any] = {}
    for (task, source), of_gold in sorted(confusion_table(tally).items()):
        wrong = {
            gold: dict(
                sorted(
                    ((kind, count) for kind, count in predicted.items() if kind not in ("", gold)),
                    key=lambda pair: (-pair[1], pair[0]),
                )
            )
            for gold, predicted in sorted(of_gold.items())
            if gold
        }
        kept = {gold: kinds for gold, kinds in wrong.items() if kinds}
        while source in result:
            # One source with several tasks: the second is told apart by its task.
            source = f"{source} ({task})"
        result[source] = {"task": task, "confusions": kept}
    return result


def for_people(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    """The table for a terminal: a header, then rows with fewer and shorter columns."""
    yield ("what", "average", "P", "R", "F1", "95 %", "gold", "pred", "right")
    several = len(evaluation.scores) > 1
    for row in table(evaluation):
        task, unit, source, kind, average, precision, recall, f1, low, high, *counts, _ = row
        names = [name for name in (source, kind) if name != ALL]
        what = f"  {' / '.join(name or '(no source)' for name in names)}" if names else unit
        if several and not names:
            what = f"{task} {unit}"
        span = f"{float(low):.1f}–{float(high):.1f}" if low else ""
        yield (_plain(what), average, precision, recall, f1, span, *counts)


def many(count: int, what: str) -> str:
    """So many of something."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def remarks(evaluation: Evaluation) -> Iterator[str]:
    """What else there is to know, a line each, for people."""
    for task, scores in evaluation.scores.items():
        rows = scores.rows
        said = f"{task}: {many(scores.documents, 'document')}, {many(rows['answers'], 'answer')}"
        for name in ("malformed", "truncated", "repaired", "without_output", "unlabelled"):
            if rows[name]:
                said += f", {rows[name]:,} {name.replace('_', ' ')}"
        invented = sum(unit.micro.hallucinated for unit in scores.units)
        yield said + (f", {many(invented, 'prediction')} not in the text" if invented else "")
        strict = evaluation.unrepaired.get(task)
        if strict is not None and rows["repaired"]:
            for unit in strict.units:
                yield f"{task} {unit.name} without repair: F1 {unit.micro.f1:.2f}"
    if evaluation.tally.unreadable:
        yield f"{many(evaluation.tally.unreadable, 'line')} could not be read"
    if evaluation.tally.skipped:
        yield f"{many(evaluation.tally.skipped, 'record')} of other tasks left out"
    yield from _comparison_remarks(evaluation.comparison)


def _comparison_remarks(comparison: dict[str, Any]) -> Iterator[str]:
    for task, part in comparison.get("tasks", {}).items():
        for unit, result in part["units"].items():
            low, high = result["interval"]
            yield (
                f"{task} {unit} against {comparison['predictions']}: F1 {result['f1']:.2f} -"
                f" {result['baseline_f1']:.2f} = {result['difference']:+.2f}"
                f" (95 % {low:+.2f} to {high:+.2f}), p = {result['p']:.4f},"
                f" {many(part['documents'], 'document')}"
            )
        if part["only_in_one"]:
            yield f"{task}: {many(part['only_in_one'], 'document')} in one of the two files only"
        if part["other_gold"]:
            other = many(part["other_gold"], "document")
            yield f"{task}: {other} with another gold in the baseline"

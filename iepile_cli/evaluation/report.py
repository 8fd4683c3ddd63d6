"""A finished evaluation as JSON, as table rows, and as the confusions that mining wants."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from iepile_cli.evaluation.counts import GROUP, Counts
from iepile_cli.evaluation.scores import Score, TaskScores, UnitScores, macro
from iepile_cli.formatting import plural
from iepile_cli.writing import atomic_write, write_atomic

if TYPE_CHECKING:
    from iepile_cli.evaluation.run import Evaluation

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
    options = evaluation.options
    report: dict[str, Any] = {
        "predictions": evaluation.name,
        "settings": {
            "match": options.match,
            "mode": options.mode,
            "repair": options.repair,
            "asked_only": options.asked_only,
            "ignore_case": options.ignore_case,
            "ignore_space": options.ignore_space,
            "resamples": options.resamples,
            "seed": options.seed,
        },
        "unreadable": evaluation.counts.unreadable,
        "skipped": evaluation.counts.skipped,
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


def as_tsv(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """The tables of some files as lines of tab-separated values; several: with their names."""
    several = len(evaluations) > 1
    yield "\t".join((*(("file",) if several else ()), *HEADER))
    for evaluation in evaluations:
        name = (evaluation.name,) if several else ()
        for row in table(evaluation):
            yield "\t".join(map(_plain, (*name, *row)))


def as_markdown(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A header and rows as a Markdown table."""
    for number, row in enumerate(rows):
        yield f"| {' | '.join(_markdown(cell) for cell in row)} |"
        if number == 0:
            right = ("---" if name in ("what", "average") else "--:" for name in row)
            yield f"| {' | '.join(right)} |"


def _markdown(cell: str) -> str:
    shown = cell.lstrip()
    indent = "\u2003" if shown != cell else ""
    return indent + re.sub(r"([\\|*_`<>\[\]])", r"\\\1", shown)


def _plain(cell: str) -> str:
    """A name without what would break a line or steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in cell)


def confusion_table(counts: Counts) -> dict[tuple[str, str], dict[str, dict[str, int]]]:
    """(task, source) -> gold type -> predicted type -> times; "" is nothing, missed or spurious."""
    import numpy as np

    rows = np.array(counts.confusion_table(), dtype=np.int64)
    rows[:, 0] = counts.document_table()[rows[:, 0], GROUP]
    groups, labels = list(counts.groups), list(counts.labels)
    result: dict[tuple[str, str], dict[str, dict[str, int]]] = {}
    distinct, times = np.unique(rows, axis=0, return_counts=True)
    for (group, gold, predicted), count in zip(distinct.tolist(), times.tolist(), strict=True):
        of_gold = result.setdefault(groups[group], {})
        named, other = (labels[label][2] if label >= 0 else "" for label in (gold, predicted))
        of_gold.setdefault(named, {})[other] = count
    return result


def confusions_json(counts: Counts) -> dict[str, Any]:
    """What ``convert --hard-negatives`` reads: gold type -> wrong type -> times, per source."""
    result: dict[str, Any] = {}
    for (task, source), of_gold in sorted(confusion_table(counts).items()):
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


def for_people(evaluations: Sequence[Evaluation]) -> Iterator[tuple[str, ...]]:
    """The table for people: a header, then rows with fewer and shorter columns.

    Several files stand one under the other, so that the same score of each can be compared.
    """
    yield ("what", "average", "P", "R", "F1", "95 %", "gold", "pred", "correct")
    several = len(evaluations) > 1
    found = [list(_shown_rows(evaluation)) for evaluation in evaluations]
    if not several:
        yield from found[0]
        return
    names = list(dict.fromkeys(row[:2] for rows in found for row in rows))
    for name in names:
        for evaluation, rows in zip(evaluations, found, strict=True):
            for row in rows:
                if row[:2] == name:
                    yield (f"{name[0]} · {_plain(evaluation.name)}", *row[1:])


def _shown_rows(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    several = len(evaluation.scores) > 1
    for row in table(evaluation):
        task, unit, source, kind, average, precision, recall, f1, low, high, *counts, _ = row
        names = [name for name in (source, kind) if name != ALL]
        what = f"  {' / '.join(name or '(no source)' for name in names)}" if names else unit
        if several and not names:
            what = f"{task} {unit}"
        span = f"{float(low):.1f}–{float(high):.1f}" if low else ""
        yield (_plain(what), average, precision, recall, f1, span, *counts)


def remarks(evaluation: Evaluation, *, comparison: bool = True) -> Iterator[str]:
    """What else there is to know, a line each, for people; with the comparison, if any."""
    for task, scores in evaluation.scores.items():
        rows = scores.rows
        documents, answers = scores.documents, rows["answers"]
        said = f"{task}: {plural(documents, 'document')}, {plural(answers, 'answer')}"
        for name in ("malformed", "truncated", "repaired", "without_output", "unlabelled"):
            if rows[name]:
                said += f", {rows[name]:,} {name.replace('_', ' ')}"
        invented = sum(unit.micro.hallucinated for unit in scores.units)
        yield said + (f", {plural(invented, 'prediction')} not in the text" if invented else "")
        strict = evaluation.unrepaired.get(task)
        if strict is not None and rows["repaired"]:
            for unit in strict.units:
                yield f"{task} {unit.name} without repair: F1 {unit.micro.f1:.2f}"
    if evaluation.counts.unreadable:
        yield f"{plural(evaluation.counts.unreadable, 'line')} could not be read"
    if evaluation.counts.skipped:
        yield f"{plural(evaluation.counts.skipped, 'record')} of other tasks left out"
    if comparison:
        yield from _comparison_remarks(evaluation.comparison)


def _comparison_remarks(comparison: dict[str, Any]) -> Iterator[str]:
    for task, part in comparison.get("tasks", {}).items():
        for unit, result in part["units"].items():
            low, high = result["interval"]
            yield (
                f"{task} {unit} against {comparison['predictions']}: F1 {result['f1']:.2f} -"
                f" {result['baseline_f1']:.2f} = {result['difference']:+.2f}"
                f" (95 % {low:+.2f} to {high:+.2f}), p = {result['p']:.4f},"
                f" {plural(part['documents'], 'document')}"
            )
    yield from unshared_remarks(comparison)


def unshared_remarks(comparison: dict[str, Any]) -> Iterator[str]:
    """What of the two files could not be compared, or not in the same way."""
    for task, part in comparison.get("tasks", {}).items():
        if part["only_in_one"]:
            yield f"{task}: {plural(part['only_in_one'], 'document')} in one of the two files only"
        if part["other_gold"]:
            other = plural(part["other_gold"], "document")
            yield f"{task}: {other} with another gold in the baseline"


# ---------------------------------------------------------------------------------- report files


def write_json(value: Any, path: str) -> None:
    """Write a JSON file, as a whole or not at all."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_html(evaluation: Evaluation, path: str, limit: int) -> None:
    """Write the HTML report with at most ``limit`` documents that have errors."""
    from iepile_cli.evaluation.html import render

    _write_parts(render(evaluation, limit), path)


def write_errors(evaluation: Evaluation, path: str) -> None:
    """Write each error as a line of JSON, the most frequent first."""
    from iepile_cli.evaluation.error_list import error_lines

    _write_parts(error_lines(evaluation), path)


def _write_parts(parts: Iterable[str], path: str) -> None:
    with atomic_write(path) as file:
        for part in parts:
            file.write(part.encode("utf-8", "backslashreplace"))

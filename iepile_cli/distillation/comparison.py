"""Teacher and student on the same texts: scores, and the report of a distillation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from iepile_cli.conversion.readers import read_gold
from iepile_cli.errors import DataError
from iepile_cli.formatting import duration
from iepile_cli.task.table import Task
from iepile_cli.writing import atomic_write, write_atomic


def gold_texts(gold: str, task: Task, path: Path) -> None:
    """Write the texts of annotated data, each once; raises ``DataError`` where there is none."""
    seen: set[str] = set()
    with atomic_write(path) as file:
        for record in read_gold(gold, task=task):
            if record.text and record.text not in seen:
                seen.add(record.text)
                line = json.dumps({"text": record.text}, ensure_ascii=False)
                file.write(line.encode("utf-8", "replace") + b"\n")
    if not seen:
        raise DataError("holds no text that is annotated for this task", path=gold)


def scores(answers: Path, gold: str, task: Task) -> dict[str, Any]:
    """Micro precision, recall and F1 in percent of results against gold, by unit and by type."""
    from iepile_cli.evaluation import EvalOptions, evaluate
    from iepile_cli.evaluation.report import as_json

    options = EvalOptions(task=task.name)
    with evaluate(str(answers), options, by=("type",), gold=gold) as evaluation:
        found: dict[str, Any] = as_json(evaluation)["tasks"][task.name]
    return {
        "documents": found["documents"],
        "units": {name: unit["micro"] for name, unit in found["units"].items()},
        "types": found["types"],
    }


# ------------------------------------------------------------------------------------- the report


def write_report(facts: Mapping[str, Any], folder: Path) -> str:
    """Write ``report.md`` and ``report.json`` into the folder; gives the former."""
    text = "\n".join(_markdown(facts)) + "\n"
    write_atomic(folder / "report.json", json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    write_atomic(folder / "report.md", text)
    return text


def _markdown(facts: Mapping[str, Any]) -> Iterator[str]:
    steps, settings = facts["steps"], facts["settings"]
    yield "# Distillation"
    yield ""
    yield f"Schema: {', '.join(settings['schema'])}. Teacher: {_teacher_name(settings)}."
    yield ""
    if "select" in steps:
        chosen = steps["select"]
        yield (
            f"Of {chosen['texts']:,} texts, {chosen['certain']:,} with {chosen['items']:,} items "
            f"were trained on; {chosen['doubtful']:,} were left out as doubtful (an item under "
            f"{settings['certainty']:g}, or an answer that was not whole), "
            f"{chosen['held_out']:,} held out, {chosen['unanswered']:,} not answered."
        )
        yield ""
    if "train" in steps:
        trained = steps["train"]
        yield (
            f"Training: {steps['convert']['rows']:,} lines, {trained['steps']:,} steps, last loss "
            f"{trained['loss']:.4f}, {trained['tokens_per_second']:,.0f} tokens/s."
        )
        yield ""
    if "evaluate" in steps:
        yield from _scores(steps, settings)
        yield from _costs(steps)
    yield "| step | time |"
    yield "|---|---:|"
    for name, step in steps.items():
        yield f"| {name} | {duration(step['took'])} |"
    if "export" in steps:
        yield ""
        size = steps["export"]["bytes"] / 1e6
        yield f"The student: `{steps['export']['path']}`, {size:,.0f} MB."


def _teacher_name(settings: Mapping[str, Any]) -> str:
    where = settings["asked"].get("base_url")
    named = settings["teacher"] or ("the model" if where else "the embedded model")
    return f"{named} at {where}" if where else str(named)


def _scores(steps: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    found = steps["evaluate"]
    against = settings["gold"] or "the teacher's answers to the texts held out"
    yield f"Scores against {against} ({found['student']['documents']:,} texts):"
    yield ""
    yield "| | unit | P | R | F1 | 95 % |"
    yield "|---|---|---:|---:|---:|---:|"
    for who in ("teacher", "student"):
        for unit, score in found.get(who, {}).get("units", {}).items():
            numbers = " | ".join(f"{score[name]:.2f}" for name in ("P", "R", "F1"))
            between = score.get("interval_95", {}).get("F1")
            shown = f"{between[0]:.1f}-{between[1]:.1f}" if between else ""
            yield f"| {who} | {unit} | {numbers} | {shown} |"
    yield ""


def _costs(steps: Mapping[str, Any]) -> Iterator[str]:
    costs = {"teacher": steps["teach"], "student": steps["evaluate"]["student"]}
    yield "| | texts/s | tokens/s | memory |"
    yield "|---|---:|---:|---:|"
    for who, cost in costs.items():
        memory = f"{cost['memory'] / 1e6:,.0f} MB" if cost.get("memory") else "at its server"
        speeds = (cost.get("texts_per_second"), cost.get("tokens_per_second"))
        yield f"| {who} | {' | '.join(_number(one) for one in speeds)} | {memory} |"
    yield ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"

"""Prediction files made for the tests of the evaluation."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from iepile_cli.cli import app
from iepile_cli.evaluation import EvalOptions, evaluate
from iepile_cli.evaluation.scores import TaskScores


def row(
    output: Any,
    gold: Any,
    *,
    task: str = "NER",
    schema: Any = (),
    text: str = "Ann met Bob in Rome",
    source: Any = "S",
    **more: Any,
) -> dict[str, Any]:
    """One converted test record with its answer; ``None`` for the output or gold leaves it out."""
    made: dict[str, Any] = {
        "id": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        "task": task,
        "source": source,
        "instruction": json.dumps({"instruction": "i", "schema": list(schema), "input": text}),
    }
    if gold is not None:
        made["label"] = gold if isinstance(gold, str) else json.dumps(gold)
    if output is not None:
        made["output"] = output if isinstance(output, str) else json.dumps(output)
    return {**made, **more}


def write(path: Path, rows: Iterable[Any]) -> str:
    """Write rows; strings and bytes go in as they are."""
    with path.open("wb") as file:
        for one in rows:
            if isinstance(one, str):
                one = one.encode("utf-8", "surrogateescape")
            elif not isinstance(one, bytes):
                one = json.dumps(one).encode()
            file.write(one + b"\n")
    return str(path)


def scored(path: str, **settings: Any) -> TaskScores:
    """The scores of a file with one task."""
    by = settings.pop("by", ())
    gold = settings.pop("gold", None)
    settings.setdefault("resamples", 0)
    with evaluate(path, EvalOptions(**settings), by=by, gold=gold) as evaluation:
        (scores,) = evaluation.scores.values()
        return scores


def counts(scores: TaskScores, unit: int = 0) -> tuple[int, int, float]:
    """Gold, predicted and correct of a unit."""
    micro = scores.units[unit].micro
    return micro.gold, micro.predicted, micro.true_predicted


def ner(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    """A gold list of (mention, type)."""
    return [{"entity": mention, "entity_type": kind} for mention, kind in pairs]


class Done(NamedTuple):
    """What a run gave."""

    returncode: int
    stdout: bytes
    stderr: bytes


def run(*arguments: str) -> Done:
    """Run the command line here: a process for each case would take most of the time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = app.run(["eval", *arguments])
    return Done(code, out.getvalue().encode(), err.getvalue().encode())

"""The whole evaluation: files in, scores and reports out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import DataError, IEPileError, PartialFailure, UsageError
from iepile_cli.evaluation.answers import AnswerFile
from iepile_cli.evaluation.document import Document
from iepile_cli.evaluation.grounded import GroundedFiles
from iepile_cli.evaluation.inputs import readable, shown
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.tally import DIGEST, DOCUMENT, END, FIRST, Tally

if TYPE_CHECKING:
    from iepile_cli.evaluation.scores import TaskScores

BY = ("source", "type")


@dataclass
class Evaluation:
    """What came out. ``unrepaired`` has the scores without ``--repair`` where it was asked for."""

    name: str
    plan: Plan
    by: tuple[str, ...]
    tally: Tally
    scores: dict[str, TaskScores]
    files: AnswerFile | GroundedFiles
    unrepaired: dict[str, TaskScores] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)

    def upstream(self) -> dict[str, Any]:
        """The numbers of the original script; raises ``UsageError`` for more than one task."""
        from iepile_cli.evaluation.upstream import upstream_numbers

        if len(self.scores) > 1:
            raise UsageError(
                f"the file holds several tasks: {', '.join(self.scores)}",
                hint="name one with --task",
            )
        (scores,) = self.scores.values()
        return upstream_numbers(scores, by_source="source" in self.by)

    def wrong_documents(self, most: int) -> Iterator[Document]:
        """The first ``most`` documents that have an error."""
        for number in self._wrong()[:most]:
            place = number * DOCUMENT
            row = self.tally.documents[place : place + DOCUMENT]
            document = self.files.document(row[DIGEST], row[FIRST], row[END])
            if document is not None:
                yield document

    def wrong_count(self) -> int:
        """How many documents have an error."""
        return len(self._wrong())

    def _wrong(self) -> list[int]:
        import numpy as np

        from iepile_cli.evaluation.document import FOUND, GOLD, PREDICTED, RIGHT
        from iepile_cli.evaluation.sheet import CELL

        cells = np.array(self.tally.cells, dtype=np.int64).reshape(-1, CELL)
        counts = cells[:, 2:]
        bad = (2 * counts[:, GOLD] != counts[:, FOUND]) | (
            2 * counts[:, PREDICTED] != counts[:, RIGHT]
        )
        return [int(number) for number in np.unique(cells[bad, 0])]

    def failure(self, fail_under: float | None) -> IEPileError | None:
        """The error to end with, if any: a score under the bar, or documents without gold."""
        low = [
            f"{task} {unit.name} F1 {unit.micro.f1:.2f}"
            for task, scores in self.scores.items()
            for unit in scores.units
            if fail_under is not None and unit.micro.f1 < fail_under
        ]
        if low:
            return IEPileError(f"under {fail_under:g}: {', '.join(low)}")
        unlabelled = sum(scores.rows["unlabelled"] for scores in self.scores.values())
        if unlabelled or self.tally.unreadable:
            return PartialFailure(
                f"{self.name}: not scored: {unlabelled} documents without gold,"
                f" {self.tally.unreadable} unreadable lines",
                hint="the rest was scored",
            )
        return None


@contextlib.contextmanager
def evaluated(
    predictions: str,
    plan: Plan,
    *,
    by: tuple[str, ...] = (),
    gold: str | None = None,
    baseline: str | None = None,
    tick: Callable[[int], None] | None = None,
) -> Iterator[Evaluation]:
    """Score a file; inside the context its documents can be read again.

    Raises ``DataError`` when nothing can be scored and ``UsageError`` for options that do not go
    together.
    """
    for name in by:
        if name not in BY:
            raise UsageError(f"--by {name!r} is not known", hint="source or type")
    with contextlib.ExitStack() as stack:

        def opened(path: str, which: Plan) -> AnswerFile | GroundedFiles:
            plain = stack.enter_context(readable(path))
            if gold is None:
                return AnswerFile(plain, which)
            return GroundedFiles(plain, stack.enter_context(readable(gold)), which)

        if [predictions, gold, baseline].count("-") > 1:
            raise UsageError("only one file can come from standard input")
        files = opened(predictions, plan)
        tally = files.tally(tick)
        # Not before the workers have begun.
        from iepile_cli.evaluation.scores import task_scores

        _check(tally, plan, predictions, files)
        evaluation = Evaluation(
            shown(predictions), plan, by, tally, task_scores(tally, plan), files
        )
        if plan.literal:
            evaluation.upstream()
        if baseline is not None:
            from iepile_cli.evaluation.baseline import compared

            other = opened(baseline, plan)
            other_tally = other.tally()
            _check(other_tally, plan, baseline, other)
            evaluation.comparison = {
                "predictions": shown(baseline),
                "tasks": compared(tally, other_tally, plan),
            }
        if plan.repair and isinstance(files, AnswerFile):
            strict = AnswerFile(files.path, plan.without_repair()).tally()
            evaluation.unrepaired = task_scores(strict, plan.without_intervals())
        yield evaluation


def _check(tally: Tally, plan: Plan, name: str, files: AnswerFile | GroundedFiles) -> None:
    """Raise ``DataError`` when there is nothing to score, with the likeliest reason."""
    if tally.documents:
        answers = sum(counts[0] for counts in tally.row_counts)
        silent = sum(counts[4] for counts in tally.row_counts)
        if silent >= answers and isinstance(files, AnswerFile):
            raise DataError(
                "no record has an 'output'", path=shown(name), hint="run extract on it first"
            )
        return
    unlabelled = sum(counts[5] for counts in tally.row_counts)
    if unlabelled:
        hint = (
            "test records have a 'label'; convert writes one for annotated records"
            if isinstance(files, AnswerFile)
            else "task, source and id have to be the same in both files"
        )
        raise DataError(f"none of {unlabelled} documents has gold", path=shown(name), hint=hint)
    if tally.skipped and plan.task:
        raise DataError(f"no record of task {plan.task}", path=shown(name))
    line = _line_number(files, tally.first_unreadable) if os.path.exists(name) else None
    raise DataError(
        "no record that can be scored",
        path=shown(name),
        line=line,
        hint="one JSON object a line, with a known 'task', or name it with --task",
    )


def _line_number(files: AnswerFile | GroundedFiles, at: int) -> int | None:
    path = files.path if isinstance(files, AnswerFile) else files.predictions
    if at < 0:
        return None
    with open(path, "rb") as file:
        return file.read(at).count(b"\n") + 1

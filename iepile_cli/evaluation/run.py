"""The whole evaluation: files in, scores and documents with errors out."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import DataError, IEPileError, PartialFailure, UsageError
from iepile_cli.evaluation.counts import ANSWERS, SILENT, UNLABELLED, Counts
from iepile_cli.evaluation.documents import Document
from iepile_cli.evaluation.options import EvalOptions
from iepile_cli.evaluation.predictions import PredictionFile, plain_file
from iepile_cli.files import STDIN, display_name
from iepile_cli.formatting import plural

if TYPE_CHECKING:
    from iepile_cli.evaluation.gold_file import GoldComparison
    from iepile_cli.evaluation.scores import TaskScores

BY = ("source", "type")


@dataclass
class Evaluation:
    """What came out. ``unrepaired`` has the scores without ``--repair`` where it was asked for."""

    name: str
    options: EvalOptions
    by: tuple[str, ...]
    counts: Counts
    scores: dict[str, TaskScores]
    files: PredictionFile | GoldComparison
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

    def wrong_documents(self, limit: int | None = None) -> Iterator[Document]:
        """The documents that have an error, in the order of the file, at most ``limit``."""
        for number in self.counts.wrong_documents()[:limit]:
            document = self.files.document(number)
            if document is not None:
                yield document

    def wrong_count(self) -> int:
        """How many documents have an error."""
        return len(self.counts.wrong_documents())

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
        if unlabelled or self.counts.unreadable:
            return PartialFailure(
                f"{self.name}: not scored: {plural(unlabelled, 'document')} without gold,"
                f" {self.counts.unreadable} unreadable lines",
                hint="the rest was scored",
            )
        return None


@contextlib.contextmanager
def evaluate(
    predictions: str,
    options: EvalOptions,
    *,
    by: tuple[str, ...] = (),
    gold: str | None = None,
    gold_form: str = "auto",
    baseline: str | None = None,
    tick: Callable[[int], None] | None = None,
) -> Iterator[Evaluation]:
    """Score a file; inside the context its documents can be read again.

    ``gold`` is annotated data in any of the forms that ``convert`` reads (``gold_form`` names
    one); without it, the predictions hold their gold. ``tick`` is called with numbers of bytes
    read. Raises ``DataError`` when nothing can be scored and ``UsageError`` for options that do
    not go together.
    """
    for name in by:
        if name not in BY:
            raise UsageError(f"--by {name!r} is not known", hint="source or type")
    if [predictions, gold, baseline].count(STDIN) > 1:
        raise UsageError("only one file can come from standard input")
    with contextlib.ExitStack() as stack:
        if gold == STDIN:
            gold = stack.enter_context(plain_file(gold))
        count = functools.partial(_count, stack, options, gold, gold_form)
        files = count(predictions, tick)
        # Not before the workers have begun.
        from iepile_cli.evaluation.scores import compared, task_scores

        evaluation = Evaluation(
            display_name(predictions),
            options,
            by,
            files.counts,
            task_scores(files.counts, options),
            files,
        )
        if options.literal:
            evaluation.upstream()
        if baseline is not None:
            evaluation.comparison = {
                "predictions": display_name(baseline),
                "tasks": compared(files.counts, count(baseline).counts, options),
            }
        if options.repair and isinstance(files, PredictionFile):
            strict = PredictionFile(files.path, replace(options, repair=False)).count()
            evaluation.unrepaired = task_scores(strict, replace(options, resamples=0))
        yield evaluation


def _count(
    stack: contextlib.ExitStack,
    options: EvalOptions,
    gold: str | None,
    gold_form: str,
    path: str,
    tick: Callable[[int], None] | None = None,
) -> PredictionFile | GoldComparison:
    """A counted file of predictions, with what it needs open as long as the stack is."""
    plain = stack.enter_context(plain_file(path))
    files: PredictionFile | GoldComparison
    if gold is None:
        files = PredictionFile(plain, options)
    else:
        from iepile_cli.evaluation.gold_file import GoldComparison

        files = GoldComparison(plain, gold, options, gold_form)
        stack.callback(files.close)
    _check(files.count(tick), options, path, files)
    return files


def _check(
    counts: Counts, options: EvalOptions, name: str, files: PredictionFile | GoldComparison
) -> None:
    """Raise ``DataError`` when there is nothing to score, with the likeliest reason."""
    path = display_name(name)
    with_label = isinstance(files, PredictionFile)
    if len(counts):
        answers = sum(rows[ANSWERS] for rows in counts.rows)
        silent = sum(rows[SILENT] for rows in counts.rows)
        if silent >= answers and with_label:
            raise DataError("no record has an 'output'", path=path, hint="run extract on it first")
        return
    unlabelled = sum(rows[UNLABELLED] for rows in counts.rows)
    if unlabelled:
        hint = (
            "convert writes a 'label' into test records; or name annotated data with --gold"
            if with_label
            else "both need the same ids, the same texts, or the same task, source and id"
        )
        raise DataError(f"no gold in {plural(unlabelled, 'document')}", path=path, hint=hint)
    if counts.skipped and options.task:
        raise DataError(f"no record of task {options.task}", path=path)
    raise DataError(
        "no record that can be scored",
        path=path,
        line=_line_number(files.path, counts.first_unreadable) if files.path == name else None,
        hint="one JSON object a line, with a known 'task', or name it with --task",
    )


def _line_number(path: str, at: int) -> int | None:
    if at < 0:
        return None
    with open(path, "rb") as file:
        return file.read(at).count(b"\n") + 1

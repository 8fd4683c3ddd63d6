"""``iepile extract --instructions``: converted records answered as they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from iepile_cli.cli import console
from iepile_cli.cli.watching import resumable, watching
from iepile_cli.errors import IEPileError, PartialFailure, UsageError

if TYPE_CHECKING:
    from iepile_cli.backends.opening import Opened
    from iepile_cli.extraction.predicting import Predicting


def predict_records(
    path: str,
    predicting: Predicting,
    opening: Callable[[], Opened],
    output: str | None,
    min_score: float | None = None,
    list_prior: float | None = None,
    *,
    resume: bool = False,
    limit: int | None = None,
) -> None:
    """Answer the records of a file and write them with their answers.

    Without ``min_score`` or ``list_prior`` what is known of the model and its adapter decides.
    """
    from iepile_cli.extraction.instructions import open_predictions, read_instructions
    from iepile_cli.extraction.predicting import predict

    failures: list[IEPileError] = []

    def failed(error: IEPileError) -> None:
        failures.append(error)
        console.print_error(error.message, error.hint)

    with open_predictions(output, resume=resume) as writer, resumable(output):
        records = itertools.islice(read_instructions(path, failed), limit)
        rest = (record for record in records if not writer.done(record))
        first = next(rest, None)
        if first is None:
            if failures:
                raise typer.Exit(1)
            done = writer.resumed
            console.note(f"nothing left to do: {done} records were done" if done else "no record")
            return
        with watching(lambda: None) as watch:
            opened = opening()
            with closing(opened.runner):
                for prediction in predict(
                    itertools.chain([first], rest),
                    replace(
                        predicting,
                        min_score=opened.least_score(min_score),
                        list_prior=opened.list_prior(list_prior),
                    ),
                    opened.runner,
                    opened.template,
                    on_answer=watch.answered,
                    on_error=failed,
                ):
                    writer.write(prediction)
                    watch.finished(prediction.ungrounded)
    watch.report("records", opened.runner)
    if failures:
        raise PartialFailure(
            f"{len(failures)} records have no answer; the other {watch.documents} are written",
            hint="--resume tries them again" if output not in (None, "-") else "",
        )


def refuse(**given: object) -> None:
    """Raise ``UsageError`` for options that records of instructions leave no room for."""
    named = [name for name, value in given.items() if value]
    if named:
        options = ", ".join("--" + name.replace("_", "-") for name in named)
        raise UsageError(
            f"--instructions brings its own texts and schemas: {options} cannot be used with it"
        )

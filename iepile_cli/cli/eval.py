"""``iepile eval``: predictions against gold."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from iepile_cli.cli import console, options
from iepile_cli.conversion.options import Form
from iepile_cli.errors import DataError, IEPileError, NoSuchFile, PartialFailure, UsageError
from iepile_cli.evaluation.options import EvalOptions
from iepile_cli.fields import option
from iepile_cli.files import STDIN
from iepile_cli.formatting import plural

if TYPE_CHECKING:
    from iepile_cli.evaluation import Evaluation

_REPORT = "Report"
# Columns that a narrow terminal does without, the last first.
_OPTIONAL = ("95 %", "gold", "R", "P", "correct", "pred")

EXAMPLES = """
Examples:

\b
  iepile eval predictions.jsonl
  iepile eval predictions.jsonl --by source --by type --html errors.html
  iepile eval small.jsonl large.jsonl --format markdown
  iepile eval new.jsonl --baseline old.jsonl --fail-under 60
  iepile eval results.jsonl --gold annotated.bio --mode partial --errors errors.jsonl
"""


@dataclass(frozen=True)
class ReportOptions:
    """What the predictions are compared with, and which reports are written."""

    by: tuple[Literal["source", "type"], ...] = option(
        (), help="Also show scores for each; may be repeated.", group=_REPORT
    )
    gold: str | None = option(
        None, help="Annotated data in any form that convert reads, or results as gold."
    )
    gold_from: Form = option(
        "auto", help="Form of --gold, as convert --from. Default: by its name and first record."
    )
    baseline: str | None = option(None, help="Another system's predictions: test the difference.")
    fail_under: float | None = option(
        None, help="Exit with 1 when a micro F1 (percent) is lower.", least=0, most=100
    )
    format: Literal["table", "tsv", "markdown"] | None = option(
        None, help="Default: table on a terminal, else tsv.", group=_REPORT
    )
    json: str | None = option(None, help="Write the report as JSON; - is stdout.", group=_REPORT)
    html: str | None = option(None, help="Write a report with every error shown.", group=_REPORT)
    html_errors: int = option(
        500, help="Most documents with errors in the HTML report.", group=_REPORT, least=0
    )
    errors: str | None = option(
        None, help="Write each error as JSON Lines, the most frequent first.", group=_REPORT
    )
    confusions: str | None = option(
        None, help="Write type confusions for convert --hard-negatives.", group=_REPORT
    )

    def files(self) -> dict[str, str | None]:
        """The reports that cannot go to stdout, by their options."""
        return {"--html": self.html, "--confusions": self.confusions, "--errors": self.errors}

    def write(self, found: Evaluation) -> None:
        """Write those reports of an evaluation that are asked for."""
        from iepile_cli.evaluation import report

        if self.html:
            report.write_html(found, self.html, self.html_errors)
        if self.confusions:
            report.write_json(report.confusions_json(found.counts), self.confusions)
        if self.errors:
            report.write_errors(found, self.errors)


@options.command(first=("gold", "task", "by", "mode", "html", "json"))
def evaluate(
    predictions: Annotated[
        list[str],
        typer.Argument(
            help="JSON Lines: converted test records with an 'output' (from extract"
            " --instructions), or with --gold also results of extract. May be gzip or zstd; - is"
            " stdin. Several files: one table."
        ),
    ],
    scoring: EvalOptions = EvalOptions(),  # noqa: B008
    reports: ReportOptions = ReportOptions(),
) -> None:
    """Score predictions: precision, recall and F1 with intervals, per source and per type."""
    from iepile_cli.evaluation import evaluate as evaluation
    from iepile_cli.evaluation import report

    for path in (*predictions, reports.gold, reports.baseline):
        if path and path != STDIN and "://" not in path and not os.path.exists(path):
            raise NoSuchFile(path)
    wanted = replace(scoring, confusions=bool(reports.confusions or reports.html))
    _check_reports(reports, [*predictions, reports.baseline])
    if len(predictions) > 1:
        _check_several({**reports.files(), "--upstream-compatible": wanted.literal})
    finished: list[Evaluation] = []
    numbers: list[dict[str, Any]] = []
    failures = console.Failures()
    try:
        for path in predictions:
            with (
                _going_on(failures, several=len(predictions) > 1),
                _progress(path) as tick,
                evaluation(
                    path,
                    wanted,
                    by=reports.by,
                    gold=reports.gold,
                    gold_form=reports.gold_from,
                    baseline=reports.baseline,
                    tick=tick,
                ) as found,
            ):
                numbers.append(found.upstream() if wanted.literal else report.as_json(found))
                finished.append(found)
                reports.write(found)
    finally:
        # Also when a report cannot be written: the scores are there.
        if finished:
            whole = {"files": numbers} if len(predictions) > 1 else numbers[0]
            _put(finished, whole, wanted, reports)
    _end(finished, reports.fail_under, failures)


@contextmanager
def _going_on(failures: console.Failures, *, several: bool) -> Iterator[None]:
    """Keep what is wrong with the data of one of several files; the others are scored."""
    try:
        yield
    except DataError as error:
        if not several:
            raise
        failures.add(error)


def _put(
    finished: list[Evaluation], whole: Any, wanted: EvalOptions, reports: ReportOptions
) -> None:
    """Write the numbers as JSON, and the table to stdout if they do not go there."""
    from iepile_cli.evaluation import report

    if reports.json and reports.json != "-":
        report.write_json(whole, reports.json)
    if reports.json == "-" or wanted.literal:
        narrow = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
        console.put(json.dumps(whole, ensure_ascii=narrow, indent=2) + "\n")
    else:
        _show(finished, reports.format or ("table" if sys.stdout.isatty() else "tsv"))


def _end(finished: list[Evaluation], fail_under: float | None, failed: list[IEPileError]) -> None:
    """Show remarks; raises the most urgent failure."""
    from iepile_cli.evaluation import report

    failures: list[IEPileError] = []
    for found in finished:
        several = len(finished) + len(failed) > 1
        for line in report.remarks(found):
            console.note(f"{found.name}: {line}" if several else line)
        failure = found.failure(fail_under)
        if failure is not None:
            failures.append(failure)
    if failed:
        failures.append(PartialFailure(f"{plural(len(failed), 'file')} not scored"))
    if not finished:
        raise typer.Exit(1)
    if failures:
        raise min(failures, key=lambda failure: failure.exit_code)


def _joined_files(read: list[str | None], gold: str | None, gold_from: Form) -> Iterator[Path]:
    """What is read with gold of its own: that, and the texts that results are from."""
    from iepile_cli.conversion.readers import files_of

    if gold is None:
        return
    for path, form in ((gold, gold_from), *((one, "auto") for one in read)):
        if path is not None and os.path.exists(path):
            yield from files_of(Path(path), form)


def _check_reports(reports: ReportOptions, read: list[str | None]) -> None:
    """Raise ``UsageError`` before any work for a report that cannot be written."""
    from iepile_cli import writing

    for name, target in reports.files().items():
        if target == "-":
            raise UsageError(f"{name} takes a file", hint="only --json can go to stdout")
    named = [target for target in (reports.json, *reports.files().values()) if target]
    targets = [target for target in named if target != "-"]
    writing.refuse_overwriting(targets, read)
    if any(map(os.path.exists, targets)):
        writing.refuse_overwriting(targets, _joined_files(read, reports.gold, reports.gold_from))
    for number, target in enumerate(targets):
        if os.path.isdir(target):
            raise UsageError(f"{target} is a folder", hint="name a file")
        try:
            Path(target).absolute().parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{target}: cannot be written: {error.strerror}") from None
        same = any(writing.is_same_file(target, other) for other in targets[:number])
        if same and not writing.is_device(target):
            raise UsageError(f"two reports cannot both be written to {target}")


def _check_several(single: dict[str, Any]) -> None:
    """Raise ``UsageError`` for an option that goes with one file of predictions only."""
    for name, given in single.items():
        if given:
            raise UsageError(f"{name} takes one file of predictions")


@contextmanager
def _progress(predictions: str) -> Iterator[Callable[[int], None]]:
    """What is called with numbers of bytes read."""
    size = os.path.getsize(predictions) if os.path.isfile(predictions) else None
    with console.Progress("bytes") as progress:
        yield progress.bar("scoring", total=size).advance


def _show(evaluations: list[Evaluation], format: str) -> None:
    """The table: tab-separated for programs, aligned or in Markdown for people."""
    from iepile_cli.evaluation import report
    from iepile_cli.formatting import table_lines

    lines: Iterable[str]
    if format == "tsv":
        lines = report.as_tsv(evaluations)
    elif format == "markdown":
        lines = report.as_markdown(report.for_people(evaluations))
    else:
        header, *rows = report.for_people(evaluations)
        right = [name for name in header if name not in ("what", "average")]
        lines = table_lines(header, rows, console.width(), right=right, optional=_OPTIONAL)
    for line in lines:
        console.put(f"{line}\n")

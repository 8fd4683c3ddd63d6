"""``iepile eval``: predictions against gold."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from iepile_cli.cli import console, options
from iepile_cli.conversion.options import Form
from iepile_cli.errors import IEPileError, UsageError
from iepile_cli.evaluation.options import EvalOptions

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


class By(str, Enum):
    """What scores are also shown for."""

    source = "source"
    type = "type"


@options.command(first=("gold", "task", "by", "mode", "html", "json_file"))
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
    by: Annotated[
        list[By] | None,
        typer.Option(rich_help_panel=_REPORT, help="Also show scores for each; may be repeated."),
    ] = None,
    gold: Annotated[
        str | None,
        typer.Option(help="Annotated data in any form that convert reads, or results as gold."),
    ] = None,
    gold_from: Annotated[
        Form,
        typer.Option(
            help="Form of --gold, as convert --from. Default: by its name and first record.",
        ),
    ] = "auto",
    baseline: Annotated[
        str | None, typer.Option(help="Another system's predictions: test the difference.")
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(help="Exit with 1 when a micro F1 (percent) is lower.", min=0, max=100),
    ] = None,
    format: Annotated[
        Literal["table", "tsv", "markdown"] | None,
        typer.Option(rich_help_panel=_REPORT, help="Default: table on a terminal, else tsv."),
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json", rich_help_panel=_REPORT, help="Write the report as JSON; - is stdout."
        ),
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(rich_help_panel=_REPORT, help="Write a report with every error shown."),
    ] = None,
    html_errors: Annotated[
        int,
        typer.Option(
            rich_help_panel=_REPORT, help="Most documents with errors in the HTML report.", min=0
        ),
    ] = 500,
    errors: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_REPORT,
            help="Write each error as JSON Lines, the most frequent first.",
        ),
    ] = None,
    confusions: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_REPORT, help="Write type confusions for convert --hard-negatives."
        ),
    ] = None,
) -> None:
    """Score predictions: precision, recall and F1 with intervals, per source and per type."""
    from iepile_cli.evaluation import evaluate as evaluation
    from iepile_cli.evaluation import report

    wanted = replace(scoring, confusions=bool(confusions or html))
    reports = {"--html": html, "--confusions": confusions, "--errors": errors}
    _check_reports(reports, json_file, [*predictions, baseline], gold, gold_from)
    if len(predictions) > 1:
        _check_several({**reports, "--upstream-compatible": wanted.literal})
    finished: list[Evaluation] = []
    numbers: list[dict[str, Any]] = []
    for path in predictions:
        with (
            _ticking(path) as tick,
            evaluation(
                path,
                wanted,
                by=tuple(one.value for one in by or ()),
                gold=gold,
                gold_form=gold_from,
                baseline=baseline,
                tick=tick,
            ) as found,
        ):
            finished.append(found)
            numbers.append(found.upstream() if wanted.literal else report.as_json(found))
            _write_reports(found, html, html_errors, confusions, errors)
    whole = numbers[0] if len(numbers) == 1 else {"files": numbers}
    if json_file and json_file != "-":
        report.write_json(whole, json_file)
    if json_file == "-" or wanted.literal:
        narrow = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
        console.put(json.dumps(whole, ensure_ascii=narrow, indent=2) + "\n")
    else:
        _show(finished, format or ("table" if sys.stdout.isatty() else "tsv"))
    failures: list[IEPileError] = []
    for found in finished:
        for line in report.remarks(found):
            console.note(line if len(finished) == 1 else f"{found.name}: {line}")
        failure = found.failure(fail_under)
        if failure is not None:
            failures.append(failure)
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


def _check_reports(
    reports: dict[str, str | None],
    json_file: str | None,
    read: list[str | None],
    gold: str | None,
    gold_from: Form,
) -> None:
    """Raise ``UsageError`` before any work for a report that cannot be written."""
    from iepile_cli import files

    for option, target in reports.items():
        if target == "-":
            raise UsageError(f"{option} takes a file", hint="only --json can go to stdout")
    targets = [target for target in (json_file, *reports.values()) if target not in (None, "-")]
    files.refuse_overwriting(targets, read)
    if any(map(os.path.exists, targets)):
        files.refuse_overwriting(targets, _joined_files(read, gold, gold_from))
    for number, target in enumerate(targets):
        if os.path.isdir(target):
            raise UsageError(f"{target} is a folder", hint="name a file")
        try:
            Path(target).absolute().parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{target}: cannot be written: {error.strerror}") from None
        others = targets[:number]
        if not files.is_device(target) and any(files.is_same_file(target, one) for one in others):
            raise UsageError(f"two reports cannot both be written to {target}")


def _check_several(single: dict[str, Any]) -> None:
    """Raise ``UsageError`` for an option that goes with one file of predictions only."""
    for option, given in single.items():
        if given:
            raise UsageError(f"{option} takes one file of predictions")


def _write_reports(
    found: Evaluation, html: str | None, limit: int, confusions: str | None, errors: str | None
) -> None:
    from iepile_cli.evaluation import report

    if html:
        report.write_html(found, html, limit)
    if confusions:
        report.write_json(report.confusions_json(found.counts), confusions)
    if errors:
        report.write_errors(found, errors)


@contextmanager
def _ticking(predictions: str) -> Iterator[Callable[[int], None]]:
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

"""``iepile eval``: predictions against gold."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iepile_cli.cli import complete, console
from iepile_cli.errors import UsageError

if TYPE_CHECKING:
    from iepile_cli.evaluation import Evaluation

# A narrower terminal gets the name, F1, its interval and the gold count only.
_WIDE = 66

EXAMPLES = """
Examples:

\b
  iepile eval predictions.jsonl
  iepile eval predictions.jsonl --by source --by type --html errors.html
  iepile eval new.jsonl --baseline old.jsonl --fail-under 60
  iepile eval predictions.jsonl --mode partial --match set --json scores.json
  iepile eval results.jsonl --gold gold.jsonl
"""


def evaluate(
    predictions: Annotated[
        str,
        typer.Argument(
            help="JSON Lines: converted test records with an 'output' (from extract"
            " --instructions), or with --gold grounded results. May be gzip or zstd; - is stdin."
        ),
    ],
    task: Annotated[
        str,
        typer.Option(
            autocompletion=complete.complete_task,
            help="Score this task only; needed where records do not name theirs.",
        ),
    ] = "",
    by: Annotated[
        list[str] | None, typer.Option(help="Also show scores per source, or per type. Repeatable.")
    ] = None,
    match: Annotated[
        str, typer.Option(help="multiset: repetitions count; set: they do not.")
    ] = "multiset",
    mode: Annotated[
        str, typer.Option(help="What counts as found: strict, boundary, partial or type.")
    ] = "strict",
    gold: Annotated[
        str | None, typer.Option(help="Grounded gold; predictions are results of extract.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Save what can be saved of broken answers.")
    ] = False,
    asked_only: Annotated[
        bool, typer.Option("--asked-only", help="Leave out gold and answers that were not asked.")
    ] = False,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Write the report as JSON; - is stdout.")
    ] = None,
    html: Annotated[str | None, typer.Option(help="Write a report with every error shown.")] = None,
    html_errors: Annotated[
        int, typer.Option(help="Most documents with errors in the HTML report.", min=0)
    ] = 500,
    confusions: Annotated[
        str | None, typer.Option(help="Write type confusions for convert --hard-negatives.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Another system's predictions: test the difference.")
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(help="Exit with 1 when a micro F1 (percent) is lower.", min=0, max=100),
    ] = None,
    resamples: Annotated[
        int, typer.Option(help="Bootstrap samples for the 95 % intervals; 0: none.", min=0)
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of resampling.", min=0)] = 42,
    upstream_compatible: Annotated[
        bool,
        typer.Option("--upstream-compatible", help="Give the numbers of the IEPile script."),
    ] = False,
) -> None:
    """Score predictions: precision, recall and F1 with intervals, per source and per type."""
    from iepile_cli.evaluation import Plan, evaluated, outputs

    plan = Plan(
        task=task,
        match=match,  # type: ignore[arg-type]
        mode=mode,  # type: ignore[arg-type]
        repair=repair,
        asked_only=asked_only,
        literal=upstream_compatible,
        confusions=bool(confusions or html),
        resamples=resamples,
        seed=seed,
    )
    for option, target in (("--html", html), ("--confusions", confusions)):
        if target == "-":
            raise UsageError(f"{option} takes a file", hint="only --json can go to stdout")
    outputs.check_targets([json_file, html, confusions], [predictions, gold, baseline])
    with (
        _ticking(predictions) as tick,
        evaluated(
            predictions, plan, by=tuple(by or ()), gold=gold, baseline=baseline, tick=tick
        ) as evaluation,
    ):
        from iepile_cli.evaluation import report

        numbers = evaluation.upstream() if upstream_compatible else report.as_json(evaluation)
        if html:
            outputs.write_html(evaluation, Path(html), html_errors)
        if confusions:
            outputs.write_json(report.confusions_json(evaluation.tally), Path(confusions))
        if json_file and json_file != "-":
            outputs.write_json(numbers, Path(json_file))
        failure = evaluation.failure(fail_under)
    if json_file == "-" or upstream_compatible:
        narrow = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
        _put(json.dumps(numbers, ensure_ascii=narrow, indent=2) + "\n")
    else:
        _show(evaluation)
    for line in report.remarks(evaluation):
        console.note(line)
    if failure is not None:
        raise failure


@contextmanager
def _ticking(predictions: str) -> Iterator[Callable[[int], None] | None]:
    """What is called with numbers of bytes read; None where nobody would see them."""
    if not sys.stderr.isatty() or not os.path.isfile(predictions):
        yield None
        return
    with console.progress() as progress:
        bar = progress.add_task("scoring", total=os.path.getsize(predictions))
        yield lambda size: progress.advance(bar, size)


def _put(text: str) -> None:
    """Write to stdout; what its encoding lacks is escaped, which in JSON is the same string."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _show(evaluation: Evaluation) -> None:
    """The table: tab-separated for programs, aligned for people."""
    from iepile_cli.evaluation import report

    if not sys.stdout.isatty():
        _put("".join(f"{line}\n" for line in report.as_tsv(evaluation)))
        return
    from rich.console import Console

    screen = Console(highlight=False)
    rows = report.for_people(evaluation)
    if screen.width < _WIDE:
        rows = ((row[0], row[4], *row[5:7]) for row in rows if row[1] != "macro")
    screen.print(_table(rows))


def _table(rows: Iterable[tuple[str, ...]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    header, *body = rows
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        number = name not in ("what", "average")
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in body:
        table.add_row(*(Text(cell) for cell in row))
    return table

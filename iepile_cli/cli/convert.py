"""``iepile convert``: annotated data into training and test instructions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from iepile_cli.cli import console, options
from iepile_cli.cli.fetching import with_offer
from iepile_cli.cluster.options import ClusterOptions
from iepile_cli.conversion.options import ConvertOptions
from iepile_cli.errors import PartialFailure, UsageError
from iepile_cli.fields import option
from iepile_cli.formatting import plural

if TYPE_CHECKING:
    from iepile_cli.conversion.convert_file import Progress
    from iepile_cli.conversion.file_report import Report

EXAMPLES = """
Examples:

\b
  iepile convert train.json -o rows.jsonl --schema schema.json --task NER
  iepile convert IE-en/RE/NYT11/test.json -o test.jsonl
  iepile convert train.json --task NER --schema auto --hard-negatives auto
  iepile convert IEPile/ -o converted/
  iepile convert news.bio -o rows.jsonl
  iepile convert news.bio --to doccano -o news.jsonl
  iepile convert news.json --task NER --to schema -o schema.json
"""


@dataclass(frozen=True)
class ResumeOptions:
    """Whether a run on a cluster is continued."""

    resume: bool = option(False, group="Cluster", help="Continue with the shards not yet done.")


_FIRST = ("task", "schema", "output", "to")


@options.command(first=_FIRST, without=("parquet", "gpus_per_replica"))
def convert(
    chosen: ConvertOptions,
    src: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A file of records, a folder of datasets, a downloaded corpus; -: stdin.",
        ),
    ] = "-",
    *,
    cluster: ClusterOptions,
    again: ResumeOptions,
) -> None:
    """Build training and test instructions from annotated data, or bring it into another form.

    SRC holds JSON Lines or one JSON array, columns of tokens and tags, or what an annotation tool
    exports; a folder is a corpus laid out as the IEPile download, or brat's. Records that cannot
    be used are named, counted and left out; the exit code is then 3.
    """
    from iepile_cli.conversion import convert as convert_all
    from iepile_cli.models import resolve_data

    chosen = replace(
        chosen,
        path=None if src == "-" else with_offer(lambda: resolve_data(src)),
        output=None if str(chosen.output) == "-" else chosen.output,
    )
    if cluster.ray is not None:
        from iepile_cli.cli.cluster_run import convert_on_cluster

        convert_on_cluster(chosen, cluster, resume=again.resume)
        return
    if again.resume:
        raise UsageError("--resume is for --ray: a file appears when it is complete")
    with console.Progress() as progress:

        def show(name: str, size: int) -> Progress:
            bar = progress.bar(name, size or 1)
            return lambda done, total: bar.update(done=done, total=total or None)

        reports = convert_all(chosen, show)
    _report(reports)


def _report(reports: list[Report]) -> None:
    """Show the closing report; raises ``PartialFailure`` when something is missing."""
    for report in reports:
        if report.error:
            console.print_error(report.summary())
        elif len(reports) == 1 or report.problem_counts or report.notes:
            console.note("\n".join((report.summary(), *report.problems())))
    if len(reports) > 1:
        _table(reports)
    partial = [report for report in reports if report.partial]
    if partial:
        skipped = sum(report.skipped for report in partial)
        failed = sum(bool(report.error) for report in partial)
        raise PartialFailure(
            f"{plural(skipped, 'record')} skipped"
            + (f", {plural(failed, 'dataset')} failed" if failed else ""),
            hint="the rest is written",
        )


def _table(reports: list[Report]) -> None:
    rows = []
    for report in reports:
        numbers = (report.records, report.rows, report.skipped)
        shown = ["failed", "", ""] if report.error else [f"{number:,}" for number in numbers]
        facts = (report.task_name, report.language, report.split)
        rows.append((report.title or report.name, *facts, *shown))
    header = ("file", "task", "lang", "split", "records", "rows", "skipped")
    # On a narrow terminal numbers come before what the path says anyway.
    console.table(header, rows, right=header[4:], optional=header[1:4], to="stderr")

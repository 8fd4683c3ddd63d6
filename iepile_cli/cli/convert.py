"""``iepile convert``: annotated data into training and test instructions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iepile_cli.cli import complete, console
from iepile_cli.errors import PartialFailure

if TYPE_CHECKING:
    from iepile_cli.conversion.pipeline import Progress
    from iepile_cli.conversion.report import Report

EXAMPLES = """
Examples:

\b
  iepile convert train.json -o rows.jsonl --schema schema.json --task NER
  iepile convert IE-en/RE/NYT11/test.json -o test.jsonl
  iepile convert train.json --task NER --schema auto --hard-negatives auto
  iepile convert IEPile/ -o converted/
  iepile convert iepile-sources -o converted/
  iepile convert news.bio --to records -o news.json
  iepile convert news.json --task NER --to schema -o schema.json
"""


def convert(
    src: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A file of records, a folder of sets, a downloaded corpus; -: stdin.",
        ),
    ] = "-",
    output: Annotated[
        str, typer.Option("--output", "-o", help="Where to write; - is stdout. .gz, .zst too.")
    ] = "-",
    schema: Annotated[
        list[str] | None,
        typer.Option(
            help="Schema file, or names; auto infers it from the data. Default: schema.json "
            "beside SRC."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete.complete_task,
            help="NER, RE, SPO, EE, EET, EEA or KG. Default: as the path says.",
        ),
    ] = None,
    lang: Annotated[
        str,
        typer.Option(
            autocompletion=complete.choices(("auto", "en", "zh")),
            help="Language of the instructions: zh, en, or auto (by the text).",
        ),
    ] = "auto",
    split: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete.choices(("train", "test")),
            help="train or test. Default: train, but test for files named test.",
        ),
    ] = None,
    split_num: Annotated[
        int | None,
        typer.Option(
            help="Schema items in one instruction; -1 for all. Default: NER 6, KG 1, others 4."
        ),
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Shuffle schema items in training rows.")
    ] = False,
    neg_ratio: Annotated[
        float, typer.Option(help="Chance for each absent type to be asked; -1 asks all.")
    ] = 1.0,
    hard_negatives: Annotated[
        list[str] | None,
        typer.Option(
            help="Dictionary or confusions file, or auto to mine the data. May be repeated."
        ),
    ] = None,
    write_hard_negatives: Annotated[
        Path | None, typer.Option(help="Write the dictionary of hard negatives to this file.")
    ] = None,
    max_empty_ratio: Annotated[
        float | None, typer.Option(help="Largest share of training rows with an empty answer.")
    ] = None,
    split_arguments: Annotated[
        int, typer.Option(help="Ask at most so many arguments of a type at once; 0 asks all.")
    ] = 0,
    triggers: Annotated[
        str, typer.Option(help="Show given triggers (EEA) in: train, always or never.")
    ] = "train",
    label_aliases: Annotated[
        Path | None,
        typer.Option(
            help="File of other names and coarser labels, drawn for each training record."
        ),
    ] = None,
    rename_labels: Annotated[
        Path | None, typer.Option(help='File of new names for labels: {"old": "new"}.')
    ] = None,
    dev_share: Annotated[
        float, typer.Option(help="Share of the documents whose rows go to OUTPUT.dev instead.")
    ] = 0.0,
    sample: Annotated[
        float, typer.Option(help="Convert only this share of the records, drawn.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of all that is drawn.")] = 42,
    source: Annotated[
        str | None, typer.Option(help="Name of the set. Default: the folder's name.")
    ] = None,
    from_: Annotated[
        str, typer.Option("--from", help="Form of SRC: auto, iepile, bio, spacy or brat.")
    ] = "auto",
    to: Annotated[str, typer.Option(help="What to make: rows, records or schema.")] = "rows",
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first thing that is wrong.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes. Default: one per processor, at most 8.")
    ] = None,
) -> None:
    """Build training and test instructions from annotated data.

    SRC holds JSON Lines or one JSON array, plain, .gz or .zst; a folder is a corpus laid out as
    the IEPile download. Records that cannot be used are named, counted and left out; the exit
    code is then 3.
    """
    from iepile_cli.conversion import ConvertOptions
    from iepile_cli.conversion import convert as convert_all
    from iepile_cli.models import resolve_data

    options = ConvertOptions(
        path=None if src == "-" else resolve_data(src),
        output=None if output == "-" else Path(output),
        schema=tuple(schema or ()),
        task=task,
        language=lang,
        split=split,
        split_num=split_num,
        neg_ratio=neg_ratio,
        shuffle=shuffle,
        hard_negatives=tuple(hard_negatives or ()),
        write_hard_negatives=write_hard_negatives,
        max_empty_ratio=max_empty_ratio,
        split_arguments=split_arguments,
        triggers=triggers,
        sample=sample,
        label_aliases=label_aliases,
        rename_labels=rename_labels,
        dev_share=dev_share,
        seed=seed,
        source=source,
        workers=workers,
        form=from_,
        to=to,
        strict=strict,
    )
    with console.progress() as bars:

        def show(name: str, size: int) -> Progress:
            bar = bars.add_task(name, total=size or 1)
            return lambda done, total: bars.update(bar, completed=done, total=total or None)

        reports = convert_all(options, show)
    _tell(reports)


def _tell(reports: list[Report]) -> None:
    """Show the closing report; raises ``PartialFailure`` when something is missing."""
    for report in reports:
        if report.error:
            console.print_error(report.summary())
        elif len(reports) == 1 or report.problem_counts or report.notes:
            console.note("\n".join((report.summary(), *report.problems())))
    if len(reports) > 1 and not console.verbosity.quiet:
        _table(reports)
    partial = [report for report in reports if report.partial]
    if partial:
        skipped = sum(report.skipped for report in partial)
        failed = sum(bool(report.error) for report in partial)
        raise PartialFailure(
            f"{skipped:,} records skipped" + (f", {failed:,} sets failed" if failed else ""),
            hint="the rest is written",
        )


def _table(reports: list[Report]) -> None:
    from rich.table import Table

    terminal = console.stderr()
    # On a narrow terminal numbers come before what the path says anyway.
    facts = ("task", "lang", "split") if terminal.width >= 64 else ()
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for name in facts:
        table.add_column(name, no_wrap=True)
    for name in ("records", "rows", "skipped"):
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        numbers = (report.records, report.rows, report.skipped)
        shown = ["failed", "", ""] if report.error else [f"{number:,}" for number in numbers]
        known = (report.task_name, report.language, report.split)[: len(facts)]
        table.add_row(report.title or report.name, *known, *shown)
    terminal.print(table)

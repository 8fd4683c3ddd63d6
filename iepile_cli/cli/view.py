"""``iepile view``: results as a page to look at, or counted."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iepile_cli.cli import console, options
from iepile_cli.errors import IEPileError, PartialFailure, UsageError
from iepile_cli.extraction.summary import Entry, Summary, SummaryOptions
from iepile_cli.formatting import plural, readable_size

if TYPE_CHECKING:
    from iepile_cli.extraction.forms import OutputOptions
    from iepile_cli.extraction.result_files import Read
    from iepile_cli.extraction.results import Result

EXAMPLES = """
Examples:

\b
  iepile view results.jsonl
  iepile view results.jsonl -o page.html --open
  iepile view results.jsonl --summary
  iepile view results.jsonl --summary --match-initials | sort -t "$(printf '\\t')" -k4 -nr
"""
_INPUT = "Input"


@options.command(first=("output", "open_page", "summary", "per_document"))
def view(
    results: Annotated[
        list[str],
        typer.Argument(
            help="Results of extract: JSON Lines or a JSON array; - is standard input. Several "
            "files: one page."
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="The page. Default: beside the results, ending in .html."
        ),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the web browser.")
    ] = False,
    summary: Annotated[
        bool,
        typer.Option("--summary", help="Write the names found, counted, to stdout; no page."),
    ] = False,
    per_document: Annotated[
        bool, typer.Option("--per-document", help="With --summary: count each text apart.")
    ] = False,
    text_field: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_INPUT,
            help="Field of the text in records of the sources. Default: text.",
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(rich_help_panel=_INPUT, help="Encoding of the sources. Default: UTF-8."),
    ] = None,
    counting: SummaryOptions = SummaryOptions(),  # noqa: B008
) -> None:
    """Make a page of results that any browser shows, without a network; or count what was found.

    The page shows the texts with what was found in them. A text is taken from the result, or from
    the source that it names.
    """
    from iepile_cli.encodings import check_encoding

    check_encoding(encoding)
    if len(results) > 1 and results.count("-"):
        raise UsageError("standard input is read alone", hint="name files, or -")
    if summary:
        _refuse_with_summary(output=output, open=open_page)
        failures: list[IEPileError] = []
        counted = Summary(counting)
        for result in _results(results, failures):
            counted.add(result)
        show_summary(counted, per_document)
    elif per_document:
        raise UsageError("--per-document is for --summary", hint="add --summary")
    else:
        failures = _make_page(results, output, text_field, encoding, counting)
        if open_page:
            _open(output or _beside(results))
    if failures:
        raise PartialFailure(f"{plural(len(failures), 'line')} could not be read")


def _refuse_with_summary(**given: object) -> None:
    for name, value in given.items():
        if value:
            raise UsageError(
                f"--summary makes no page: --{name} cannot be used with it",
                hint="leave --summary out; the page has a summary too",
            )


def _results(paths: list[str], failures: list[IEPileError]) -> Iterator[dict[str, Any]]:
    from iepile_cli.extraction.result_files import read_results

    for path in paths:
        yield from read_results(path, _noting(failures))


def _noting(failures: list[IEPileError]) -> Callable[[IEPileError], None]:
    def failed(error: IEPileError) -> None:
        failures.append(error)
        console.print_error(error.message, error.hint)

    return failed


# --------------------------------------------------------------------------------------- the page


def _make_page(
    results: list[str],
    output: str | None,
    text_field: str | None,
    encoding: str | None,
    counting: SummaryOptions,
) -> list[IEPileError]:
    """Write the page; say where, and which texts it has to do without."""
    from iepile_cli.extraction.page import page_of
    from iepile_cli.files import display_name
    from iepile_cli.writing import atomic_write, refuse_overwriting

    target = output or _beside(results)
    if os.path.isdir(target):
        raise UsageError(f"{target} is a folder", hint="name a file")
    refuse_overwriting([target], results)
    if output is None:
        _refuse_what_is_no_page(target)
    failures: list[IEPileError] = []
    missing: Counter[str] = Counter()
    sources: set[Path] = set()
    documents = _with_texts(results, failures, text_field, encoding, sources)
    written = 0
    with atomic_write(target) as file:
        title = Path(results[0]).name if len(results) == 1 and results[0] != "-" else ""
        more: dict[str, Any] = {"title": display_name(title)} if title else {}
        for piece in page_of(_telling(documents, missing), options=counting, **more):
            written += file.write(piece)
        # What is read is only known now; the page does not take its place until the end.
        refuse_overwriting([target], sources)
    for reason, times in missing.most_common(5):
        console.note(f"{plural(times, 'document')} without text: {reason}")
    if target != "-":
        console.note(f"page written to {target} ({readable_size(written)})")
    return failures


def _with_texts(
    results: list[str],
    failures: list[IEPileError],
    text_field: str | None,
    encoding: str | None,
    sources: set[Path],
) -> Iterator[Read]:
    from iepile_cli.extraction.result_files import folder_of, with_texts

    for path in results:
        yield from with_texts(
            _results([path], failures),
            folder_of(path),
            text_field=text_field,
            encoding=encoding,
            on_source=sources.add,
        )


def _telling(documents: Iterator[Read], missing: Counter[str]) -> Iterator[Read]:
    for result, text, reason in documents:
        if text is None:
            missing[reason] += 1
            reason = f"The text cannot be shown: {reason}."
        yield result, text, reason


def _beside(results: list[str]) -> str:
    """The page's name where none is given: that of the results, ending in ``.html``."""
    from iepile_cli.files import COMPRESSED_SUFFIXES

    if len(results) > 1 or results[0] == "-":
        raise UsageError("no name for the page", hint="name it with -o")
    name = results[0]
    for ending in COMPRESSED_SUFFIXES:
        name = name.removesuffix(ending)
    return os.path.splitext(name)[0] + ".html"


def _refuse_what_is_no_page(target: str) -> None:
    """Raise ``UsageError`` where a name that nobody gave is that of something else."""
    from iepile_cli.pages import is_page

    if not os.path.exists(target) or not os.path.getsize(target):
        return
    with open(target, "rb") as file:
        if not is_page(file.read(1000)):
            raise UsageError(f"{target} is there and is no page of results", hint="-o names one")


def _open(target: str) -> None:
    import webbrowser

    if target == "-":
        raise UsageError("--open needs a file", hint="name the page with -o")
    if not webbrowser.open(Path(target).resolve().as_uri()):
        console.note(f"no web browser was found; open {target} in one")


# ------------------------------------------------------------------------------------ the summary


@contextmanager
def summarising(
    writing: OutputOptions, counting: SummaryOptions
) -> Iterator[Callable[[Result], None]]:
    """What is called with each result of a run; at its end the summary is shown, if asked for.

    It is shown of what there is, also when the run fails. Results of a run that is resumed are
    read again, so that the earlier ones count.
    """
    from iepile_cli.extraction.results import to_json

    if not writing.summary:
        yield lambda result: None
        return
    summary = Summary(counting)

    def count(result: Result) -> None:
        summary.add(to_json(result))

    try:
        yield count
    finally:
        if writing.resume and writing.output and os.path.isfile(writing.output):
            summary = Summary(counting)
            for result in _results([writing.output], []):
                summary.add(result)
        if summary.documents:
            show_summary(summary, writing.per_document)


def show_summary(summary: Summary, per_document: bool) -> None:
    """Write a summary to stdout: aligned for people, else tab-separated with a header."""
    entries = summary.entries()
    header = ["type", "name", "count", "documents", "unit", "also written"]
    rows = _rows(entries)
    if per_document:
        header = ["document", "type", "name", "count", "unit", "also written"]
        rows = _rows_by_document(entries, summary.documents)
    if sys.stdout.isatty():
        several = len({entry.unit for entry in entries}) > 1
        header, *rows = _for_people([header, *rows], with_unit=several)
    console.table(
        header,
        rows,
        right=("count", "documents"),
        optional=("also written", "unit"),
        piped_header=True,
    )
    names, times = len(entries), sum(entry.count for entry in entries)
    texts = plural(len(summary.documents), "document")
    console.note(f"{plural(names, 'name')}, found {plural(times, 'time')} in {texts}")


def _rows(entries: list[Entry]) -> list[list[str]]:
    return [
        _shown([one.label, one.name, one.count, one.documents, one.unit, *_others(one)])
        for one in entries
    ]


def _rows_by_document(entries: list[Entry], documents: list[str]) -> list[list[str]]:
    found: list[list[Entry]] = [[] for _ in documents]
    for entry in entries:
        for number in entry.in_documents:
            found[number].append(entry)
    return [
        _shown([name, one.label, one.name, one.in_documents[number], one.unit, *_others(one)])
        for number, name in enumerate(documents)
        for one in found[number]
    ]


def _others(entry: Entry) -> list[str]:
    return [" | ".join(entry.others)]


def _shown(cells: list[Any]) -> list[str]:
    """Cells without what a terminal would obey."""
    from iepile_cli.formatting import one_line

    return [one_line(str(cell)) for cell in cells]


def _for_people(rows: list[list[str]], *, with_unit: bool) -> Iterator[list[str]]:
    """The rows without columns that tell nothing here."""
    empty = not any(row[-1] for row in rows[1:])
    for *cells, unit, others in rows:
        yield [*cells, *([unit] if with_unit else []), *([] if empty else [others])]

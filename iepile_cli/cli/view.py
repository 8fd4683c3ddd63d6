"""``iepile view``: results as a page to look at, or counted."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iepile_cli.cli import console, options
from iepile_cli.errors import PartialFailure, UsageError
from iepile_cli.extraction.summary import Summary, SummaryOptions
from iepile_cli.fields import option
from iepile_cli.formatting import one_line, plural, readable_size

if TYPE_CHECKING:
    from iepile_cli.extraction.forms import OutputOptions
    from iepile_cli.extraction.result_files import ResultWithText
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


@dataclass(frozen=True)
class ViewOptions:
    """What is made of results, and how their sources are read."""

    output: str | None = option(
        None, flags=("-o",), help="The page. Default: beside the results, ending in .html."
    )
    open_page: bool = option(False, flags=("--open",), help="Open the page in the web browser.")
    summary: bool = option(False, help="Write the names found, counted, to stdout; no page.")
    per_document: bool = option(False, help="With --summary: count each text apart.")
    text_field: str | None = option(
        None, group=_INPUT, help="Field of the text in records of the sources. Default: text."
    )
    encoding: str | None = option(
        None, group=_INPUT, help="Encoding of the sources. Default: UTF-8."
    )


@options.command(first=("output", "open_page", "summary", "per_document"))
def view(
    results: Annotated[
        list[str],
        typer.Argument(
            help="Results of extract: JSON Lines or a JSON array; - is standard input. Several "
            "files: one page."
        ),
    ],
    chosen: ViewOptions,
    counting: SummaryOptions,
) -> None:
    """Make a page of results that any browser shows, without a network; or count what was found.

    The page shows the texts with what was found in them. A text is taken from the result, or from
    the source that it names.
    """
    from iepile_cli.encodings import check_encoding

    check_encoding(chosen.encoding)
    if len(results) > 1 and "-" in results:
        raise UsageError("standard input is read alone", hint="name files, or -")
    for name, given in (("output", chosen.output), ("open", chosen.open_page)):
        if chosen.summary and given:
            raise UsageError(
                f"--summary makes no page: --{name} cannot be used with it",
                hint="leave --summary out; the page has a summary too",
            )
    if chosen.per_document and not chosen.summary:
        raise UsageError("--per-document is for --summary", hint="add --summary")
    failures = console.Failures()
    if chosen.summary:
        counted = Summary(counting)
        for result in _results(results, failures):
            counted.add(result)
        show_summary(counted, chosen.per_document)
    else:
        _make_page(results, chosen, counting, failures)
    if failures:
        raise PartialFailure(f"{plural(len(failures), 'line')} could not be read")


def _results(paths: list[str], failures: console.Failures) -> Iterator[dict[str, Any]]:
    from iepile_cli.extraction.result_files import read_results

    for path in paths:
        yield from read_results(path, failures.add)


# --------------------------------------------------------------------------------------- the page


def _make_page(
    results: list[str],
    chosen: ViewOptions,
    counting: SummaryOptions,
    failures: console.Failures,
) -> None:
    """Write the page, and open it; say where, and which texts it has to do without."""
    import webbrowser

    from iepile_cli.extraction.page import page_of
    from iepile_cli.files import display_name
    from iepile_cli.writing import atomic_write, refuse_overwriting

    target = chosen.output or _default_page(results)
    if chosen.open_page and target == "-":
        raise UsageError("--open needs a file", hint="name the page with -o")
    if os.path.isdir(target):
        raise UsageError(f"{target} is a folder", hint="name a file")
    refuse_overwriting([target], results)
    if chosen.output is None:
        _refuse_other_files(target)
    missing: Counter[str] = Counter()
    sources: set[Path] = set()
    documents = _with_texts(results, failures, chosen, sources)
    written = 0
    with atomic_write(target) as file:
        title = Path(results[0]).name if len(results) == 1 and results[0] != "-" else ""
        more: dict[str, Any] = {"title": display_name(title)} if title else {}
        for piece in page_of(_counting_missing(documents, missing), options=counting, **more):
            written += file.write(piece)
        # What is read is only known now; the page does not take its place until the end.
        refuse_overwriting([target], sources)
    for reason, times in missing.most_common(5):
        console.note(f"{plural(times, 'document')} without text: {reason}")
    if target != "-":
        console.note(f"page written to {target} ({readable_size(written)})")
    if chosen.open_page and not webbrowser.open(Path(target).resolve().as_uri()):
        console.note(f"no web browser was found; open {target} in one")


def _with_texts(
    results: list[str],
    failures: console.Failures,
    chosen: ViewOptions,
    sources: set[Path],
) -> Iterator[ResultWithText]:
    from iepile_cli.extraction.result_files import folder_of, with_texts

    for path in results:
        yield from with_texts(
            _results([path], failures),
            folder_of(path),
            text_field=chosen.text_field,
            encoding=chosen.encoding,
            on_source=sources.add,
        )


def _counting_missing(
    documents: Iterator[ResultWithText], missing: Counter[str]
) -> Iterator[ResultWithText]:
    for result, text, reason in documents:
        if text is None:
            missing[reason] += 1
            reason = f"The text cannot be shown: {reason}."
        yield result, text, reason


def _default_page(results: list[str]) -> str:
    """The page's name where none is given: that of the results, ending in ``.html``."""
    from iepile_cli.files import COMPRESSED_SUFFIXES

    if len(results) > 1 or results[0] == "-":
        raise UsageError("no name for the page", hint="name it with -o")
    name = results[0]
    for ending in COMPRESSED_SUFFIXES:
        name = name.removesuffix(ending)
    return os.path.splitext(name)[0] + ".html"


def _refuse_other_files(target: str) -> None:
    """Raise ``UsageError`` where a name that nobody gave is that of something else."""
    from iepile_cli.pages import is_page

    if not os.path.exists(target) or not os.path.getsize(target):
        return
    with open(target, "rb") as file:
        if not is_page(file.read(1000)):
            raise UsageError(f"{target} is there and is no page of results", hint="-o names one")


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
            for result in _results([writing.output], console.Failures()):
                summary.add(result)
        if summary.documents:
            show_summary(summary, writing.per_document)


def show_summary(summary: Summary, per_document: bool) -> None:
    """Write a summary to stdout: aligned for people, else tab-separated with a header."""
    entries = summary.entries()
    header = ["type", "name", "count", "documents", "unit", "also written"]
    rows: list[list[Any]] = [
        [one.label, one.name, one.count, one.documents, one.unit, " | ".join(one.others)]
        for one in entries
    ]
    if per_document:
        header = ["document", "type", "name", "count", "unit", "also written"]
        at = sorted((number, n) for n, one in enumerate(entries) for number in one.in_documents)
        rows = [
            [
                summary.documents[number],
                *rows[n][:2],
                entries[n].in_documents[number],
                *rows[n][4:],
            ]
            for number, n in at
        ]
    # People see no columns that tell nothing here.
    idle = {"unit"} if len({one.unit for one in entries}) < 2 else set()
    idle |= set() if any(one.others for one in entries) else {"also written"}
    kept = [n for n, name in enumerate(header) if name not in idle or not sys.stdout.isatty()]
    console.table(
        [header[n] for n in kept],
        [[one_line(str(row[n])) for n in kept] for row in rows],
        right=("count", "documents"),
        optional=("also written", "unit"),
        piped_header=True,
    )
    names, times = len(entries), sum(entry.count for entry in entries)
    texts = plural(len(summary.documents), "document")
    console.note(f"{plural(names, 'name')}, found {plural(times, 'time')} in {texts}")

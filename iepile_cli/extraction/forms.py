"""Results as bytes: JSON Lines, a JSON array, CSV, or instruction records with their answers.

What people look at is in ``view.py`` and ``page.py``; where the bytes go is decided in
``outputs.py``.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from iepile_cli.errors import UsageError
from iepile_cli.extraction.grounding import Item, Span
from iepile_cli.extraction.instructions import InstructionRecord
from iepile_cli.extraction.results import Result, end_types, is_single, slots_of, to_json, to_line
from iepile_cli.extraction.summary import SummaryOptions
from iepile_cli.fields import check_fields, option
from iepile_cli.task import Task
from iepile_cli.task.instruction import dumps
from iepile_cli.task.shape import fixed_roles

Format = Literal["table", "json", "jsonl", "csv", "html"]
FORMATS = get_args(Format)
RESUMABLE = ("json", "jsonl")
# The group of the options in the help of the command line.
_OUTPUT = "Output"


@dataclass(frozen=True)
class OutputOptions:
    """Where results go and in which form; raises ``UsageError`` for values that cannot be."""

    output: str | None = option(
        None, group=_OUTPUT, flags=("-o",), help="Write to this file instead of stdout."
    )
    format: Format | None = option(
        None,
        group=_OUTPUT,
        flags=("-f",),
        help="Default: table on a terminal, else by the file's suffix, else jsonl.",
    )
    bom: bool = option(
        False,
        group=_OUTPUT,
        help="Begin CSV with a byte order mark, by which Excel knows UTF-8.",
    )
    resume: bool = option(False, group=_OUTPUT, help="Go on with what --output already holds.")
    summary: bool = option(
        False,
        group=_OUTPUT,
        help="Write the names found, counted over all texts, to stdout; results go to --output.",
    )
    per_document: bool = option(False, group=_OUTPUT, help="With --summary: count each text apart.")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.per_document and not self.summary:
            raise UsageError("--per-document is for --summary", hint="add --summary")
        to_stdout = self.output in (None, "-")
        if self.summary and to_stdout and (self.format or self.output):
            raise UsageError(
                "--summary is written to stdout, where results would be",
                hint="-o FILE writes the results",
            )


class Form(Protocol):
    """How results become bytes: what comes first, each result, what comes last."""

    def begin(self, *, resumed: bool) -> bytes:
        """What stands before the first result, or before the first further one."""

    def result(self, result: Result) -> bytes:
        """One result."""

    def end(self) -> bytes:
        """What closes the output: it makes whatever was written until then valid."""


def form_of(
    format_: str,
    task: Task | None,
    *,
    on_stdout: bool,
    bom: bool = False,
    counting: SummaryOptions | None = None,
) -> Form:
    """The form of a format.

    ``task`` tells the columns of CSV, ``on_stdout`` the width of a table, ``counting`` which names
    a page counts together. Raises ``UsageError`` for a format that is none, and for a byte order
    mark in any but CSV.
    """
    if bom and format_ != "csv":
        raise UsageError("--bom is for CSV", hint="add --format csv")
    match format_:
        case "table":
            from iepile_cli.extraction.view import View

            return View(on_stdout)
        case "json":
            return JsonArray()
        case "jsonl":
            return JsonLines()
        case "csv" if task is not None:
            return Csv(task, bom=bom)
        case "html":
            from iepile_cli.extraction.page import Page

            return Page(options=counting)
        case _:
            hint = f"one of {', '.join(FORMATS)}"
            raise UsageError(f"no output format is called {format_!r}", hint=hint)


class JsonLines:
    """One JSON object a line."""

    def begin(self, *, resumed: bool) -> bytes:
        """Nothing."""
        return b""

    def result(self, result: Result) -> bytes:
        """The result's object and a line end."""
        return to_line(to_json(result)) + b"\n"

    def end(self) -> bytes:
        """Nothing."""
        return b""


class InstructionLines(JsonLines):
    """Instruction records as they were read, with ``output``, one a line."""

    def result(self, result: Result) -> bytes:
        """The record with its answer, and counts of what was left out where there are any."""
        record = result.document
        assert isinstance(record, InstructionRecord)
        shown = dict(record.fields)
        for name in ("truncated", "ungrounded", "problems"):
            shown.pop(name, None)
        shown["output"] = dumps(result.answer)
        return to_line(shown | result.counts, surrogates="escape") + b"\n"


class JsonArray:
    """One JSON array, with one object a line."""

    def __init__(self) -> None:
        self._separator = b"\n"

    def begin(self, *, resumed: bool) -> bytes:
        """The opening bracket."""
        self._separator = b",\n" if resumed else b"\n"
        return b"" if resumed else b"["

    def result(self, result: Result) -> bytes:
        """The result's object, after what separates it from the one before."""
        separator, self._separator = self._separator, b",\n"
        return separator + to_line(to_json(result))

    def end(self) -> bytes:
        """The closing bracket."""
        return b"\n]\n"


class Csv:
    """One row for each item; for tasks with arguments or attributes, one for each of those.

    The columns follow from the task: where the text is from, the item's number in it and its type,
    each fixed part of the item with its place, one argument or attribute with its place, and the
    item's score. An item without arguments has one row. A cell that a spreadsheet would take for a
    formula (``=1+1``, ``@SUM(...)``) gets a ``'`` in front, as OWASP advises against CSV injection.
    With ``bom``, a byte order mark tells Excel that this is UTF-8.
    """

    _FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", *"＝＋－＠")

    def __init__(self, task: Task, *, bom: bool = False) -> None:
        self._task, self._bom = task, bom

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        task = self._task
        named = ["source", "line", "id", "task", "lang", "item", "type"]
        named += [key for key, field in task.item_keys if field.endswith("_type")]
        if is_single(task):
            return [*named, "text", "start", "end", "score"]
        for role in fixed_roles(task.shape):
            named += [role, f"{role}_start", f"{role}_end"]
        return [*named, *(("role", "text", "start", "end") if task.slots else ()), "score"]

    def begin(self, *, resumed: bool) -> bytes:
        """The names of the columns."""
        return (codecs.BOM_UTF8 if self._bom else b"") + self._row(self.columns)

    def result(self, result: Result) -> bytes:
        """The rows of a result; none when nothing was found."""
        document = result.document
        where = [document.source, document.line, document.id, result.task.name, result.language]
        return b"".join(
            self._row([*where, number, *cells])
            for number, item in enumerate(result.items, 1)
            for cells in self._cells(item)
        )

    def end(self) -> bytes:
        """Nothing."""
        return b""

    def _cells(self, item: Item) -> Iterator[list[Any]]:
        task = self._task
        first = [item.item.type, *end_types(task, item.item).values()]
        score = None if item.score is None else round(item.score, 4)
        spans = dict(reversed(item.roles))
        for role in fixed_roles(task.shape):
            first += _place(spans.get(role))
        slots = slots_of(task, item)
        if not task.slots:
            yield [*first, score]
        elif not slots:
            yield [*first, None, *_place(None), score]
        for name, span in slots:
            yield [*first, name, *_place(span), score]

    def _row(self, cells: Sequence[Any]) -> bytes:
        safe = [
            f"'{cell}" if isinstance(cell, str) and cell.startswith(self._FORMULA) else cell
            for cell in cells
        ]
        line = io.StringIO(newline="")
        # Characters of the line end are quoted inside cells: both must be, whichever Python.
        csv.writer(line, lineterminator="\r\n").writerow(safe)
        return (line.getvalue().removesuffix("\r\n") + "\n").encode("utf-8", "replace")


def _place(span: Span | None) -> list[Any]:
    return [None, None, None] if span is None else [span.text, span.start, span.end]

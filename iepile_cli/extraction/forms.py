"""Results as bytes: JSON Lines, a JSON array, or instruction records with their answers.

Tables are in ``tables.py``, the forms of other programs in ``tool_forms.py``, and what people look
at in ``terminal.py`` and ``page.py``; where the bytes go is decided in ``outputs.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from iepile_cli.conversion.options import ToolForm
from iepile_cli.errors import UsageError
from iepile_cli.extraction.instruction_records import InstructionRecord
from iepile_cli.extraction.results import Result, to_json, to_line
from iepile_cli.extraction.summary import SummaryOptions
from iepile_cli.fields import check_fields, option
from iepile_cli.formatting import plural
from iepile_cli.task import Task
from iepile_cli.task.instruction import dumps

Format = Literal["table", "json", "jsonl", "html", "csv", "tsv", "parquet", ToolForm]
FORMATS = get_args(Format)
RESUMABLE = ("json", "jsonl")
# The format that is a folder of files.
FOLDER = "brat"
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
    resume: bool = option(
        False, group=_OUTPUT, help="Continue an interrupted run: keep what --output holds."
    )
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


class LeftOut:
    """What of the results a format cannot hold, counted."""

    def __init__(self, format_: str) -> None:
        self._format, self._count, self._first = format_, 0, ""

    def __call__(self, what: str) -> None:
        """Count one more."""
        self._first = self._first or what
        self._count += 1

    @property
    def notes(self) -> list[str]:
        """What to say at the end: a line, or none."""
        if not self._count:
            return []
        parts = plural(self._count, "part")
        return [f"{parts} of the results left out that {self._format} cannot hold: {self._first}"]


class Form(ABC):
    """How results become bytes: what comes first, each result, what comes last."""

    left_out: LeftOut | None = None

    def begin(self, *, resumed: bool = False) -> bytes:
        """What stands before the first result, or before the first further one."""
        return b""

    @abstractmethod
    def result(self, result: Result) -> bytes:
        """One result."""

    def end(self) -> bytes:
        """What closes the output: it makes whatever was written until then valid."""
        return b""


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
            from iepile_cli.extraction.terminal import Terminal

            return Terminal(on_stdout)
        case "json":
            return JsonArray()
        case "jsonl":
            return Lines()
        case "html":
            from iepile_cli.extraction.page import Page

            return Page(options=counting)
        case "csv" | "tsv" | "parquet" if task is not None:
            from iepile_cli.extraction import tables

            if format_ == "parquet":
                return tables.Parquet(task)
            return tables.Csv(task, bom=bom) if format_ == "csv" else tables.Tsv(task)
        case _ if format_ in FORMATS:
            from iepile_cli.extraction.tool_forms import tool_form_of

            return tool_form_of(format_)
        case _:
            hint = f"one of {', '.join(FORMATS)}"
            raise UsageError(f"no output format is called {format_!r}", hint=hint)


def json_line(result: Result) -> bytes:
    """A result's object and a line end."""
    return to_line(to_json(result)) + b"\n"


def record_line(result: Result) -> bytes:
    """An instruction record as it was read, with its answer and counts of what was left out."""
    record = result.document
    assert isinstance(record, InstructionRecord)
    shown = dict(record.fields)
    for name in ("truncated", "ungrounded", "problems"):
        shown.pop(name, None)
    shown["output"] = dumps(result.answer)
    return to_line(shown | result.counts, surrogates="escape") + b"\n"


class Lines(Form):
    """What ``encode`` makes of each result, one after the other."""

    def __init__(
        self, encode: Callable[[Result], bytes] = json_line, left_out: LeftOut | None = None
    ) -> None:
        self._encode, self.left_out = encode, left_out

    def result(self, result: Result) -> bytes:
        """One or more lines."""
        return self._encode(result)


class JsonArray(Lines):
    """One JSON array, of the lines that ``encode`` makes."""

    _separator = b"\n"

    def begin(self, *, resumed: bool = False) -> bytes:
        """The opening bracket."""
        self._separator = b",\n" if resumed else b"\n"
        return b"" if resumed else b"["

    def result(self, result: Result) -> bytes:
        """The result's object, after what separates it from the one before."""
        separator, self._separator = self._separator, b",\n"
        return separator + self._encode(result).removesuffix(b"\n")

    def end(self) -> bytes:
        """The closing bracket."""
        return b"\n]\n"

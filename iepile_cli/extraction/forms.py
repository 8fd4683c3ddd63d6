"""Results as bytes: JSON Lines, a JSON array, or instruction records with their answers.

Tables are in ``tables.py``, the forms of other programs in ``tool_forms.py``, and what people look
at in ``view.py``; where the bytes go is decided in ``outputs.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from iepile_cli.errors import UsageError
from iepile_cli.extraction.instructions import InstructionRecord
from iepile_cli.extraction.results import Result, to_json, to_line
from iepile_cli.extraction.summary import SummaryOptions
from iepile_cli.fields import check_fields, option
from iepile_cli.task import Task
from iepile_cli.task.instruction import dumps

Format = Literal[
    "table",
    "json",
    "jsonl",
    "html",
    "csv",
    "tsv",
    "parquet",
    "conll",
    "brat",
    "spacy",
    "prodigy",
    "doccano",
    "label-studio",
    "graphml",
    "cypher",
    "turtle",
]
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


class Form(ABC):
    """How results become bytes: what comes first, each result, what comes last."""

    @property
    def notes(self) -> Sequence[str]:
        """What of the results the form could not hold, in a line for people."""
        return ()

    def begin(self, *, resumed: bool = False) -> bytes:
        """What stands before the first result, or before the first further one."""
        return b""

    @abstractmethod
    def result(self, result: Result) -> bytes:
        """One result."""

    def end(self) -> bytes:
        """What closes the output: it makes whatever was written until then valid."""
        return b""


class WithoutHeader(Form):
    """A form that goes on with another output: what that begins with is not repeated."""

    def __init__(self, form: Form) -> None:
        self._form = form

    @property
    def notes(self) -> Sequence[str]:
        """Those of the form."""
        return self._form.notes

    def result(self, result: Result) -> bytes:
        """One result, as the form has it."""
        return self._form.result(result)

    def end(self) -> bytes:
        """The end, as the form has it."""
        return self._form.end()


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
        case "html":
            from iepile_cli.extraction.page import Page

            return Page(options=counting)
        case "csv" | "tsv" | "parquet" if task is not None:
            from iepile_cli.extraction import tables

            return tables.table_of(format_, task, bom=bom)
        case _ if format_ in FORMATS:
            from iepile_cli.extraction.tool_forms import tool_form_of

            return tool_form_of(format_)
        case _:
            hint = f"one of {', '.join(FORMATS)}"
            raise UsageError(f"no output format is called {format_!r}", hint=hint)


class JsonLines(Form):
    """One JSON object a line."""

    def result(self, result: Result) -> bytes:
        """The result's object and a line end."""
        return to_line(to_json(result)) + b"\n"


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


class JsonArray(Form):
    """One JSON array, with one object a line."""

    def __init__(self) -> None:
        self._separator = b"\n"

    def begin(self, *, resumed: bool = False) -> bytes:
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

"""Results written as they are produced: JSON Lines, a JSON array, CSV, or a view for people.

Goes in: ``Result``, one at a time. Comes out: bytes in a file or on standard output, flushed
after each document, so that whatever ends a run, what it computed is there. A file that was not
there is written in place. One that was there is left alone until the run is done: the new results
grow in ``FILE.part`` beside it, which then takes its place.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from iepile_cli.errors import DataError, UsageError
from iepile_cli.extraction import resuming
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.results import Result, ends, is_single, to_json, to_line

PART = ".part"

_PLACE = "source line id task lang"
_THING = "item type subject_type object_type"
_MENTION = "role text start end score"


class Form(Protocol):
    """How results become bytes: what comes first, each result, what comes last."""

    def begin(self, *, resumed: bool) -> bytes:
        """What stands before the first result, or before the first further one."""

    def result(self, result: Result) -> bytes:
        """One result."""

    def end(self) -> bytes:
        """What closes the output: it makes whatever was written until then valid."""


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
    """One row for each mention; the mentions of one thing share its number in ``item``.

    A cell that a spreadsheet would take for a formula (``=1+1``, ``@SUM(...)``) gets a ``'`` in
    front, as OWASP advises against CSV injection; offsets and JSON are for programs.
    """

    COLUMNS = tuple(f"{_PLACE} {_THING} {_MENTION}".split())
    _FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

    def begin(self, *, resumed: bool) -> bytes:
        """The names of the columns."""
        return self._row(self.COLUMNS)

    def result(self, result: Result) -> bytes:
        """The rows of a result; none when nothing was found."""
        return b"".join(map(self._row, self._cells(result)))

    def end(self) -> bytes:
        """Nothing."""
        return b""

    def _cells(self, result: Result) -> Iterator[list[Any]]:
        document, task = result.document, result.task
        which = [document.source, document.line, document.id, task.name, result.language]
        for number, found in enumerate(result.items, 1):
            types = ends(task, found.item)
            of_type = [found.item.type, types.get("subject_type"), types.get("object_type")]
            for role, span in found.roles:
                # A single mention has no role to speak of.
                named = "" if is_single(task) else role
                score = None if span.score is None else round(span.score, 4)
                yield [*which, number, *of_type, named, span.text, span.start, span.end, score]

    def _row(self, cells: Sequence[Any]) -> bytes:
        safe = [
            f"'{cell}" if isinstance(cell, str) and cell.startswith(self._FORMULA) else cell
            for cell in cells
        ]
        line = io.StringIO(newline="")
        # Characters of the line end are quoted inside cells: both must be, whichever Python.
        csv.writer(line, lineterminator="\r\n").writerow(safe)
        return (line.getvalue().removesuffix("\r\n") + "\n").encode("utf-8", "replace")


class Writer:
    """Writes results to a file or to standard output; a context manager.

    ``path`` is where the results now are. ``done`` says which documents an earlier run, which this
    one resumes, has already written.
    """

    def __init__(self, form: Form, target: str | None, *, resume: bool = False) -> None:
        self._form = form
        self._target = target
        self._finished: set[resuming.Key] = set()
        self._written = 0
        self._new = False
        self.path: str | None = target
        if target is None:
            self._stream: BinaryIO = sys.stdout.buffer
            self._put(form.begin(resumed=False))
            return
        try:
            resumed = self._open(target, resume)
        except OSError as error:
            raise DataError(f"cannot be written: {error.strerror}", path=target) from None
        self._put(form.begin(resumed=resumed))

    def _open(self, target: str, resume: bool) -> bool:
        """Open the file to write to; gives whether there are results in it already."""
        part = target + PART
        if resume:
            self.path = part if os.path.exists(part) else target
            if os.path.exists(self.path):
                self._finished, kept = resuming.read(self.path)
                self._stream = open(self.path, "r+b")  # noqa: SIM115
                self._stream.truncate(kept)
                self._stream.seek(kept)
                return kept > 0
        # A device or a pipe (/dev/null, >(...)) is written to as it is.
        elif os.path.isfile(target) and os.path.getsize(target):
            self.path = part
        self._new = True
        self._stream = open(self.path or target, "wb")  # noqa: SIM115
        return False

    def done(self, document: Document) -> bool:
        """Whether the document's result is there already, from the run that this one resumes."""
        return document.key in self._finished

    @property
    def resumed(self) -> int:
        """How many documents were there already."""
        return len(self._finished)

    def write(self, result: Result) -> None:
        """Write one result; raises ``BrokenPipeError`` when nobody reads any more."""
        self._put(self._form.result(result))
        self._written += 1

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()

    def close(self) -> None:
        """End the output and put it in its place."""
        self._end()
        if self._target is not None and self.path != self._target:
            os.replace(str(self.path), self._target)
            self.path = self._target

    def _end(self) -> None:
        self._put(self._form.end())
        if self._target is not None:
            self._stream.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif issubclass(kind, BrokenPipeError):
            if self._target is not None:
                with contextlib.suppress(OSError):
                    self._stream.close()
        else:
            # Interrupted or failed: what there is becomes valid, and stays where it is.
            self._end()
            if self._new and not self._written and self.path and os.path.isfile(self.path):
                os.remove(self.path)


def _table(on_stdout: bool) -> Form:
    from iepile_cli.extraction.view import View

    return View(on_stdout)


# Each is told whether it goes to standard output, which may be a terminal.
FORMATS: dict[str, Callable[[bool], Form]] = {
    "table": _table,
    "json": lambda on_stdout: JsonArray(),
    "jsonl": lambda on_stdout: JsonLines(),
    "csv": lambda on_stdout: Csv(),
}
RESUMABLE = ("json", "jsonl")


def open_writer(form: str, target: str | None = None, *, resume: bool = False) -> Writer:
    """A writer of the named format to a file, or to standard output for None and ``-``.

    With ``resume``, results that the file (or its ``.part``) holds stay, a half last one is taken
    off, and ``writer.done`` names their documents. Raises ``UsageError`` for what cannot be, and
    ``DataError`` for a file that cannot be written or resumed.
    """
    if form not in FORMATS:
        raise UsageError(
            f"no output format is called {form!r}", hint=f"one of {', '.join(FORMATS)}"
        )
    target = None if target == "-" else target
    if resume and target is None:
        raise UsageError("only a file can be resumed", hint="name it with -o")
    if resume and form not in RESUMABLE:
        raise UsageError(f"{form} cannot be resumed", hint=f"formats: {', '.join(RESUMABLE)}")
    if target is not None and os.path.isdir(target):
        raise UsageError(f"{target} is a folder, not a file to write to")
    return Writer(FORMATS[form](target is None), target, resume=resume)

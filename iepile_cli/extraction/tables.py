"""Results as tables: CSV, TSV and Parquet, all with the same columns.

One row for each item; for tasks with arguments or attributes, one for each of those. The columns
follow from the task: where the text is from, the item's number in it and its type, each fixed part
of the item with its place, one argument or attribute with its place, the item's score, and the page
of its first part in documents that have pages. An item without arguments has one row.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from iepile_cli.errors import UsageError, install_hint
from iepile_cli.extraction.forms import Form
from iepile_cli.extraction.grounding import Item, Span
from iepile_cli.extraction.results import Result, end_types, slots_of
from iepile_cli.task import Task
from iepile_cli.task.shape import fixed_roles

_IDENTITY = ("source", "line", "id", "task", "lang", "item", "type")
# The columns that are not text: numbers of lines and items, places, and scores.
_NUMBERS = ("line", "item", "start", "end", "page")
_SCORE = "score"
_LAST = (_SCORE, "page")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", *"＝＋－＠")
# A row of TSV is a line, and tabs part its cells.
_NOT_IN_TSV = re.compile(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
# Rows of Parquet that are held before they are written.
_ROW_GROUP = 10_000


def columns_of(task: Task) -> list[str]:
    """The names of a task's columns."""
    named = [*_IDENTITY, *(key for key, field in task.item_keys if field.endswith("_type"))]
    if task.is_single:
        return [*named, "text", "start", "end", *_LAST]
    for role in fixed_roles(task.shape):
        named += [role, f"{role}_start", f"{role}_end"]
    return [*named, *(("role", "text", "start", "end") if task.slots else ()), *_LAST]


def rows_of(task: Task, result: Result) -> Iterator[list[Any]]:
    """The rows of a result, in the order of the columns; none when nothing was found."""
    document = result.document
    where = [document.source, document.line, document.id, result.task.name, result.language]
    for number, item in enumerate(result.items, 1):
        page = document.page(item.roles[0][1].start) if item.roles else None
        for cells in _cells(task, item):
            yield [*where, number, *cells, page]


def _cells(task: Task, item: Item) -> Iterator[list[Any]]:
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


def _place(span: Span | None) -> list[Any]:
    return [None, None, None] if span is None else [span.text, span.start, span.end]


def _safe(cells: Sequence[Any]) -> list[Any]:
    """Cells with a ``'`` before what a spreadsheet would take for a formula (``=1+1``).

    As OWASP advises against CSV injection.
    """
    return [
        f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
        for cell in cells
    ]


class Csv(Form):
    """Comma-separated values; with ``bom``, a byte order mark tells Excel that this is UTF-8."""

    def __init__(self, task: Task, *, bom: bool = False) -> None:
        self._task, self._bom = task, bom

    def begin(self, *, resumed: bool = False) -> bytes:
        """The names of the columns."""
        if resumed:
            return b""
        return (codecs.BOM_UTF8 if self._bom else b"") + self._row(columns_of(self._task))

    def result(self, result: Result) -> bytes:
        """The rows of a result."""
        return b"".join(map(self._row, rows_of(self._task, result)))

    def _row(self, cells: Sequence[Any]) -> bytes:
        line = io.StringIO(newline="")
        # Characters of the line end are quoted inside cells: both must be, whichever Python.
        csv.writer(line, lineterminator="\r\n").writerow(_safe(cells))
        return (line.getvalue().removesuffix("\r\n") + "\n").encode("utf-8", "replace")


class Tsv(Csv):
    """Tab-separated values without quoting (IANA): blanks stand for tabs and line ends in cells."""

    def _row(self, cells: Sequence[Any]) -> bytes:
        shown = ["" if cell is None else _NOT_IN_TSV.sub(" ", str(cell)) for cell in _safe(cells)]
        return ("\t".join(shown) + "\n").encode("utf-8", "replace")


class Parquet(Form):
    """A Parquet file, with numbers as numbers, written some thousand rows at a time."""

    def __init__(self, task: Task) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise UsageError(
                "pyarrow is not installed, which writes Parquet", hint=install_hint("parquet")
            ) from None
        self._task = task
        names = columns_of(task)
        kinds = {_SCORE: pyarrow.float64()} | dict.fromkeys(_NUMBERS, pyarrow.int64())
        self._schema = pyarrow.schema(
            [(name, kinds.get(name.rpartition("_")[2], pyarrow.string())) for name in names]
        )
        self._pyarrow = pyarrow
        self._sink = _Sink()
        self._file = parquet.ParquetWriter(self._sink, self._schema)
        self._rows: list[list[Any]] = []

    def begin(self, *, resumed: bool = False) -> bytes:
        """The beginning of a file."""
        return self._sink.taken()

    def result(self, result: Result) -> bytes:
        """The rows of some results, now and then."""
        self._rows += rows_of(self._task, result)
        if len(self._rows) >= _ROW_GROUP:
            self._write()
        return self._sink.taken()

    def end(self) -> bytes:
        """The last rows and the end of a file."""
        self._write()
        self._file.close()
        return self._sink.taken()

    def _write(self) -> None:
        if not self._rows:
            return
        arrays = [
            self._pyarrow.array(map(_encodable, column), field.type)
            for column, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
        ]
        self._file.write_table(self._pyarrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows = []


def _encodable(cell: Any) -> Any:
    return cell.encode("utf-8", "replace").decode() if isinstance(cell, str) else cell


class _Sink(io.RawIOBase):
    """What is written to it, to be taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._at += len(self._parts[-1])
        return len(self._parts[-1])

    def taken(self) -> bytes:
        """What was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)

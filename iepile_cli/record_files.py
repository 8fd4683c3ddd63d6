"""Records out of lines: JSON Lines, a JSON array, rows of CSV or TSV.

Goes in: numbered lines (``files.decoded_lines``). Comes out: each record, or its error, with the
number of the line where it begins. One record is held at a time; only a ``.json`` file that is
one single value is held whole.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeAlias

from iepile_cli.errors import DataError

# A JSON object or a bare string, or a row by column names.
Record: TypeAlias = Any
Lines: TypeAlias = Iterable["tuple[int, str | DataError]"]
Records: TypeAlias = Iterator["tuple[int, Record | DataError]"]

# Where the text of a record is, if nothing else is said.
TEXT_FIELD = "text"
# Tables by suffix, and what parts their columns.
TABLES = {".csv": ",", ".tsv": "\t"}

_SURROGATES = re.compile("[\ud800-\udfff]")
# The csv module refuses longer cells by default (131 072 characters); this is its C limit.
_LONGEST_CELL = 2**31 - 1


def clean(text: str) -> str:
    """The text with each lone surrogate, which no encoding can hold, made U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def text_of(record: Record, field: str) -> tuple[str, str]:
    """A record's text and its id, cleaned, empty when it has none; raises ``DataError``."""
    if isinstance(record, str):
        return clean(record), ""
    if not isinstance(record, dict):
        raise DataError("is not a JSON object", hint="one object a line, with the text in a field")
    if field not in record:
        fields = ", ".join(list(map(str, record))[:12]) or "none"
        raise DataError(f"has no field {field!r}", hint=f"--text-field names it; it has: {fields}")
    text = record[field]
    if not isinstance(text, str):
        raise DataError(f"its field {field!r} is not a text")
    identity = record.get("id")
    return clean(text), clean(str(identity)) if isinstance(identity, (str, int)) else ""


def objects(lines: Lines, *, whole: bool = False) -> Records:
    """The values of JSON Lines, blank lines left out.

    With ``whole``, for files called ``.json``: also one value over several lines, where a list
    holds the records (their numbers then count records, not lines).
    """
    lines = iter(lines)
    if whole:
        head = list(itertools.islice(lines, 2))
        lines = itertools.chain(head, lines)
        if not _holds_a_record(head):
            yield from _elements(lines)
            return
    for number, line in lines:
        if isinstance(line, DataError):
            yield number, line
        elif not line.isspace():
            yield number, _loaded(line)


def _holds_a_record(head: list[tuple[int, str | DataError]]) -> bool:
    """Whether a file's first line is a JSON object of its own: JSON Lines under another name."""
    first = head[0][1] if head else ""
    return isinstance(first, str) and isinstance(_loaded(first), dict) and len(head) > 1


def _elements(lines: Lines) -> Records:
    parts: list[str] = []
    for number, line in lines:
        if isinstance(line, DataError):
            raise DataError(line.reason, line=number, hint=line.hint)
        parts.append(line)
    text = "".join(parts)
    if not text or text.isspace():
        return
    value = _loaded(text)
    yield from enumerate(value if isinstance(value, list) else [value], 1)


def _loaded(line: str) -> Record | DataError:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return DataError(f"is not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return DataError(f"is not usable JSON: {str(error) or 'nested too deeply'}")


def rows(lines: Lines, delimiter: str, field: str) -> Records:
    """The rows of CSV or TSV as objects by the names in the first row, blank rows left out.

    A comma-separated file whose first line has more semicolons is semicolon-separated, as some
    spreadsheets write it. TSV has no quoting (IANA ``text/tab-separated-values``): a row is a line
    and a quotation mark is a character like any other. Raises ``DataError`` for a header without
    ``field``, and for a row that cannot be read: where the next one begins is then unknown.
    """
    csv.field_size_limit(_LONGEST_CELL)
    feed = _Feed(lines)
    header_line = next(feed, None)
    if header_line is None:
        return
    if delimiter == "," and header_line.count(";") > header_line.count(","):
        delimiter = ";"
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    rest = itertools.chain([header_line], feed)
    reader = csv.reader(rest, delimiter=delimiter, quoting=quoting)
    try:
        header = next(reader)
        if field not in header:
            named = ", ".join(header[:12])
            raise DataError(
                f"has no column {field!r}", line=1, hint=f"--text-field names it; it has: {named}"
            )
        while True:
            begins = feed.number + 1
            row = next(reader, None)
            if row is None:
                return
            if len(row) > header.index(field):
                yield begins, dict(zip(header, row, strict=False))
            elif row:
                yield begins, DataError(f"the row has no column {field!r}")
    except csv.Error as error:
        if "new-line character" in str(error):
            raise DataError(
                "is not readable as a table: a carriage return within a row",
                line=feed.number,
                hint="save it with lines that end in LF or CRLF",
            ) from None
        raise DataError(f"is not readable as a table: {error}", line=feed.number) from None


class _Feed:
    """Lines for the csv reader, which counts rows, not the lines they take."""

    def __init__(self, lines: Lines) -> None:
        self.number = 0
        self._lines = iter(lines)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        self.number = number
        if isinstance(line, DataError):
            raise DataError(line.reason, line=number, hint=line.hint)
        return line

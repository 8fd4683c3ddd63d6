"""Documents out of whatever a user names: texts, lines, JSON Lines, CSV, standard input.

Goes in: paths and how to read them. Comes out: a stream of ``Document``; one record is held at a
time, so files of any size can be read. What cannot be used goes to ``on_error`` as a
``DataError`` that names the file, the line and the way out, and the rest goes on.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from typing import TypeAlias

from iepile_cli.errors import DataError, IEPileError, UsageError
from iepile_cli.extraction import encodings, files, records
from iepile_cli.extraction.files import STDIN, OnError

TEXT_FIELD = "text"
# A record file whose first records are all unusable is given up: it is something else.
HOPELESS = 20

_SURROGATES = re.compile("[\ud800-\udfff]")
_TABLES = {".csv": ",", ".tsv": "\t"}
_JSON = frozenset({".jsonl", ".ndjson", ".json"})

Found: TypeAlias = "Document | IEPileError"


@dataclass(frozen=True, slots=True)
class Document:
    """One text to extract from.

    ``source`` is the file's path, or ``stdin``; ``line`` (from 1) and ``id`` say which of the
    file's texts it is, where it holds several. Offsets count characters of ``text``, in which
    line ends are as they are in the file; a byte order mark is no part of it.
    """

    source: str
    text: str
    id: str = ""
    line: int | None = None

    @property
    def key(self) -> tuple[str, str, int | None]:
        """What tells this document from the others of a run."""
        return (self.source, self.id, self.line)


def _raise(error: IEPileError) -> None:
    raise error


def read_documents(
    paths: Sequence[str],
    *,
    encoding: str | None = None,
    lines: bool = False,
    text_field: str | None = None,
    limit: int | None = None,
    pattern: str | None = None,
    exclude: Collection[str] = (),
    on_error: OnError = _raise,
) -> Iterator[Document]:
    """The documents behind the paths (files, folders, globs, ``-`` for standard input), in order.

    A file is one document, unless ``lines`` makes every line that is not blank one, or its ending
    says that it holds records (``.jsonl``, ``.ndjson``, ``.json``, ``.csv``, ``.tsv``): then each
    record's ``text_field`` is one. With ``text_field`` given, files of another ending, and
    standard input, are read as JSON Lines. Without ``encoding``, files are UTF-8, or what their
    byte order mark says. ``limit`` ends the stream after so many documents; ``pattern`` and
    ``exclude`` are those of ``files.find_files``.

    Raises ``UsageError`` at once for options that cannot be; bad input goes to ``on_error``.
    """
    if lines and text_field is not None:
        raise UsageError("a text a line has no field to choose", hint="--lines or --text-field")
    if limit is not None and limit < 0:
        raise UsageError(f"--limit {limit} is no number of documents", hint="0 or more")
    encodings.check(encoding)
    found = files.find_files(paths, on_error, pattern=pattern, exclude=exclude)
    documents = (
        document
        for path in found
        for document in _read_file(path, _reader(path, encoding, lines, text_field), on_error)
    )
    return itertools.islice(documents, limit)


Reader: TypeAlias = Callable[[BufferedReader, str], Iterable[Found]]


def _reader(path: str, encoding: str | None, lines: bool, text_field: str | None) -> Reader:
    """How to read the documents of a file: a function of its bytes and its name."""
    ending = "" if path == STDIN else files.suffix(path)
    field = text_field if text_field is not None else TEXT_FIELD
    if lines:
        return lambda stream, name: _lines(stream, name, encoding)
    if ending in _TABLES:
        cells = _TABLES[ending]
        return lambda stream, name: _records(
            records.rows(encodings.lines(stream, encoding), cells, field), name, field
        )
    if ending in _JSON or text_field is not None:
        whole = ending == ".json"
        return lambda stream, name: _records(
            records.objects(encodings.lines(stream, encoding), whole=whole), name, field
        )
    return lambda stream, name: _whole(stream, name, encoding)


def _read_file(path: str, reader: Reader, on_error: OnError) -> Iterator[Document]:
    name = files.shown(path)
    empty, failed = True, 0
    try:
        with files.opened(path) as stream:
            for found in reader(stream, name):
                if isinstance(found, Document):
                    empty = False
                    yield found
                    continue
                failed += 1
                on_error(found)
                if empty and failed == HOPELESS:
                    raise DataError(f"its first {HOPELESS} records are unusable: left", path=name)
    except DataError as error:
        on_error(
            error
            if error.path
            else DataError(error.reason, path=name, line=error.line, hint=error.hint)
        )
        return
    if empty and not failed:
        on_error(DataError("is empty: it holds no text", path=name))


def _whole(stream: BufferedReader, name: str, encoding: str | None) -> Iterator[Document]:
    text = encodings.decode(stream.read(), encoding)
    if text and not text.isspace():
        yield Document(name, clean(text))


def _lines(stream: BufferedReader, name: str, encoding: str | None) -> Iterator[Found]:
    for number, line in encodings.lines(stream, encoding):
        if isinstance(line, DataError):
            yield _placed(line, name, number)
        elif not line.isspace():
            yield Document(name, clean(line.removesuffix("\n").removesuffix("\r")), line=number)


def _records(
    found: Iterable[tuple[int, records.Record | DataError]], name: str, field: str
) -> Iterator[Found]:
    for number, record in found:
        if isinstance(record, DataError):
            yield _placed(record, name, number)
            continue
        try:
            text, identity = records.text_of(record, field)
        except DataError as error:
            yield _placed(error, name, number)
        else:
            yield Document(name, clean(text), clean(identity), number)


def _placed(error: DataError, name: str, line: int) -> DataError:
    return DataError(error.reason, path=name, line=line, hint=error.hint)


def clean(text: str) -> str:
    """The text with each lone surrogate, which no encoding can hold, made U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def is_piped() -> bool:
    """Whether standard input is something other than a terminal: a pipe or a file."""
    try:
        return not os.isatty(sys.stdin.fileno())
    except (OSError, ValueError, AttributeError):
        return sys.stdin is not None

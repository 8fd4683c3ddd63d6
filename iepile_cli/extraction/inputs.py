"""Documents from whatever a user names: files of text, documents, lines, records, tables.

Goes in: paths and how to read them. Comes out: a stream of ``Document``; one record is held at a
time, so files of any size can be read. What cannot be used goes to ``on_error`` as a
``DataError`` that names the file, the line and the way out, and the rest goes on.
"""

from __future__ import annotations

import itertools
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BufferedReader
from typing import Any, Literal, TypeAlias

from iepile_cli import arrow_files, encodings, files, record_files
from iepile_cli.encodings import guessed, stream_encoding
from iepile_cli.errors import DataError, IEPileError, OnError, UsageError, raise_error
from iepile_cli.extraction.paths import OnSkip, find_files
from iepile_cli.fields import check_fields, option
from iepile_cli.files import STDIN, display_name
from iepile_cli.record_files import TABLES, TEXT_FIELD, clean
from iepile_cli.shards import Shard, parse_shard

# A record file whose first records are all unusable is something else: it is given up.
UNUSABLE_RECORDS = 20

_JSON = frozenset({".jsonl", ".ndjson", ".json"})

# The group of the options in the help of the command line.
_INPUT = "Input"

# Hears what should be known of a file that was read, in a line that begins with its name.
OnNote: TypeAlias = Callable[[str], None]
Kind: TypeAlias = Literal[
    "text", "pdf", "docx", "pptx", "opendocument", "rtf", "epub", "html", "markdown", "eml", "msg"
]


@dataclass(frozen=True)
class InputOptions:
    """How texts are read from files; raises ``UsageError`` for values that cannot be."""

    lines: bool = option(False, group=_INPUT, help="Every line is a text.")
    text_field: str | None = option(
        None, group=_INPUT, help="The field of JSONL, CSV and TSV records that holds the text."
    )
    encoding: str | None = option(
        None,
        group=_INPUT,
        help="Encoding of the input. Default: UTF-8 or what the content tells.",
    )
    input_format: Kind | None = option(
        None,
        group=_INPUT,
        help="Kind of document; text: plain text. Default: by content and suffix.",
    )
    save_text: str | None = option(
        None,
        group=_INPUT,
        metavar="DIR",
        help="Write each text as it was read to this folder: offsets refer to it.",
    )
    limit: int | None = option(None, group=_INPUT, least=0, help="Stop after so many texts.")
    shard: str | None = option(
        None,
        group=_INPUT,
        metavar="I/N",
        help="Only part I of N of all texts, for job arrays; `cat` joins the outputs.",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.lines and self.text_field is not None:
            hint = "--lines or --text-field"
            raise UsageError("a text a line has no field to choose", hint=hint)
        if self.input_format is not None and (self.lines or self.text_field is not None):
            hint = "leave out --lines and --text-field"
            raise UsageError("--input-format is for files that are one text each", hint=hint)
        encodings.check_encoding(self.encoding)
        if self.shard is not None:
            parse_shard(self.shard)

    @property
    def part(self) -> Shard | None:
        """The part that is asked for, None for the whole."""
        return None if self.shard is None else parse_shard(self.shard)


@dataclass(frozen=True, slots=True)
class Document:
    """One text to extract from.

    ``source`` is the file's path or address, or ``stdin``; ``line`` (from 1) and ``id`` say which
    of the file's texts it is, where it holds several. Offsets count characters of ``text``, in
    which line ends of plain text are as they are in the file; a byte order mark is no part of it.
    ``pages`` are the offsets at which pages or slides begin, where it has such. Documents of one
    ``block`` are answered together (see ``blocks.py``).
    """

    source: str
    text: str
    id: str = ""
    line: int | None = None
    pages: tuple[int, ...] = ()
    block: int = field(default=0, compare=False)

    @property
    def key(self) -> Any:
        """What tells this document from the others of a run."""
        return (self.source, self.id, self.line)

    def page(self, offset: int) -> int | None:
        """The number (from 1) of the page or slide that holds a character; None without pages."""
        return bisect_right(self.pages, offset) if self.pages else None


def document_of(text: str | Document, number: int) -> Document:
    """A text, or a document as it is, as the ``number``-th (from 1) of a caller's texts."""
    return text if isinstance(text, Document) else Document("text", text, line=number)


DocumentOrError: TypeAlias = Document | IEPileError


def read_documents(
    paths: Sequence[str],
    reading: InputOptions | None = None,
    *,
    pattern: str | None = None,
    exclude: Collection[str] = (),
    on_error: OnError = raise_error,
    on_skip: OnSkip | None = None,
    on_note: OnNote | None = None,
) -> Iterator[Document]:
    """The documents that paths, folders, globs and addresses hold (``-``: stdin), in order.

    A file is one document (of PDF, office files, pages, mails, books and Markdown, the text in
    them), unless ``lines`` makes every line that is not blank one, or its suffix says that it holds
    records (``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``, ``.arrow`` ...): then each
    record's ``text_field`` is one. With ``text_field`` given, files of an unknown suffix, and
    standard input, are read as JSON Lines. The ``shard`` and ``save_text`` of ``reading`` are for
    the caller. ``pattern``, ``exclude`` and ``on_skip`` are those of ``find_files``. ``on_note``
    hears of guessed encodings and of what was not read of a document. Bad input goes to
    ``on_error``.
    """
    how = _Reading(reading or InputOptions(), on_note or (lambda note: None))
    found = find_files(paths, on_error, pattern=pattern, exclude=exclude, on_skip=on_skip)
    documents = (
        document for path in found for document in read_file(path, how.reader(path), on_error)
    )
    return itertools.islice(documents, how.options.limit)


def file_reader(
    reading: InputOptions, on_note: OnNote | None = None
) -> Callable[[str, OnError], Iterator[Document]]:
    """A function that gives the documents of one file, whatever ``limit`` and ``shard`` say."""

    def read(path: str, on_error: OnError) -> Iterator[Document]:
        whole = replace(reading, limit=None)
        return read_documents([path], whole, on_error=on_error, on_note=on_note)

    return read


# ---------------------------------------------------------------------------------- reading files

Reader: TypeAlias = Callable[[BufferedReader, str], Iterable[DocumentOrError]]


@dataclass(frozen=True)
class _Reading:
    """How files are read."""

    options: InputOptions
    on_note: OnNote

    @property
    def field(self) -> str:
        """The field of a record that holds the text."""
        return TEXT_FIELD if self.options.text_field is None else self.options.text_field

    def reader(self, path: str) -> Reader:
        """What reads the documents of a file: a function of its bytes and its name."""
        suffix = "" if path == STDIN else files.suffix(path)
        if self.options.input_format is not None:
            return lambda stream, name: self._whole(stream, name, suffix)
        if self.options.lines:
            return self._lines
        if suffix in arrow_files.SUFFIXES:
            return self._rows
        if suffix in TABLES or suffix in _JSON:
            return lambda stream, name: self._records(stream, name, suffix)
        from iepile_cli.documents import SUFFIXES

        if self.options.text_field is not None and suffix not in SUFFIXES:
            return lambda stream, name: self._records(stream, name, suffix)
        return lambda stream, name: self._whole(stream, name, suffix)

    def _whole(self, stream: BufferedReader, name: str, suffix: str) -> Iterator[Document]:
        from iepile_cli.documents import read

        how = self.options
        found = read(stream, suffix, kind=how.input_format, encoding=how.encoding)
        for note in found.notes:
            self.on_note(f"{name}: {note}")
        if found.text and not found.text.isspace():
            yield Document(name, clean(found.text), pages=found.pages)

    def _lines(self, stream: BufferedReader, name: str) -> Iterator[DocumentOrError]:
        for number, line in self._decoded_lines(stream, name):
            if isinstance(line, DataError):
                yield line.at(name, number)
            elif not line.isspace():
                yield Document(name, clean(line.removesuffix("\n").removesuffix("\r")), line=number)

    def _records(self, stream: BufferedReader, name: str, suffix: str) -> Iterator[DocumentOrError]:
        lines = self._decoded_lines(stream, name)
        records = (
            record_files.rows(lines, TABLES[suffix], self.field)
            if suffix in TABLES
            else record_files.objects(lines, whole=suffix == ".json")
        )
        return _documents(records, name, self.field)

    def _rows(self, stream: BufferedReader, name: str) -> Iterator[DocumentOrError]:
        return _documents(arrow_files.rows(stream, [self.field, "id"]), name, self.field)

    def _decoded_lines(
        self, stream: BufferedReader, name: str
    ) -> Iterator[tuple[int, str | DataError]]:
        encoding = self.options.encoding
        if encoding is None:
            encoding = stream_encoding(stream)
            if encoding is not None:
                self.on_note(f"{name}: {guessed(encoding)}")
        return encodings.decoded_lines(stream, encoding)


def read_file(
    path: str, reader: Reader, on_error: OnError, *, what: str = "text"
) -> Iterator[Document]:
    """The documents that ``reader`` makes of a file; ``what`` they are is said of an empty one.

    What goes wrong goes to ``on_error``; a file whose first records are all unusable is given up.
    """
    name = display_name(path)
    empty, failed = True, 0
    try:
        with files.open_input(path) as source:
            for found in reader(source.stream, name):
                if isinstance(found, Document):
                    empty = False
                    yield found
                    continue
                failed += 1
                on_error(found)
                if empty and failed == UNUSABLE_RECORDS:
                    raise DataError(
                        f"its first {failed} records are unusable: the rest is not read", path=name
                    )
    except DataError as error:
        on_error(error if error.path else error.at(name))
        return
    if empty and not failed:
        on_error(DataError(f"is empty: it holds no {what}", path=name))


def _documents(
    found: Iterable[tuple[int, record_files.Record | DataError]], name: str, field: str
) -> Iterator[DocumentOrError]:
    for number, record in found:
        if isinstance(record, DataError):
            yield record.at(name, number)
            continue
        try:
            text, identity = record_files.text_of(record, field)
        except DataError as error:
            yield error.at(name, number)
        else:
            yield Document(name, text, identity, number)


def is_piped() -> bool:
    """Whether standard input is something other than a terminal: a pipe or a file."""
    try:
        return not os.isatty(sys.stdin.fileno())
    except (OSError, ValueError, AttributeError):
        return sys.stdin is not None

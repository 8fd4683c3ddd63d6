"""Documents from whatever a user names: texts, lines, JSON Lines, CSV, standard input.

Goes in: paths and how to read them. Comes out: a stream of ``Document``; one record is held at a
time, so files of any size can be read. What cannot be used goes to ``on_error`` as a
``DataError`` that names the file, the line and the way out, and the rest goes on.
"""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, TypeAlias

from iepile_cli import files, record_files
from iepile_cli.errors import DataError, IEPileError, NoSuchFile, UsageError
from iepile_cli.fields import check_fields, option
from iepile_cli.files import STDIN, STDIN_NAME, display_name
from iepile_cli.record_files import TABLES, TEXT_FIELD, clean

# A record file whose first records are all unusable is something else: it is given up.
UNUSABLE_RECORDS = 20
# What is read from a folder: plain text and record files. A file or a glob may name any.
_TEXT = ".txt .text .md .markdown .rst .adoc .org .tex .log .srt .vtt .html .htm .xml .eml"
_RECORDS = ".jsonl .ndjson .json .csv .tsv"
TEXT_SUFFIXES = frozenset(f"{_TEXT} {_RECORDS}".split())

_JSON = frozenset({".jsonl", ".ndjson", ".json"})

# The group of the options in the help of the command line.
_INPUT = "Input"

OnError: TypeAlias = Callable[[IEPileError], None]
OnSkip: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class InputOptions:
    """How texts are read from files; raises ``UsageError`` for values that cannot be."""

    lines: bool = option(False, group=_INPUT, help="Every line is a text.")
    text_field: str | None = option(
        None, group=_INPUT, help="The field of JSONL, CSV and TSV records that holds the text."
    )
    encoding: str | None = option(
        None, group=_INPUT, help="Encoding of the input. Default: UTF-8, or as its BOM says."
    )
    limit: int | None = option(None, group=_INPUT, least=0, help="Stop after so many texts.")

    def __post_init__(self) -> None:
        check_fields(self)


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
    def key(self) -> Any:
        """What tells this document from the others of a run."""
        return (self.source, self.id, self.line)


Found: TypeAlias = Document | IEPileError


def raise_error(error: IEPileError) -> None:
    """The ``on_error`` of a caller that gives none."""
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
    on_error: OnError = raise_error,
    on_skip: OnSkip | None = None,
) -> Iterator[Document]:
    """The documents behind the paths (files, folders, globs, ``-`` for standard input), in order.

    A file is one document, unless ``lines`` makes every line that is not blank one, or its suffix
    says that it holds records (``.jsonl``, ``.ndjson``, ``.json``, ``.csv``, ``.tsv``): then each
    record's ``text_field`` is one. With ``text_field`` given, files of another suffix, and
    standard input, are read as JSON Lines. Without ``encoding``, files are UTF-8, or what their
    byte order mark says. ``limit`` ends the stream after so many documents; ``pattern``,
    ``exclude`` and ``on_skip`` are those of ``find_files``.

    Raises ``UsageError`` at once for options that cannot be; bad input goes to ``on_error``.
    """
    if lines and text_field is not None:
        raise UsageError("a text a line has no field to choose", hint="--lines or --text-field")
    if limit is not None and limit < 0:
        raise UsageError(f"--limit {limit} is no number of documents", hint="0 or more")
    files.check_encoding(encoding)
    found = find_files(paths, on_error, pattern=pattern, exclude=exclude, on_skip=on_skip)
    documents = (
        document
        for path in found
        for document in read_file(path, _reader(path, encoding, lines, text_field), on_error)
    )
    return itertools.islice(documents, limit)


# ---------------------------------------------------------------------------------- finding files


def find_files(
    paths: Sequence[str],
    on_error: OnError,
    *,
    pattern: str | None = None,
    exclude: Collection[str] = (),
    on_skip: OnSkip | None = None,
) -> Iterator[str]:
    """The files that the paths name, each once: folders in sorted order, globs expanded.

    From a folder come, at any depth, the files that are not hidden and either match ``pattern``
    (``*.txt``) or have the suffix of a text; ``on_skip`` is told of each other one. ``exclude``
    names files that are left out, as the output is when it is in an input folder. What is not
    there goes to ``on_error`` and the rest goes on.
    """
    left_out = {os.path.realpath(path) for path in exclude}

    def skip(path: str) -> None:
        if on_skip is not None and os.path.realpath(path) not in left_out:
            on_skip(path)

    seen: set[str] = set()
    for path in paths:
        for found in _expand(path, on_error, pattern, skip):
            if found not in seen and (found == STDIN or os.path.realpath(found) not in left_out):
                seen.add(found)
                yield found


def _expand(path: str, on_error: OnError, pattern: str | None, skip: OnSkip) -> Iterator[str]:
    if path == STDIN:
        yield path
    elif os.path.isdir(path):
        yield from _inside(path, on_error, pattern, skip)
    elif os.path.lexists(path):
        yield path
    elif glob.has_magic(path):
        # The shell leaves a glob as it is when nothing matches, or when it was quoted.
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            on_error(DataError("no file matches", path=display_name(path)))
        for match in matches:
            if os.path.isdir(match):
                if "**" not in path:
                    yield from _inside(match, on_error, pattern, skip)
            else:
                yield match
    else:
        hint = "to read standard input, write -" if path == STDIN_NAME else ""
        on_error(NoSuchFile(display_name(path), hint=hint))


def _inside(folder: str, on_error: OnError, pattern: str | None, skip: OnSkip) -> Iterator[str]:
    found = False

    def unreadable(error: OSError) -> None:
        where = display_name(error.filename or folder)
        on_error(DataError(f"cannot be read: {error.strerror}", path=where))

    for where, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = os.path.join(where, name)
            if fnmatch.fnmatch(name, pattern) if pattern else files.suffix(name) in TEXT_SUFFIXES:
                found = True
                yield path
            else:
                skip(path)
    if not found:
        wanted = f"matching {pattern}" if pattern else "ending like text (.txt, .md, .jsonl, ...)"
        hint = "" if pattern else f"name other files with a glob: '{os.path.join(folder, '*')}'"
        on_error(
            DataError(f"no file in this folder {wanted}", path=display_name(folder), hint=hint)
        )


def input_size(paths: Sequence[str], *, exclude: Collection[str] = ()) -> int | None:
    """The bytes of all inputs together; None where one of them cannot be read twice."""
    size = 0
    for path in find_files(paths, lambda error: None, exclude=exclude):
        if path == STDIN or files.is_device(path):
            return None
        with suppress(OSError):
            size += os.path.getsize(path)
    return size


# ---------------------------------------------------------------------------------- reading files

Reader: TypeAlias = Callable[[BufferedReader, str], Iterable[Found]]


def _reader(path: str, encoding: str | None, lines: bool, text_field: str | None) -> Reader:
    """How to read the documents of a file: a function of its bytes and its name."""
    suffix = "" if path == STDIN else files.suffix(path)
    field = text_field if text_field is not None else TEXT_FIELD
    if lines:
        return lambda stream, name: _lines(stream, name, encoding)
    if suffix in TABLES:
        return lambda stream, name: _records(
            record_files.rows(files.decoded_lines(stream, encoding), TABLES[suffix], field),
            name,
            field,
        )
    if suffix in _JSON or text_field is not None:
        return lambda stream, name: _records(
            record_files.objects(files.decoded_lines(stream, encoding), whole=suffix == ".json"),
            name,
            field,
        )
    return lambda stream, name: _whole(stream, name, encoding)


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
        on_error(error if error.path else placed(error, name, error.line))
        return
    if empty and not failed:
        on_error(DataError(f"is empty: it holds no {what}", path=name))


def _whole(stream: BufferedReader, name: str, encoding: str | None) -> Iterator[Document]:
    text = files.decode(stream.read(), encoding)
    if text and not text.isspace():
        yield Document(name, clean(text))


def _lines(stream: BufferedReader, name: str, encoding: str | None) -> Iterator[Found]:
    for number, line in files.decoded_lines(stream, encoding):
        if isinstance(line, DataError):
            yield placed(line, name, number)
        elif not line.isspace():
            yield Document(name, clean(line.removesuffix("\n").removesuffix("\r")), line=number)


def _records(
    found: Iterable[tuple[int, record_files.Record | DataError]], name: str, field: str
) -> Iterator[Found]:
    for number, record in found:
        if isinstance(record, DataError):
            yield placed(record, name, number)
            continue
        try:
            text, identity = record_files.text_of(record, field)
        except DataError as error:
            yield placed(error, name, number)
        else:
            yield Document(name, text, identity, number)


def placed(error: DataError, name: str, line: int | None) -> DataError:
    """The same error, with its file and line."""
    return DataError(error.reason, path=name, line=line, hint=error.hint)


def is_piped() -> bool:
    """Whether standard input is something other than a terminal: a pipe or a file."""
    try:
        return not os.isatty(sys.stdin.fileno())
    except (OSError, ValueError, AttributeError):
        return sys.stdin is not None

"""The files that a user names: paths, folders, globs, addresses and standard input.

Goes in: what stands on the command line. Comes out: the names of the files to read, in order, each
once.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import TypeAlias

from iepile_cli import files, writing
from iepile_cli.errors import DataError, NoSuchFile, OnError
from iepile_cli.files import STDIN, STDIN_NAME, display_name
from iepile_cli.remote import find_remote, is_remote, path_of

# What is read from a folder besides documents: plain text and records. A file or a glob may name
# any.
_TEXT = ".txt .text .rst .adoc .org .tex .log .srt .vtt .xml"
_RECORDS = ".jsonl .ndjson .json .csv .tsv .parquet .arrow .feather"
TEXT_SUFFIXES = frozenset(f"{_TEXT} {_RECORDS}".split())

# A byte of a document takes as long to read as so many of plain text.
_DOCUMENT_COST = 20

OnSkip: TypeAlias = Callable[[str], None]


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
    names files and folders that are left out, as the output is when it is in an input folder. What
    is not there goes to ``on_error`` and the rest goes on.
    """
    left_out = {os.path.realpath(path) for path in exclude}

    def is_left_out(path: str) -> bool:
        real = os.path.realpath(path)
        return real in left_out or any(real.startswith(one + os.sep) for one in left_out)

    def skip(path: str) -> None:
        if on_skip is not None and not is_left_out(path):
            on_skip(path)

    seen: set[str] = set()
    for path in paths:
        for found in _expand(path, on_error, pattern, skip):
            # "a.txt" and "./a.txt" are one file; "link/../a.txt" may be another.
            name = found
            if found != STDIN and "://" not in found:
                folder, own = os.path.split(found)
                name = os.path.join(os.path.realpath(folder), own)
            if name not in seen and (found == STDIN or not is_left_out(found)):
                seen.add(name)
                yield found


def _expand(path: str, on_error: OnError, pattern: str | None, skip: OnSkip) -> Iterator[str]:
    if path == STDIN:
        yield path
    elif is_remote(path):
        yield from _elsewhere(path, on_error, pattern, skip)
    elif os.path.isdir(path):
        yield from _inside(path, on_error, pattern, skip)
    elif os.path.lexists(path):
        yield path
    elif glob.has_magic(path):
        # The shell leaves a glob as it is when nothing matches, or when it was quoted.
        # Each further "**/" names the same files, in many times the time.
        matches = sorted(glob.glob(re.sub(r"(\*\*/)+", "**/", path), recursive=True))
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


def _elsewhere(address: str, on_error: OnError, pattern: str | None, skip: OnSkip) -> Iterator[str]:
    try:
        names = find_remote(address)
    except DataError as error:
        on_error(error)
        return
    if not names:
        on_error(DataError("no file is there", path=address))
    for name in names:
        if name == address or _is_wanted(path_of(name), pattern):
            yield name
        else:
            skip(name)


def _is_wanted(path: str, pattern: str | None) -> bool:
    """Whether a file of a folder is read: by its name's pattern, else by its suffix."""
    if pattern:
        return fnmatch.fnmatch(os.path.basename(path), pattern)
    from iepile_cli.documents import SUFFIXES

    ending = files.suffix(path)
    return ending in TEXT_SUFFIXES or ending in SUFFIXES


def _inside(folder: str, on_error: OnError, pattern: str | None, skip: OnSkip) -> Iterator[str]:
    found = False

    def unreadable(error: OSError) -> None:
        where = display_name(error.filename or folder)
        on_error(DataError(f"cannot be read: {error.strerror}", path=where))

    for where, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = os.path.join(where, name)
            if _is_wanted(name, pattern):
                found = True
                yield path
            else:
                skip(path)
    if not found:
        wanted = (
            f"matching {pattern}" if pattern else "of a kind that is read (.txt, .pdf, .jsonl, ...)"
        )
        hint = "" if pattern else f"name other files with a glob: '{os.path.join(folder, '*')}'"
        on_error(
            DataError(f"no file in this folder {wanted}", path=display_name(folder), hint=hint)
        )


def reading_cost(paths: Sequence[str], *, exclude: Collection[str] = ()) -> int | None:
    """What it costs to read all inputs, in bytes of plain text that would take as long.

    None where one of them cannot be read twice.
    """
    from iepile_cli.documents import SUFFIXES

    size = 0
    for path in find_files(paths, lambda error: None, exclude=exclude):
        if path == STDIN or is_remote(path) or writing.is_device(path):
            return None
        with suppress(OSError):
            factor = _DOCUMENT_COST if files.suffix(path) in SUFFIXES else 1
            size += os.path.getsize(path) * factor
    return size

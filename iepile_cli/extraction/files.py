"""Finding and opening what a user names: files, folders, globs, standard input.

Goes in: a path as it stands on the command line. Comes out: the files behind it, or a byte stream
that is already decompressed. What a file's bytes mean is decided in ``inputs.py``.
"""

from __future__ import annotations

import bz2
import fnmatch
import glob
import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from iepile_cli.errors import DataError, IEPileError

STDIN = "-"
STDIN_NAME = "stdin"

# What is taken out of a folder: plain text and record files. Naming a file itself, or a glob,
# takes any.
_TEXT = ".txt .text .md .markdown .rst .adoc .org .tex .log .srt .vtt .html .htm .xml .eml"
_RECORDS = ".jsonl .ndjson .json .csv .tsv"
TEXT_SUFFIXES = frozenset(f"{_TEXT} {_RECORDS}".split())
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")

OnError = Callable[[IEPileError], None]


def suffix(path: str) -> str:
    """The lower-case ending that tells a file's form, a compression's ending left aside."""
    name = path.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return os.path.splitext(name)[1]


def shown(path: str) -> str:
    """A path as it is named in results and messages: always encodable."""
    return os.fsencode(path).decode("utf-8", "replace") if path != STDIN else STDIN_NAME


def find_files(
    paths: Sequence[str],
    on_error: OnError,
    *,
    pattern: str | None = None,
    exclude: Collection[str] = (),
) -> Iterator[str]:
    """The files that the paths name, each once: folders in sorted order, globs expanded.

    From a folder come, at any depth, the files that are not hidden and either match ``pattern``
    (``*.txt``) or end like text. ``exclude`` names files that are left out, as the output is when
    it lies among the inputs. What is not there goes to ``on_error`` and the rest goes on.
    """
    left_out = {os.path.realpath(path) for path in exclude}
    seen: set[str] = set()
    for path in paths:
        for found in _expand(path, on_error, pattern):
            if found not in seen and (found == STDIN or os.path.realpath(found) not in left_out):
                seen.add(found)
                yield found


def _expand(path: str, on_error: OnError, pattern: str | None) -> Iterator[str]:
    if path == STDIN:
        yield path
    elif os.path.isdir(path):
        yield from _inside(path, on_error, pattern)
    elif os.path.lexists(path):
        yield path
    elif glob.has_magic(path):
        # The shell leaves a glob as it is when nothing matches, or when it was quoted.
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            on_error(DataError("no file matches", path=shown(path)))
        for match in matches:
            if os.path.isdir(match):
                if "**" not in path:
                    yield from _inside(match, on_error, pattern)
            else:
                yield match
    else:
        hint = "to read standard input, write -" if path == STDIN_NAME else ""
        on_error(DataError("no such file or folder", path=shown(path), hint=hint))


def _inside(folder: str, on_error: OnError, pattern: str | None) -> Iterator[str]:
    found = False

    def unreadable(error: OSError) -> None:
        where = shown(error.filename or folder)
        on_error(DataError(f"cannot be read: {error.strerror}", path=where))

    for where, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            fits = fnmatch.fnmatch(name, pattern) if pattern else suffix(name) in TEXT_SUFFIXES
            if fits and not name.startswith("."):
                found = True
                yield os.path.join(where, name)
    if not found:
        wanted = f"matching {pattern}" if pattern else "ending like text (.txt, .md, .jsonl, ...)"
        hint = "" if pattern else f"name other files with a glob: '{os.path.join(folder, '*')}'"
        on_error(DataError(f"no file in this folder {wanted}", path=shown(folder), hint=hint))


@contextmanager
def opened(path: str) -> Iterator[io.BufferedReader]:
    """Open a file, or standard input for ``-``, for reading bytes; gz, zst, bz2, xz are unpacked.

    What goes wrong while it is open is raised as ``DataError`` naming the file.
    """
    with ExitStack() as stack:
        try:
            raw = _standard_input() if path == STDIN else stack.enter_context(open(path, "rb"))
            yield _unpacked(raw)
        except BrokenPipeError:
            raise
        except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
            raise DataError(f"its compression is damaged: {error}", path=shown(path)) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(f"cannot be read: {reason}", path=shown(path)) from None


def _unpacked(raw: io.BufferedReader) -> io.BufferedReader:
    """The stream, decompressed when it begins like a compressed one."""
    head = raw.peek(6)[:6]
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return io.BufferedReader(_Zstandard(raw))
    for magic, unpack in _UNPACK.items():
        if head.startswith(magic):
            return io.BufferedReader(unpack(raw))
    return raw


_UNPACK: dict[bytes, Callable[[io.BufferedReader], io.RawIOBase]] = {
    b"\x1f\x8b": lambda raw: cast(io.RawIOBase, gzip.GzipFile(fileobj=raw)),
    b"BZh": lambda raw: cast(io.RawIOBase, bz2.BZ2File(raw)),
    b"\xfd7zXZ": lambda raw: cast(io.RawIOBase, lzma.LZMAFile(raw)),  # noqa: SIM115
}


class _Zstandard(io.RawIOBase):
    """A zstd stream as a raw stream; damage is an ``EOFError``, as in the standard library."""

    def __init__(self, raw: io.BufferedReader) -> None:
        import zstandard

        self._failure = zstandard.ZstdError
        self._reader = zstandard.ZstdDecompressor().stream_reader(
            raw, read_across_frames=True, closefd=False
        )

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with decompressed bytes."""
        try:
            return self._reader.readinto(buffer)
        except self._failure as error:
            raise EOFError(str(error)) from None


def _standard_input() -> io.BufferedReader:
    raw = sys.stdin.buffer
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast(Any, raw))

"""Opening files, addresses and standard input by content: decompressed, bounded, decoded.

A path is as a user wrote it; ``-`` and ``None`` are standard input. What bytes mean as text is
decided in ``encodings``, how files are written in ``writing``.
"""

from __future__ import annotations

import bz2
import codecs
import errno
import gzip
import io
import lzma
import math
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

from iepile_cli.encodings import SNIFFED, UTF8, decode, text_encoding, undecodable
from iepile_cli.errors import DataError, NoSuchFile, UsageError
from iepile_cli.remote import is_remote, open_remote, path_of

STDIN = "-"
STDIN_NAME = "stdin"
COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
# A compressed file may hold this many times its own size, or this many bytes if that is more:
# text rarely packs below a fortieth, and a bomb packs a thousandfold. The variable sets another
# bound in bytes, or none.
MAX_RATIO = 200
MAX_DECOMPRESSED = 1 << 30
MAX_DECOMPRESSED_VARIABLE = "IEPILE_MAX_DECOMPRESSED"
_NO_BOUND = "off"
# What writing fails with, and never reading.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# So much of a file can be looked at before it is read.
_BUFFER = 1 << 18

StrPath = str | os.PathLike[str]


def suffix(path: StrPath) -> str:
    """The lower-case suffix that tells a file's format; a compression suffix is left aside."""
    name = os.fspath(path).lower()
    name = path_of(name) if is_remote(name) else name
    for ending in COMPRESSED_SUFFIXES:
        name = name.removesuffix(ending)
    return os.path.splitext(name)[1]


def display_name(path: StrPath | None) -> str:
    """A path as results and messages name it: always encodable, ``stdin`` for ``-`` and None."""
    if path is None or path == STDIN:
        return STDIN_NAME
    return os.fsencode(path).decode("utf-8", "replace")


class Input(NamedTuple):
    """An open input: its decompressed bytes, its size on disk (0: unknown), bytes read of that."""

    stream: io.BufferedReader
    size: int
    tell: Callable[[], int]


@contextmanager
def open_input(path: StrPath | None, *, max_decompressed: int | None = None) -> Iterator[Input]:
    """Open a file, or stdin for ``-`` and None, as bytes; gz, zst, bz2 and xz are decompressed.

    An address (``https://``, ``s3://`` ...) is a file elsewhere, which is copied first.
    The compression is recognised by content. What a compressed file may hold is bounded by
    ``max_decompressed`` bytes; None takes the user's bound, else ``MAX_DECOMPRESSED`` or
    ``MAX_RATIO`` times the size of the file. Raises ``DataError`` naming the file for anything
    that goes wrong while it is open, ``UsageError`` for a user's bound that is none.
    """
    user_bound = _user_bound() if max_decompressed is None else max_decompressed
    with ExitStack() as stack:
        try:
            if path is None or path == STDIN:
                raw, size = _standard_input(), 0
            elif is_remote(path):
                raw, size = stack.enter_context(open_remote(os.fspath(path))), 0
            else:
                raw = stack.enter_context(io.BufferedReader(io.FileIO(path), _BUFFER))
                facts = os.fstat(raw.fileno())
                size = facts.st_size if stat.S_ISREG(facts.st_mode) else 0
            tell = raw.tell if size else lambda: 0
            bound = max(MAX_DECOMPRESSED, MAX_RATIO * size) if user_bound is None else user_bound
            yield Input(_decompressed(raw, bound), size, tell)
        except BrokenPipeError:
            raise
        except DataError as error:
            if error.path or not is_remote(path):
                raise
            raise error.at(display_name(path)) from None
        except _TooLarge as error:
            raise DataError(
                f"holds more than {error.bound:,} bytes when decompressed",
                path=display_name(path),
                hint=f"if it is no bomb, set {MAX_DECOMPRESSED_VARIABLE} in the environment to "
                f"more bytes, or to {_NO_BOUND}"
                if max_decompressed is None
                else "",
            ) from None
        except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
            raise DataError(
                f"its compression is damaged: {error}", path=display_name(path)
            ) from None
        except OSError as error:
            if error.errno in NO_SPACE:
                # Of what is written meanwhile.
                raise
            # Without a file's name it is of what happens meanwhile, such as a missing /tmp.
            if isinstance(error, FileNotFoundError) and error.filename and path is not None:
                raise NoSuchFile(display_name(path)) from None
            reason = error.strerror or str(error)
            raise DataError(f"cannot be read: {reason}", path=display_name(path)) from None


def read_bytes(path: StrPath | None, *, max_decompressed: int | None = None) -> bytes:
    """The whole content of a file or stdin, decompressed; raises as ``open_input`` does."""
    with open_input(path, max_decompressed=max_decompressed) as source:
        return source.stream.read()


def read_text(path: StrPath | None, encoding: str | None = None) -> str:
    """The whole text of a file or stdin, decompressed and decoded; raises ``DataError``."""
    data = read_bytes(path)
    try:
        return decode(data, encoding)
    except DataError as error:
        raise error.at(display_name(path)) from None


def _user_bound() -> float | None:
    """The bound that the environment sets, in bytes; None where it sets none."""
    given = os.environ.get(MAX_DECOMPRESSED_VARIABLE, "").strip()
    if not given:
        return None
    if given.lower() == _NO_BOUND:
        return math.inf
    if not (given.isascii() and given.isdigit()):
        raise UsageError(
            f"{MAX_DECOMPRESSED_VARIABLE} is {given!r}",
            hint=f"write a number of bytes, e.g. {20 * 10**9}, or {_NO_BOUND}",
        )
    return int(given)


class _TooLarge(Exception):
    def __init__(self, bound: float) -> None:
        self.bound = bound


def _decompressed(raw: io.BufferedReader, bound: float) -> io.BufferedReader:
    head = raw.peek(6)[:6]
    for magic, decompress in _DECOMPRESSORS.items():
        if head.startswith(magic):
            return io.BufferedReader(_Blocks(_bounded(decompress(raw), bound)), _BUFFER)
    return raw


def _bounded(blocks: Iterable[bytes], bound: float) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > bound:
            raise _TooLarge(bound)
        yield block


def _zstandard(raw: io.BufferedReader) -> Iterator[bytes]:
    """A zstd stream; damage, or an end in the middle of a frame, is an ``EOFError``."""
    import zstandard

    frame: Any = None
    while packed := (frame.unused_data if frame and frame.eof else b"") or raw.read1(1 << 16):
        if frame is None or frame.eof:
            frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            yield frame.decompress(packed)
        except zstandard.ZstdError as error:
            raise EOFError(str(error)) from None
    if frame and not frame.eof:
        raise EOFError("it ends too early")


def _blocks(stream: Any) -> Iterator[bytes]:
    return iter(lambda: stream.read1(_BUFFER), b"")


_DECOMPRESSORS: dict[bytes, Callable[[io.BufferedReader], Iterator[bytes]]] = {
    b"\x28\xb5\x2f\xfd": _zstandard,
    b"\x1f\x8b": lambda raw: _blocks(gzip.GzipFile(fileobj=raw)),
    b"BZh": lambda raw: _blocks(bz2.BZ2File(raw)),
    b"\xfd7zXZ": lambda raw: _blocks(lzma.LZMAFile(raw)),  # noqa: SIM115
}


class _Blocks(io.RawIOBase):
    """A stream of bytes that come in blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._left = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = memoryview(block)
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def _standard_input() -> io.BufferedReader:
    if sys.stdin is None:
        raise DataError("is closed", path=STDIN_NAME)
    raw = sys.stdin.buffer
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast(Any, raw))


def utf8_stream(stream: io.BufferedReader) -> io.BufferedReader:
    """The bytes of a stream as UTF-8 without a byte order mark; marked UTF-16 and 32 are recoded.

    Raises ``DataError``, without a path, for what is no text by how it begins.
    """
    head = stream.peek(SNIFFED)[:SNIFFED]
    try:
        encoding = text_encoding(head)
    except DataError as error:
        # Where this is called, no option names an encoding.
        odd = "--encoding" in (error.hint or "")
        hint = "recode UTF-16 text to UTF-8" if odd else error.hint
        raise DataError(error.reason, hint=hint) from None
    if encoding == "utf-8-sig":
        stream.read(len(codecs.BOM_UTF8))
    elif encoding != UTF8:
        return io.BufferedReader(_Blocks(_recoded(stream, encoding)))
    return stream


def _recoded(stream: io.BufferedReader, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    final = False
    while not final:
        block = stream.read(SNIFFED)
        final = not block
        try:
            yield decoder.decode(block, final).encode()
        except UnicodeError as error:
            raise undecodable(error, encoding, b"") from None

"""Files and standard streams: opening by content, decoding, atomic writing, overwrite checks.

The only home of these in the package. Goes in: a path as a user wrote it, ``-`` or ``None`` for a
standard stream. Comes out: bytes or text that are already decompressed and decoded, or a file
that appears under its name only when it is complete. What the content means is decided elsewhere.
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
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

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
UTF8 = "utf-8"

# What writing fails with, and never reading.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

StrPath = str | os.PathLike[str]

# Longest first: UTF-32's little-endian mark begins with UTF-16's.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SNIFFED = 8192
# So much of a file can be looked at before it is read.
_BUFFER = 1 << 18
# What people point text tools at, by how it begins.
_NOT_TEXT = (
    (b"%PDF", "is a PDF", "make text of it first, e.g. with pdftotext"),
    (b"PK\x03\x04", "is a zip archive or an office document", "save it as plain text first"),
    (b"\xd0\xcf\x11\xe0", "is an office document", "save it as plain text first"),
    (b"SQLite format 3", "is a database", "export its texts as JSON Lines or CSV first"),
    (b"GGUF", "is a model", "a model is named with --model"),
)


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


# ---------------------------------------------------------------------------------------- reading


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
            raise DataError(error.reason, path=display_name(path), hint=error.hint) from None
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
            if error.errno in _NO_SPACE:
                # Of what is written meanwhile.
                raise
            if isinstance(error, FileNotFoundError) and path is not None:
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
        raise DataError(error.reason, path=display_name(path), hint=error.hint) from None


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


def _decompressed(raw: io.BufferedReader, bound: float) -> io.BufferedReader:
    head = raw.peek(6)[:6]
    for magic, decompress in _DECOMPRESSORS.items():
        if head.startswith(magic):
            return io.BufferedReader(_Bounded(decompress(raw), bound), _BUFFER)
    return raw


class _TooLarge(Exception):
    def __init__(self, bound: float) -> None:
        self.bound = bound


class _Bounded(io.RawIOBase):
    """A decompressed stream that ends with an error after ``bound`` bytes."""

    def __init__(self, stream: Any, bound: float) -> None:
        self._stream, self._bound, self._read = stream, bound, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = int(self._stream.readinto(buffer) or 0)
        self._read += count
        if self._read > self._bound:
            raise _TooLarge(self._bound)
        return count


class _Zstandard:
    """A zstd stream; damage, or an end in the middle of a frame, is an ``EOFError``."""

    def __init__(self, raw: io.BufferedReader) -> None:
        import zstandard

        self._library, self._raw = zstandard, raw
        self._frame: Any = None
        self._held = memoryview(b"")

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; 0 at the end."""
        while not self._held:
            if not self._more():
                return 0
        count = min(len(buffer), len(self._held))
        buffer[:count] = self._held[:count]
        self._held = self._held[count:]
        return count

    def _more(self) -> bool:
        """Decompress a little more; False at the end of the stream."""
        # What follows a frame in the block it ended in is the beginning of the next one.
        left = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
        packed = left or self._raw.read1(1 << 16)
        if not packed:
            if self._frame is not None and not self._frame.eof:
                raise EOFError("it ends too early")
            return False
        if self._frame is None or self._frame.eof:
            self._frame = self._library.ZstdDecompressor().decompressobj()
        try:
            self._held = memoryview(self._frame.decompress(packed))
        except self._library.ZstdError as error:
            raise EOFError(str(error)) from None
        return True


_DECOMPRESSORS: dict[bytes, Callable[[io.BufferedReader], Any]] = {
    b"\x28\xb5\x2f\xfd": _Zstandard,
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


def _standard_input() -> io.BufferedReader:
    raw = sys.stdin.buffer
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast(Any, raw))


# --------------------------------------------------------------------------------------- decoding


def check_encoding(encoding: str | None) -> None:
    """Raise ``UsageError`` for a name that is no text encoding."""
    if encoding is None:
        return
    try:
        " ".encode(encoding)
    except (LookupError, ValueError, TypeError):
        raise UsageError(
            f"no text encoding is called {encoding!r}", hint="e.g. utf-8, cp1252, gb18030"
        ) from None


def decode(data: bytes, encoding: str | None = None) -> str:
    """The text that the bytes hold: UTF-8, what a byte order mark says, or ``encoding``.

    Nothing is decoded approximately; raises ``DataError``.
    """
    name = text_encoding(data, encoding)
    mark = len(codecs.BOM_UTF8) if name == "utf-8-sig" else 0
    try:
        return data[mark:].decode(UTF8 if mark else name)
    except UnicodeError as error:
        raise _undecodable(error, name, data, mark) from None


def decoded_lines(
    stream: io.BufferedReader, encoding: str | None = None
) -> Iterator[tuple[int, str | DataError]]:
    """The lines of a stream with their numbers from 1, line feeds kept.

    In UTF-8, a line that does not decode is given as its error and the rest goes on; in other
    encodings, and for what is no text at all, ``DataError`` is raised and ends the stream.
    """
    name = text_encoding(stream.peek(_SNIFFED)[:_SNIFFED], encoding)
    if not name.startswith(UTF8):
        yield from _wrapped_lines(stream, name)
        return
    for number, raw in enumerate(stream, 1):
        if number == 1 and name == "utf-8-sig":
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            yield number, raw.decode(UTF8)
        except UnicodeDecodeError as error:
            yield number, _undecodable(error, name, raw)


def _wrapped_lines(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, str | DataError]]:
    wrapped = io.TextIOWrapper(stream, encoding=name, newline="\n")
    number = 0
    try:
        for number, line in enumerate(wrapped, 1):
            yield number, line
    except UnicodeError as error:
        failed = _undecodable(error, name, b"")
        # A decoder works in blocks: neither the line nor the byte it counts is the file's.
        raise DataError(f"is not {name} after line {number}", hint=failed.hint) from None
    finally:
        # Whoever stops in the middle may have closed the file before.
        with suppress(ValueError):
            wrapped.detach()


def utf8_stream(stream: io.BufferedReader) -> io.BufferedReader:
    """The bytes of a stream as UTF-8 without a byte order mark; marked UTF-16 and 32 are recoded.

    Raises ``DataError``, without a path, for what is no text by how it begins.
    """
    head = stream.peek(_SNIFFED)[:_SNIFFED]
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
        return io.BufferedReader(_Recoded(stream, encoding))
    return stream


class _Recoded(io.RawIOBase):
    """A stream in another encoding, as UTF-8."""

    def __init__(self, stream: io.BufferedReader, encoding: str) -> None:
        self._stream, self._name, self._held = stream, encoding, b""
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            block = self._stream.read(_SNIFFED)
            try:
                self._held = self._decoder.decode(block, final=not block).encode()
            except UnicodeError as error:
                raise _undecodable(error, self._name, b"") from None
            if not block:
                break
        count = min(len(buffer), len(self._held))
        buffer[:count], self._held = self._held[:count], self._held[count:]
        return count


def decode_json(data: bytes | str) -> Any:
    """The value of a JSON text, by the one rule of the package: RFC 8259 in valid Unicode.

    ``NaN``, ``Infinity`` and lone surrogates (``"\\ud800"``) are refused, as no other program
    need read them. Raises ``DataError``, without a path.
    """
    import orjson

    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}") from None


def text_encoding(head: bytes, encoding: str | None = None) -> str:
    """The encoding of bytes that begin with ``head``; raises ``DataError`` for what is no text."""
    for magic, what, hint in _NOT_TEXT:
        if head.startswith(magic):
            raise DataError(f"{what}, not text", hint=hint)
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
    wide = encoding is not None and codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    if b"\0" in head and not wide and not (marked or "").startswith(("utf-16", "utf-32")):
        raise DataError("is a binary file, not text", hint="for UTF-16 text: --encoding utf-16")
    if encoding is None:
        return marked or UTF8
    # A mark that agrees with the encoding named is no part of the text.
    if marked and codecs.lookup(encoding).name == marked.removesuffix("-sig"):
        return marked
    return encoding


def _undecodable(error: UnicodeError, encoding: str, data: bytes, before: int = 0) -> DataError:
    where = f" at byte {before + error.start}" if isinstance(error, UnicodeDecodeError) else ""
    named = "UTF-8" if encoding.startswith(UTF8) else encoding
    return DataError(
        f"is not {named}{where}",
        hint="if it is text in another encoding, name it, e.g. --encoding "
        + _likely_encoding(data, encoding),
    )


# Bytes that Windows-1252 uses for quotes, dashes and the euro sign, and Latin-1 for controls.
_WINDOWS_ONLY = frozenset(range(0x80, 0xA0))


def _likely_encoding(data: bytes, tried: str) -> str:
    """The encoding to try next: Latin-1 would read anything, and garble Windows' quotes."""
    if not tried.startswith(UTF8):
        return "utf-8"
    try:
        data.decode("gb18030")
        many = sum(byte >= 0x80 for byte in data) * 3 > len(data)
    except UnicodeDecodeError:
        many = False
    return "gb18030" if many else "cp1252"


# ---------------------------------------------------------------------------------------- writing


def is_same_file(one: StrPath, other: StrPath) -> bool:
    """Whether two paths lead to one file: by name, symbolic link or hard link."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def refuse_overwriting(outputs: Iterable[StrPath | None], inputs: Iterable[StrPath | None]) -> None:
    """Raise ``UsageError`` when an output is one of the inputs, however it is named.

    Standard streams, pipes and devices are left aside. An output folder that is an input folder
    is refused too; a file inside an input folder is not.
    """
    read = [path for path in inputs if path is not None and path != STDIN]
    for output in outputs:
        if output is None or output == STDIN or is_device(output):
            continue
        for path in read:
            if is_same_file(output, path):
                raise UsageError(
                    f"{display_name(output)} would overwrite what is read from it",
                    hint="name another output",
                )


def is_device(path: StrPath) -> bool:
    """Whether a path is there and is neither a file nor a folder: a pipe, a terminal, a device."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


@contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends without an error.

    A symbolic link stays one: its target is replaced. Permissions of a file that is replaced are
    kept. Missing folders are made. On an error the temporary file is removed and what was there
    stays. For a pipe or a device, the path itself is given. Raises ``DataError``.
    """
    if is_device(path):
        yield Path(path)
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise DataError("is a folder", path=display_name(path), hint="name a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
        os.close(handle)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", path=display_name(path)) from None
    partial = Path(name)
    try:
        yield partial
        # A temporary file is private; the finished one is as open as the user's files are.
        with suppress(OSError):
            os.chmod(partial, _mode(target))
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def open_alone(path: StrPath, *, keep: bool = False) -> IO[bytes]:
    """Open a file to write to, unbuffered, as long as no other run of this program writes to it.

    What it holds stays with ``keep``. A pipe or a device is opened as it is. Raises ``UsageError``
    where another run has it open, and ``OSError``.
    """
    if is_device(path):
        return open(path, "wb", buffering=0)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    stream = open(handle, "wb", buffering=0)  # noqa: SIM115
    try:
        lock(stream, path)
        if not keep:
            stream.truncate(0)
    except BaseException:
        stream.close()
        raise
    return stream


def lock(stream: IO[bytes], path: StrPath) -> None:
    """Keep other runs from writing to an open file until it is closed, where the platform can.

    Raises ``UsageError`` where another run has done so.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"{display_name(path)} is being written by another run",
            hint="wait for it, or name another -o",
        ) from None
    except OSError:
        # A file system without locks.
        return


@contextmanager
def naming_what_is_full(path: StrPath) -> Iterator[None]:
    """Raise ``DataError`` with the path where a disk is full, or a file at its limit."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise DataError(f"cannot be written: {error.strerror}", path=display_name(path)) from None


@contextmanager
def atomic_write(path: StrPath | None) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` when the block ends without an error.

    ``-`` and None are stdout. A path that ends in ``.gz`` or ``.zst`` is compressed, with the same
    bytes for the same content. As ``atomic_path`` otherwise.
    """
    if path is None or path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with naming_what_is_full(path), atomic_path(path) as partial:
        try:
            opened = partial.open("wb")
        except OSError as error:
            raise DataError(
                f"cannot be written: {error.strerror}", path=display_name(path)
            ) from None
        with opened as raw, _packed(raw, os.fspath(path).lower()) as file:
            yield file


def write_atomic(path: StrPath, content: str | bytes) -> None:
    """Write a whole file, atomically; what UTF-8 cannot hold in a string is escaped."""
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with atomic_write(path) as file:
        file.write(data)


@contextmanager
def atomic_folder(path: StrPath) -> Iterator[Path]:
    """A hidden folder beside ``path`` that takes its name, and the place of what was there.

    Removed when the block ends with an error; what was there then stays. Raises ``DataError``.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", path=display_name(path)) from None
    try:
        yield partial
        os.chmod(partial, 0o777 & ~_umask())
        replaced = Path(f"{partial}.old")
        if target.exists():
            os.replace(target, replaced)
        os.replace(partial, target)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _packed(raw: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    if name.endswith(".gz"):
        # No time and no name in the header: the same content gives the same bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as file:
            yield cast(IO[bytes], file)
    elif name.endswith(".zst"):
        import zstandard

        with zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False) as packed:
            yield cast(IO[bytes], packed)
    else:
        yield raw


def _mode(target: Path) -> int:
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except OSError:
        return 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

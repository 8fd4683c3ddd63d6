"""From bytes to text and to JSON values: by byte order mark, by name, as UTF-8, or as it seems.

Raises ``DataError`` without a path for what does not decode.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from iepile_cli.errors import DataError, UsageError

UTF8 = "utf-8"

# Longest first: UTF-32's little-endian mark begins with UTF-16's.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# So much of a stream tells its encoding.
SNIFFED = 8192
# What people point text tools at, by how it begins.
_NOT_TEXT = (
    (b"%PDF", "is a PDF", "make text of it first, e.g. with pdftotext"),
    (b"PK\x03\x04", "is a zip archive or an office document", "save it as plain text first"),
    (b"\xd0\xcf\x11\xe0", "is an office document", "save it as plain text first"),
    (b"SQLite format 3", "is a database", "export its texts as JSON Lines or CSV first"),
    (b"GGUF", "is a model", "a model is named with --model"),
)


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
        raise undecodable(error, name, data, mark) from None


def decoded_lines(
    stream: io.BufferedReader, encoding: str | None = None
) -> Iterator[tuple[int, str | DataError]]:
    """The lines of a stream with their numbers from 1, line feeds kept.

    In UTF-8, a line that does not decode is given as its error and the rest goes on; in other
    encodings, and for what is no text at all, ``DataError`` is raised and ends the stream.
    """
    name = text_encoding(stream.peek(SNIFFED)[:SNIFFED], encoding)
    if not name.startswith(UTF8):
        yield from _wrapped_lines(stream, name)
        return
    for number, raw in enumerate(stream, 1):
        if number == 1 and name == "utf-8-sig":
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            yield number, raw.decode(UTF8)
        except UnicodeDecodeError as error:
            yield number, undecodable(error, name, raw)


def _wrapped_lines(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, str | DataError]]:
    wrapped = io.TextIOWrapper(stream, encoding=name, newline="\n")
    number = 0
    try:
        for number, line in enumerate(wrapped, 1):
            yield number, line
    except UnicodeError as error:
        failed = undecodable(error, name, b"")
        # A decoder works in blocks: neither the line nor the byte it counts is the file's.
        raise DataError(f"is not {name} after line {number}", hint=failed.hint) from None
    finally:
        # Whoever stops in the middle may have closed the file before.
        with suppress(ValueError):
            wrapped.detach()


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


def undecodable(error: UnicodeError, encoding: str, data: bytes, before: int = 0) -> DataError:
    """The error for bytes of text that do not decode; ``before`` bytes come before ``data``."""
    where = f" at byte {before + error.start}" if isinstance(error, UnicodeDecodeError) else ""
    named = "UTF-8" if encoding.startswith(UTF8) else encoding
    return DataError(
        f"is not {named}{where}",
        hint="if it is text in another encoding, name it, e.g. --encoding "
        + _likely_encoding(data, encoding),
    )


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


# ----------------------------------------------------------------------- encodings that are guessed

# Those that are met, most frequent first: of two that fit equally well the first is taken.
CANDIDATES = (
    *("cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257"),
    *("cp1258", "iso8859_2", "cp932", "euc_jp", "cp949", "gb18030", "big5", "cp874"),
)
# Fewer bytes than this tell nothing, and more of them nothing new.
_LEAST = 16
_MOST = 1 << 18
# Differences of measured disorder and of likeness to a language that mean nothing.
_DISORDER = 0.02
_LIKENESS = 0.05


def detect_encoding(data: bytes) -> str | None:
    """The encoding that bytes are in, if it is not UTF-8; None where they do not tell.

    None too for UTF-8 with broken places, which no other encoding would mend.
    """
    if len(data) < _LEAST or b"\0" in data or _mostly_utf8(data):
        return None
    from charset_normalizer import from_bytes

    found = list(from_bytes(data[:_MOST], cp_isolation=list(CANDIDATES)))
    if not found:
        return None
    least = min(match.chaos for match in found) + _DISORDER
    orderly = [match for match in found if match.chaos <= least]
    most = max(match.coherence for match in orderly) - _LIKENESS
    likely = (match for match in orderly if match.coherence >= most)
    # Of encodings in which the bytes are the same text, the first is taken too.
    names = {name for match in likely for name in match.could_be_from_charset}
    name = min(names.intersection(CANDIDATES), key=CANDIDATES.index)
    try:
        data.decode(name)
    except UnicodeDecodeError:
        return None
    return name


def stream_encoding(stream: io.BufferedReader) -> str | None:
    """The encoding that a stream seems to be in, by its beginning; None for UTF-8."""
    head = stream.peek(_MOST)[:_MOST]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return detect_encoding(head)
    return None


def decode_any(data: bytes, encoding: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The text that bytes hold, and the note that names the encoding where that was guessed.

    They are in ``encoding``, or without one in UTF-8, as their mark says, or as
    ``detect_encoding`` tells. Raises ``DataError``, without a path.
    """
    try:
        return decode(data, encoding), ()
    except DataError:
        name = detect_encoding(data) if encoding is None else None
        if name is None:
            raise
        return decode(data, name), (guessed(name),)


def guessed(name: str) -> str:
    """The note on a text whose encoding was guessed."""
    return f"is not UTF-8, read as {name} (--encoding names another)"


def _mostly_utf8(data: bytes) -> bool:
    """Whether a line of the bytes holds something other than ASCII, in valid UTF-8."""
    for line in data.splitlines():
        if not line.isascii():
            try:
                line.decode()
            except UnicodeDecodeError:
                continue
            return True
    return False

"""Bytes to text: byte order marks, named encodings, and what is no text at all.

Goes in: bytes or a byte stream. Comes out: text, or lines with their numbers. Nothing is decoded
approximately: what does not decode is a ``DataError`` that names the way out.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator

from iepile_cli.errors import DataError, UsageError

UTF8 = "utf-8"
# Longest first: UTF-32's little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SNIFFED = 8192
# What users do point text tools at, by how it begins.
_KNOWN = (
    (b"%PDF", "is a PDF", "make text of it first, e.g. with pdftotext"),
    (b"PK\x03\x04", "is a zip archive or an office document", "save it as plain text first"),
    (b"\xd0\xcf\x11\xe0", "is an office document", "save it as plain text first"),
    (b"SQLite format 3", "is a database", "export its texts as JSON Lines or CSV first"),
    (b"GGUF", "is a model", "a model is named with --model"),
)


def check(encoding: str | None) -> None:
    """Raise ``UsageError`` for a name that is no text encoding."""
    if encoding is None:
        return
    try:
        " ".encode(encoding)
    except (LookupError, ValueError, TypeError):
        raise UsageError(
            f"no text encoding is called {encoding!r}", hint="e.g. utf-8, latin-1, gb18030"
        ) from None


def _decided(head: bytes, encoding: str | None) -> str:
    """The encoding of bytes that begin with ``head``; raises ``DataError`` for what is no text."""
    for known, what, hint in _KNOWN:
        if head.startswith(known):
            raise DataError(f"{what}, not text", hint=hint)
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    wide = encoding is not None and codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    if b"\0" in head and not wide and not (marked or "").startswith(("utf-16", "utf-32")):
        raise DataError("is a binary file, not text", hint="for UTF-16 text: --encoding utf-16")
    if encoding is None:
        return marked or UTF8
    # A mark that agrees with the encoding named is no part of the text.
    if marked and codecs.lookup(encoding).name == marked.removesuffix("-sig"):
        return marked
    return encoding


def _undecodable(error: UnicodeError, encoding: str, before: int = 0) -> DataError:
    where = f" at byte {before + error.start}" if isinstance(error, UnicodeDecodeError) else ""
    named = "UTF-8" if encoding.startswith(UTF8) else encoding
    hint = "if it is text in another encoding, name it, e.g. --encoding latin-1"
    return DataError(f"is not {named}{where}", hint=hint)


def decode(data: bytes, encoding: str | None = None) -> str:
    """The text that the bytes hold; raises ``DataError``."""
    name = _decided(data, encoding)
    mark = len(codecs.BOM_UTF8) if name == "utf-8-sig" else 0
    try:
        return data[mark:].decode(UTF8 if mark else name)
    except UnicodeError as error:
        raise _undecodable(error, name, mark) from None


def lines(
    stream: io.BufferedReader, encoding: str | None = None
) -> Iterator[tuple[int, str | DataError]]:
    """The lines of a stream with their numbers from 1, line feeds kept.

    In UTF-8, a line that does not decode is given as its error and the rest goes on; in other
    encodings, and for what is no text at all, ``DataError`` is raised and ends the stream.
    """
    name = _decided(stream.peek(_SNIFFED)[:_SNIFFED], encoding)
    if not name.startswith(UTF8):
        yield from _wrapped_lines(stream, name)
        return
    for number, raw in enumerate(stream, 1):
        if number == 1 and name == "utf-8-sig":
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            yield number, raw.decode(UTF8)
        except UnicodeDecodeError as error:
            yield number, _undecodable(error, name)


def _wrapped_lines(stream: io.BufferedReader, name: str) -> Iterator[tuple[int, str | DataError]]:
    wrapped = io.TextIOWrapper(stream, encoding=name, newline="\n")
    number = 0
    try:
        for number, line in enumerate(wrapped, 1):
            yield number, line
    except UnicodeError as error:
        failed = _undecodable(error, name)
        # A decoder works in blocks: neither the line nor the byte it counts is the file's.
        raise DataError(f"is not {name} after line {number}", hint=failed.hint) from None
    finally:
        wrapped.detach()

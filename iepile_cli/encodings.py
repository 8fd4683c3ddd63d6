"""Encodings of plain text that names none and is not UTF-8, told by its bytes."""

from __future__ import annotations

import codecs
from io import BufferedReader

from iepile_cli.errors import DataError
from iepile_cli.files import decode

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


def stream_encoding(stream: BufferedReader) -> str | None:
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

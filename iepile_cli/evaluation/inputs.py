"""Prediction files as they come: plain, compressed or on standard input.

Scoring looks at a file more than once, so what cannot be read twice is copied to a temporary file
first, unpacked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from iepile_cli.errors import DataError

STDIN = "-"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@contextlib.contextmanager
def readable(path: str) -> Iterator[str]:
    """The path of a plain file with the same bytes, there as long as the context lasts.

    Compression is told from the first bytes. Raises ``DataError`` for a file that is empty, a
    folder, or broken as compressed data.
    """
    if path != STDIN and os.path.isdir(path):
        raise DataError("is a folder", path=path, hint="name a JSON Lines file")
    with contextlib.ExitStack() as stack:
        raw: Any
        if path == STDIN:
            raw, regular = sys.stdin.buffer, False
        else:
            raw = stack.enter_context(open(path, "rb"))
            regular = stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
        head = raw.peek(4)[:4]
        if not head:
            raise DataError("is empty", path=shown(path), hint="it takes one JSON record a line")
        packed = head.startswith((_GZIP, _ZSTD))
        if regular and not packed:
            yield path
            return
        copy = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".jsonl"))
        _unpack(raw, head, copy, path)
        copy.flush()
        yield copy.name


def _unpack(raw: IO[bytes], head: bytes, into: Any, path: str) -> None:
    import gzip
    import zlib

    import zstandard

    source: Any = raw
    if head.startswith(_GZIP):
        source = gzip.GzipFile(fileobj=raw)
    elif head.startswith(_ZSTD):
        source = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    try:
        shutil.copyfileobj(source, into, 1 << 20)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(f"broken compressed data: {error}", path=shown(path)) from None


def shown(path: str) -> str:
    """How a path is named to people."""
    return "<stdin>" if path == STDIN else path

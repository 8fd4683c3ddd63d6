"""Where converted rows go: a file that appears only when it is complete, or stdout."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from iepile_cli.errors import DataError


@contextmanager
def open_output(path: Path | None) -> Iterator[IO[bytes]]:
    """A binary file to write to; None is stdout. ``.gz`` and ``.zst`` are compressed.

    Rows go to a temporary file in the same folder, which takes the name when the block ends
    without an error and is removed otherwise. Missing folders are made. Raises ``DataError``.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    # Through a link the file behind it is replaced, not the link.
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise DataError("is a folder", path=path)
    if target.exists() and not target.is_file():
        with target.open("wb") as device, _packed(device, target.suffix) as file:
            yield file
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        opened = temporary.open("wb")
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", path=path) from None
    try:
        with opened, _packed(opened, target.suffix) as file:
            yield file
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _packed(raw: IO[bytes], suffix: str) -> Iterator[IO[bytes]]:
    if suffix == ".gz":
        # No time and no name in the header: the same rows give the same bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as file:
            yield cast(IO[bytes], file)
    elif suffix == ".zst":
        import zstandard

        with zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False) as packed:
            yield cast(IO[bytes], packed)
    else:
        yield raw

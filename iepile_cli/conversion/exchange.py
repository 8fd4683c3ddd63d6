"""Memory that processes share, so that chunks and rows need not go through pipes.

Converting costs less time than sending what comes out of it: pickling half a gigabyte of rows
through pipes takes as long as making them. A temporary file mapped into every process holds a
slot for each chunk under way, the records in front, the rows that they became behind.
"""

from __future__ import annotations

import functools
import mmap
import os
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

from iepile_cli.conversion.inputs import BLOCK

# Rows are seven times their records, more when few types are asked at once; what does not fit
# goes through the pipe.
_IN = 2 * BLOCK
_OUT = 16 * BLOCK
SLOT = _IN + _OUT


class Place(NamedTuple):
    """Where a chunk's records stand: the mapped file, the slot's start, their length."""

    path: str
    start: int
    length: int


class Exchange:
    """A mapped temporary file with ``slots`` slots; leaving the ``with`` block removes it."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        handle, self.path = tempfile.mkstemp(prefix="iepile-")
        try:
            if hasattr(os, "posix_fallocate"):
                # A full disk is an error here, and not a signal when memory is written to.
                os.posix_fallocate(handle, 0, slots * SLOT)
            else:
                os.ftruncate(handle, slots * SLOT)
            self.memory = mmap.mmap(handle, slots * SLOT)
        except OSError:
            os.unlink(self.path)
            raise
        finally:
            os.close(handle)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self.memory.close()
        os.unlink(self.path)

    def put(self, number: int, chunk: Any) -> Place | None:
        """Take the data out of a chunk into its slot; None when they do not fit."""
        data = getattr(chunk, "data", None)
        if not isinstance(data, bytes) or len(data) > _IN:
            return None
        start = number % self.slots * SLOT
        self.memory[start : start + len(data)] = data
        chunk.data = b""
        return Place(self.path, start, len(data))

    def fetch(self, place: Place | None, result: Any, length: int) -> None:
        """Put the data of a result back into it."""
        if place is not None and length:
            start = place.start + _IN
            result.data = self.memory[start : start + length]


@functools.lru_cache(16)
def _mapped(path: str) -> mmap.mmap:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def at_place(work: Callable[[Any], Any], chunk: Any, place: Place | None) -> tuple[Any, int]:
    """In a worker: do ``work`` on a chunk whose data stand at ``place``.

    Gives the result and how many bytes of its data are in the slot.
    """
    if place is None:
        return work(chunk), 0
    memory = _mapped(place.path)
    chunk.data = memory[place.start : place.start + place.length]
    result = work(chunk)
    data = getattr(result, "data", b"")
    if not data or len(data) > _OUT:
        return result, 0
    start = place.start + _IN
    memory[start : start + len(data)] = data
    result.data = b""
    return result, len(data)

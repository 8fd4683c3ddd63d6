"""Records of a file in pieces: JSON Lines or one JSON array.

Goes in: an open file. Comes out: chunks of whole records, a quarter of a megabyte each, so that a
file of any size takes the same memory. What a record means is not known here.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import orjson

from iepile_cli.conversion.record_gold import NOT_JSON, Problem
from iepile_cli.files import Input

BLOCK = 1 << 18
# A longer record is no sentence and no document: reading it would take memory without bound.
LONGEST = 1 << 24

_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\\]')


@dataclass
class Chunk:
    """Some records of a file: ``data`` holds one to a line.

    ``first`` is the number of the first one, counted from 1; ``lines`` are their lines in the
    file where those are not their numbers. ``problems`` were met while cutting; ``position`` is
    how far the file has been read, in its own bytes.
    """

    data: bytes
    first: int = 1
    lines: array[int] | None = None
    problems: list[Problem] = field(default_factory=list)
    position: int = 0

    def records(self) -> Iterator[tuple[int, bytes]]:
        """Each record with its index in the chunk; blank lines are no records."""
        for index, raw in enumerate(self.data.split(b"\n")):
            if raw and not raw.isspace():
                yield index, raw

    def between(self, start: int, stop: int) -> Chunk:
        """The records with the numbers from ``start`` up to ``stop``, and the problems there."""
        count = self.after - self.first
        first = max(start, self.first)
        low, high = first - self.first, min(stop, self.after) - self.first
        lines = None if self.lines is None else self.lines[low:high]
        begins = self.line_of(low) if first > self.first and low < count else 0
        ends = self.line_of(high) if high < count else math.inf
        problems = [one for one in self.problems if begins <= one.line < ends]
        data = b"\n".join(self.data.split(b"\n")[low:high])
        return Chunk(data, first, lines, problems, self.position)

    @property
    def after(self) -> int:
        """The number after that of the last record."""
        # What a piece of a file ends with, after its last line, is no record.
        return self.first + self.data.count(b"\n") + bool(self.data and self.data[-1:] != b"\n")

    def line_of(self, index: int) -> int:
        """The line in the file of the record at ``index``."""
        return self.first + index if self.lines is None else self.lines[index]


def json_chunks(source: Input) -> Iterator[Chunk]:
    """Cut a file of JSON Lines, or of one JSON array, in UTF-8 into chunks of records."""
    start = source.stream.read(BLOCK)
    if _is_array(start):
        yield from _array_chunks(source, start)
    else:
        yield from _line_chunks(source, start)


def _is_array(start: bytes) -> bool:
    if not start.lstrip().startswith(b"["):
        return False
    line, _, more = start.lstrip().partition(b"\n")
    if not more.strip():
        return True
    # A whole array on the first line, and more below it: JSON Lines of arrays.
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return True
    return False


def _line_chunks(source: Input, start: bytes) -> Iterator[Chunk]:
    held: list[bytes] = []
    size, number, block = 0, 1, start
    while block:
        cut = block.rfind(b"\n") + 1
        if cut:
            data = b"".join((*held, block[:cut])) if size <= LONGEST else _cut_short(block[:cut])
            yield Chunk(data, number, problems=_too_long(size, number), position=source.tell())
            number += data.count(b"\n")
            held, size = [block[cut:]], len(block) - cut
        else:
            size += len(block)
            if size <= LONGEST:
                held.append(block)
            else:
                held.clear()
        block = source.stream.read(BLOCK)
    if size > LONGEST:
        yield Chunk(b"", number, problems=_too_long(size, number), position=source.tell())
    elif size:
        yield Chunk(b"".join(held), number, position=source.tell())


def _cut_short(block: bytes) -> bytes:
    """A block whose first line began too far back: an empty line in its place."""
    return block[block.index(b"\n") :]


def _too_long(size: int, line: int) -> list[Problem]:
    return [Problem(line, NOT_JSON, f"over {LONGEST >> 20} MB long")] if size > LONGEST else []


def chunks_of(chunks: Iterable[Chunk], start: int, stop: float) -> Iterator[Chunk]:
    """The records with the numbers from ``start`` up to ``stop``, in chunks."""
    for chunk in chunks:
        if chunk.first >= stop:
            return
        if start <= chunk.first and chunk.after <= stop:
            yield chunk
        elif chunk.after > start:
            yield chunk.between(start, int(min(stop, chunk.after)))


# ------------------------------------------------------------------------------------- one array


def _array_chunks(source: Input, start: bytes) -> Iterator[Chunk]:
    elements = _elements(source, start)
    yield from numbered_chunks(elements, source.tell)


def _elements(source: Input, start: bytes) -> Iterator[tuple[int, bytes] | Problem]:
    """The elements of a JSON array with the lines they begin in; they are not decoded.

    Only brackets and strings are looked at, so that an element that is not JSON costs itself and
    nothing else.
    """
    buffer, depth, line = start, 0, 1
    begin = at = 0
    inside = False
    while True:
        token = (_INSIDE if inside else _OUTSIDE).search(buffer, at)
        if token is None or (token[0] == b"\\" and token.end() == len(buffer)):
            more = source.stream.read(BLOCK)
            if not more or len(buffer) - begin > LONGEST:
                break
            at = (token.start() if token else len(buffer)) - begin
            buffer, begin = buffer[begin:] + more, 0
            continue
        at, mark = token.end(), token[0]
        if mark == b"\\":
            at += 1
        elif mark == b'"':
            inside = not inside
        elif mark in b"[{":
            depth += 1
            begin = at if depth == 1 else begin
        elif mark in b"]}" or depth == 1:
            depth -= mark != b","
            if depth == 0 or mark == b",":
                element = buffer[begin : at - 1]
                if element.strip():
                    ahead = len(element) - len(element.lstrip())
                    yield line + element.count(b"\n", 0, ahead), _one_line(element)
                line += element.count(b"\n")
                begin = at
            if depth == 0:
                return
    rest = buffer[begin:]
    what = f"over {LONGEST >> 20} MB long" if len(rest) > LONGEST else "the array is not closed"
    blank = len(rest) - len(rest.lstrip())
    yield Problem(line + rest.count(b"\n", 0, blank), NOT_JSON, what)


def _one_line(element: bytes) -> bytes:
    return element.strip().replace(b"\n", b" ").replace(b"\r", b" ")


# --------------------------------------------------------------------- records from other readers


def numbered_chunks(
    records: Iterable[tuple[int, bytes] | Problem], tell: Callable[[], int]
) -> Iterator[Chunk]:
    """Gather records, each with its line, into chunks; problems go along with their chunk."""
    number, size = 1, 0
    found: list[bytes] = []
    lines = array("Q")
    problems: list[Problem] = []
    for record in records:
        if isinstance(record, Problem):
            problems.append(record)
            continue
        lines.append(record[0])
        found.append(record[1])
        size += len(record[1])
        if size >= BLOCK:
            yield Chunk(b"\n".join(found), number, lines, problems, tell())
            number += len(found)
            found, lines, problems, size = [], array("Q"), [], 0
    if found or problems:
        yield Chunk(b"\n".join(found), number, lines, problems, tell())

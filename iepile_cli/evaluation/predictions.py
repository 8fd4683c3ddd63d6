"""A file of predictions: counted in parts by several processes, and its documents read again.

Goes in: a file of JSON Lines or one JSON array, compressed or not, or standard input. Scoring
looks at it more than once, so what cannot be read from any byte on is copied to a temporary file
first. The number of parts depends on the file alone, so the result does not depend on the machine.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import BinaryIO, TypeAlias

from iepile_cli import files
from iepile_cli.conversion.chunks import json_chunks
from iepile_cli.errors import DataError
from iepile_cli.evaluation.counts import END, FIRST, Counts
from iepile_cli.evaluation.documents import (
    Document,
    Read,
    RowReader,
    count_document,
)
from iepile_cli.evaluation.normalise import normalise
from iepile_cli.evaluation.options import EvalOptions
from iepile_cli.evaluation.regroup import Regrouped, Span, regroup
from iepile_cli.parallel import WorkerPool

Tick: TypeAlias = Callable[[int], None]

# From two parts of this size on, processes are worth starting.
PART_BYTES = 6 << 20
MAX_PARTS = 64
# How many bytes are looked through for a place between two documents.
_NEAR = 1 << 16
_BLOCK = 1 << 20
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
# Blanks and byte order marks, in whichever Unicode encoding.
_BEFORE_JSON = b" \t\r\n\0\xef\xbb\xbf\xff\xfe"


@contextlib.contextmanager
def plain_file(path: str) -> Iterator[str]:
    """The path of a file with the same records, one a line, as long as the context lasts.

    Raises ``DataError`` for a file that is empty, a folder, or broken as compressed data.
    """
    if path != files.STDIN and os.path.isdir(path):
        raise DataError("is a folder", path=path, hint="name a JSON Lines file")
    with contextlib.ExitStack() as stack:
        with files.open_input(path) as source:
            head = source.stream.peek(1 << 13)
            if not head:
                raise DataError(
                    "is empty",
                    path=files.display_name(path),
                    hint="it takes one JSON record a line",
                )
            if head.startswith(_WIDE_MARKS) or head.lstrip(_BEFORE_JSON).startswith(b"["):
                blocks = _lines(source, path)
            else:
                blocks = iter(functools.partial(source.stream.read, _BLOCK), b"")
                if source.size and isinstance(source.stream.raw, io.FileIO):
                    yield path
                    return
            copy = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".jsonl"))
            copy.writelines(blocks)
            copy.flush()
        yield copy.name


def _lines(source: files.Input, path: str) -> Iterator[bytes]:
    """The records of a JSON array, or of lines in UTF-16 or UTF-32, one a line in UTF-8."""
    name = files.display_name(path)
    try:
        stream = files.utf8_stream(source.stream)
        for chunk in json_chunks(source._replace(stream=stream)):
            for problem in chunk.problems:
                raise DataError(f"{problem.kind}: {problem.what}", line=problem.line)
            yield chunk.data + b"\n"
    except DataError as error:
        raise error.at(name) from None


class _Found(Exception):
    """Ends the look for a place between two documents."""


class PredictionFile:
    """A file of converted test records with their ``output``, read from a path that can seek."""

    def __init__(self, path: str, options: EvalOptions) -> None:
        self.path = path
        self.options = options
        self.counts = Counts()
        self._rows = RowReader(options)
        self._regrouped: Regrouped = {}

    def count(self, tick: Tick | None = None) -> Counts:
        """Count every document, in the order in which they begin."""
        size = os.path.getsize(self.path)
        parts = max(1, min(MAX_PARTS, size // PART_BYTES))
        cuts = [self._between(size * number // parts) for number in range(1, parts)]
        spans = list(pairwise(sorted([0, *cuts, size])))
        with WorkerPool() as pool:
            count = functools.partial(count_part, self.path, self.options)
            counted = pool.map(count, _loading_numpy(spans, pool.workers), serial=2)
            for (first, last), counts in zip(spans, counted, strict=True):
                self.counts.merge(counts)
                if tick is not None:
                    tick(last - first)
        with open(self.path, "rb") as file:
            self._regrouped = regroup(
                self.counts, self._rows, lambda spans: self._read(file, spans)
            )
        return self.counts

    def _between(self, at: int) -> int:
        """A place from byte ``at`` on where a document ends; ``at`` itself where none is near.

        Cutting a document in two costs a second look at it, and no more than that.
        """
        places: list[int] = []

        def receive(_: Document, end: int) -> None:
            places.append(end)
            # The last one may go on where reading stopped; two are enough.
            if len(places) > 1:
                raise _Found

        with open(self.path, "rb") as file, contextlib.suppress(_Found):
            file.seek(at)
            begin = at + len(file.readline())
            self._rows.read(file, begin, at + _NEAR, Counts(), receive)
        return places[0] if len(places) > 1 else at

    def document(self, number: int) -> Document | None:
        """Read the document of that number again; None when the file has changed meanwhile."""
        first, end = self.counts.document_table()[number, [FIRST, END]].tolist()
        document: Document | None = None
        with open(self.path, "rb") as file:
            spans = self._regrouped.get(first, [(first, end)])
            for row, task, batch, text, start, _ in self._read(file, spans):
                document = document or self._rows.begin(row, task, text, start, Counts())
                self._rows.add_answer(row, task, batch, document)
        if document is None or not document.read_gold():
            return None
        normalise(document, self.options)
        return document

    def _read(self, file: BinaryIO, spans: Iterable[Span]) -> Iterator[Read]:
        """The rows in some pieces of the file."""
        uncounted = Counts()
        for start, end in spans:
            yield from self._rows.rows(file, start, end, uncounted)


def _loading_numpy(spans: list[Span], workers: int) -> Iterator[Span]:
    """The spans; while the workers count the first ones, what merges them is loaded."""
    for number, span in enumerate(spans):
        if number == max(2, workers):
            import numpy as np  # noqa: F401
        yield span


def count_part(path: str, options: EvalOptions, span: Span) -> Counts:
    """Count the documents of the lines that begin in bytes [start, stop) of a file."""
    counts = Counts()
    count = functools.partial(count_document, options, counts)
    # Nothing here makes reference cycles, and looking for them takes a quarter of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        start, stop = span
        with open(path, "rb", buffering=_BLOCK) as file:
            if start:
                # The line that is cut by ``start`` belongs to the part before.
                file.seek(start - 1)
                start += len(file.readline()) - 1
            RowReader(options).read(file, start, stop, counts, count)
    finally:
        if collects:
            gc.enable()
    return counts

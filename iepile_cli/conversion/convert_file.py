"""One file of records into rows: its chunks through the worker processes, in order."""

from __future__ import annotations

import functools
import math
import pickle
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TypeAlias, cast

from iepile_cli.conversion.chunks import Chunk, chunks_of
from iepile_cli.conversion.convert_chunk import (
    Done,
    convert_chunk,
    survey_chunk,
)
from iepile_cli.conversion.file_report import Report
from iepile_cli.conversion.mining import Survey
from iepile_cli.conversion.plan import Plan
from iepile_cli.conversion.readers import open_records
from iepile_cli.conversion.record_gold import SAME_ID, Problem
from iepile_cli.files import display_name
from iepile_cli.parallel import WorkerPool
from iepile_cli.shards import Shard
from iepile_cli.writing import atomic_write, is_device

# Called with how many bytes of how many are done; 0 of 0 when the size is not known.
Progress: TypeAlias = Callable[[int, int], None]

# Ids of so many records are remembered: about 20 MB, whatever the size of the dataset.
REMEMBERED = 1 << 18


def silent(done: int, size: int) -> None:
    """Show no progress."""


def convert_file(
    path: Path | None,
    output: Path | None,
    plan: Plan,
    *,
    form: str = "auto",
    pool: WorkerPool,
    dev_output: Path | None = None,
    progress: Progress = silent,
    several: bool = False,
    part: Shard | None = None,
) -> Report:
    """Convert the records of one file (None: stdin) to rows in ``output`` (None: stdout).

    With ``dev_output``, rows of the plan's dev share go there; with ``part`` only that part of the
    records is converted. Records that cannot be used are left out and counted in the report.
    ``several`` files are converted at once. Raises ``DataError`` for a file that cannot be read
    and, with ``plan.strict``, for the first problem.
    """
    plan.check()
    report = Report(name=display_name(path))
    convert = functools.partial(convert_chunk, pickle.dumps(plan))
    with ExitStack() as stack:
        chunks = stack.enter_context(open_chunks(path, form, plan.task_name, progress, part))
        file = stack.enter_context(open_output(output, plan.strict))
        dev = stack.enter_context(atomic_write(dev_output)) if dev_output else None
        # Files that are converted at once share the memory that one may take.
        results = (
            pool.map(convert, chunks, serial=0, ahead=3) if several else pool.map(convert, chunks)
        )
        write_chunks(results, file, dev, report, plan)
    return report


def survey_files(
    paths: Iterable[Path],
    task_name: str,
    renames: dict[str, str],
    *,
    form: str,
    pool: WorkerPool,
    progress: Progress = silent,
) -> Survey:
    """Read files through and count what their annotation has; bad records are passed over."""
    whole = Survey(task_name)
    for path in paths:
        with open_chunks(path, form, task_name, progress) as chunks:
            for part in pool.map(functools.partial(survey_chunk, task_name, renames), chunks):
                whole.add(part)
    return whole


@contextmanager
def open_chunks(
    path: Path | None,
    form: str,
    task_name: str | None,
    progress: Progress,
    part: Shard | None = None,
) -> Iterator[Iterator[Chunk]]:
    """The chunks of records in a file, whatever form they have there; reports ``progress``.

    For a ``part`` the file is read twice: its records are counted first.
    """
    start, stop = (1, math.inf) if part is None else _numbers_of(part, path, form, task_name)
    with open_records(path, form, task_name) as (chunks, size):

        def reported() -> Iterator[Chunk]:
            for chunk in chunks_of(chunks, int(start), stop):
                yield chunk
                progress(min(chunk.position, size), size)

        yield reported()


def _numbers_of(
    part: Shard, path: Path | None, form: str, task_name: str | None
) -> tuple[int, float]:
    """The numbers of a part's records: from the first up to the second."""
    total = 0
    with open_records(path, form, task_name) as (chunks, _):
        for chunk in chunks:
            total = chunk.after - 1
    start, stop = part.bounds(total)
    # Problems after the last record belong to the last part.
    return start + 1, math.inf if part.last else stop + 1


# -------------------------------------------------------------------------------- in this process


def write_chunks(
    results: Iterable[Done], file: IO[bytes], dev: IO[bytes] | None, report: Report, plan: Plan
) -> None:
    """Write the rows of chunks in order, and count them; a row of a dev share goes to ``dev``.

    Raises ``DataError`` with ``plan.strict`` for the first problem.
    """
    ratio = plan.max_empty_ratio
    limit = _EmptyLimit(ratio, plan.seed) if ratio is not None else None
    known = _Identities()
    for done in results:
        for line in known.repeated(done):
            done.counts.note(Problem(line, SAME_ID, ""))
        if plan.strict:
            report.refuse(done.counts)
        if limit is None or done.lengths is None:
            file.write(done.data)
        else:
            kept = limit.filtered(done.data, done.lengths, done.empty)
            dropped = len(done.lengths) - len(kept)
            report.empty_dropped += dropped
            done.counts.rows -= dropped
            file.write(b"".join(kept))
        if dev is not None:
            dev.write(done.dev)
        report.add(done.counts)


@contextmanager
def open_output(path: Path | None, strict: bool) -> Iterator[IO[bytes]]:
    """As ``atomic_write``; with ``strict``, streams too get everything at the end or nothing."""
    if not strict or (path is not None and not is_device(path)):
        with atomic_write(path) as file:
            yield file
        return
    with tempfile.TemporaryFile() as held:
        yield cast(IO[bytes], held)
        held.seek(0)
        with atomic_write(path) as file:
            shutil.copyfileobj(held, file)


class _EmptyLimit:
    """Decides row by row which rows with an all-empty answer stay: their share is never over
    ``limit``.

    Row order decides, not chunks or processes, and chance comes from ``seed`` alone. Empty rows
    are drawn with the probability that the counts so far ask for, so that they come from all of
    the file and not only from after a row with an answer.
    """

    def __init__(self, limit: float, seed: int) -> None:
        # Empty rows allowed for each row with an answer.
        self.each = limit / (1 - limit) if limit < 1 else float("inf")
        self.random = random.Random(seed)
        self.full = 0
        self.empty_seen = 0
        self.empty_kept = 0

    def keeps(self, empty: bool) -> bool:
        """Whether the next row stays."""
        if not empty:
            self.full += 1
            return True
        self.empty_seen += 1
        room = self.full * self.each - self.empty_kept
        if room < 1:
            return False
        # Room that is left over from stretches with few empty rows is used up over the next ones.
        wanted = self.full * self.each / self.empty_seen + room / 64
        if self.random.random() >= wanted:
            return False
        self.empty_kept += 1
        return True

    def filtered(
        self, data: bytes | memoryview, lengths: Sequence[int], empty: Sequence[bool]
    ) -> list[bytes | memoryview]:
        """The rows of ``data`` that stay."""
        kept = []
        start = 0
        for length, is_empty in zip(lengths, empty, strict=True):
            if self.keeps(is_empty):
                kept.append(data[start : start + length])
            start += length
        return kept


class _Identities:
    """Which identities have come before, as long as there is room to remember them."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def repeated(self, done: Done) -> list[int]:
        """The lines of records whose identity came before; remembers the new ones."""
        new = set(done.ids)
        lines: list[int] = []
        if len(new) < len(done.ids) or not self.seen.isdisjoint(new):
            here: set[int] = set()
            for identity, line in zip(done.ids, done.id_lines, strict=True):
                if (identity in self.seen or identity in here) and line not in lines[-1:]:
                    lines.append(line)
                here.add(identity)
        room = REMEMBERED - len(self.seen)
        if room > 0:
            self.seen.update(new if len(new) <= room else sorted(new)[:room])
        return lines

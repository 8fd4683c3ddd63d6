"""One file of records through the worker processes, in order, into the output."""

from __future__ import annotations

import functools
import math
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

from iepile_cli.conversion.annotation import Annotation, Lost, annotation_of
from iepile_cli.conversion.chunk_work import (
    Done,
    chunk_records,
    convert_chunk,
    records_chunk,
    survey_chunk,
)
from iepile_cli.conversion.chunks import Chunk, chunks_of
from iepile_cli.conversion.empty_rows import EmptyLimit
from iepile_cli.conversion.gold import PART_LOST, SAME_ID, Problem
from iepile_cli.conversion.graphs import GRAPHS, GraphFile
from iepile_cli.conversion.mining import Survey
from iepile_cli.conversion.plan import Plan
from iepile_cli.conversion.readers import open_records
from iepile_cli.conversion.report import Counts, Report
from iepile_cli.conversion.writers import JSON_ARRAYS, BratFolder
from iepile_cli.errors import UsageError
from iepile_cli.files import display_name
from iepile_cli.parallel import WorkerPool
from iepile_cli.shards import Shard
from iepile_cli.writing import atomic_folder, atomic_write, is_device

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
    records is converted. Records that cannot be used are
    left out and counted in the report. ``several`` files are converted at once. Raises
    ``DataError`` for a file that cannot be read and, with ``plan.strict``, for the first problem.
    """
    plan.check()
    report = Report(name=display_name(path))
    convert = functools.partial(convert_chunk, pickle.dumps(plan))
    with ExitStack() as stack:
        chunks = stack.enter_context(open_chunks(path, form, plan.task_name, progress, part))
        file = stack.enter_context(_open_output(output, plan.strict))
        dev = stack.enter_context(atomic_write(dev_output)) if dev_output else None
        # Files that are converted at once share the memory that one may take.
        results = (
            pool.map(convert, chunks, serial=0, ahead=3) if several else pool.map(convert, chunks)
        )
        _write(results, file, dev, report, plan)
    return report


def write_records(
    path: Path | None,
    output: Path | None,
    to: str,
    renames: dict[str, str],
    *,
    form: str,
    task_name: str | None,
    strict: bool,
    pool: WorkerPool,
    progress: Progress = silent,
    part: Shard | None = None,
) -> Report:
    """Write what a file holds as unified records or in a tool's form."""
    plan = Plan(task_name or "", (), strict=strict)
    report = Report(name=display_name(path))
    graph = GraphFile(to) if to in GRAPHS else None
    with open_chunks(path, form, task_name, progress, part) as chunks:
        if graph is not None:
            _add_to_graph(chunks, graph, renames, report, strict=strict)
            with atomic_write(output) as file:
                file.write(graph.written())
            return report
        if to == "brat":
            assert output is not None
            _write_documents(chunks, output, renames, report, strict=strict)
            return report
        results = pool.map(functools.partial(records_chunk, to, renames), chunks)
        with _open_output(output, strict) as file:
            if to in JSON_ARRAYS:
                file.write(b"[\n")
                _write(_separated(results), file, None, report, plan)
                file.write(b"]\n")
            else:
                _write(results, file, None, report, plan)
    return report


def _separated(results: Iterable[Done]) -> Iterator[Done]:
    """The results with a comma between the elements of one and the next."""
    begun = False
    for done in results:
        if begun and done.data:
            done.data = b"," + done.data
        begun = begun or bool(done.data)
        yield done


def _write_documents(
    chunks: Iterable[Chunk], output: Path, renames: dict[str, str], report: Report, *, strict: bool
) -> None:
    """Write a folder of brat's documents; it appears when it is complete."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UsageError(f"{output} is there already", hint="name a new folder with -o")
    with atomic_folder(output) as made:
        folder = BratFolder(made)
        for number, (_, found, lost) in enumerate(_annotated(chunks, renames, report, strict), 1):
            folder.write(found, f"{number:06d}", lost)
        folder.close()


def _add_to_graph(
    chunks: Iterable[Chunk],
    graph: GraphFile,
    renames: dict[str, str],
    report: Report,
    *,
    strict: bool,
) -> None:
    """Add what records are annotated with to a graph."""
    for record, found, _ in _annotated(chunks, renames, report, strict):
        graph.add(found._replace(identity=record))


def _annotated(
    chunks: Iterable[Chunk], renames: dict[str, str], report: Report, strict: bool
) -> Iterator[tuple[dict[str, Any], Annotation, Lost]]:
    """Each record with its name (its own, or its place), its annotation, and what notes losses."""
    for chunk in chunks:
        counts = Counts()
        for line, record in chunk_records(chunk, renames, counts):

            def lost(what: str, line: int = line, counts: Counts = counts) -> None:
                counts.note(Problem(line, PART_LOST, what))

            counts.rows += 1
            known = {} if "source" in record else {"source": report.name, "line": line}
            yield known | record, annotation_of(record, lost), lost
        if strict:
            report.refuse(counts)
        report.add(counts)


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
    # What is wrong after the last record is for the last part to say.
    return start + 1, math.inf if part.last else stop + 1


# -------------------------------------------------------------------------------- in this process


def _write(
    results: Iterable[Done], file: IO[bytes], dev: IO[bytes] | None, report: Report, plan: Plan
) -> None:
    ratio = plan.max_empty_ratio
    limit = EmptyLimit(ratio, plan.seed) if ratio is not None else None
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
def _open_output(path: Path | None, strict: bool) -> Iterator[IO[bytes]]:
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

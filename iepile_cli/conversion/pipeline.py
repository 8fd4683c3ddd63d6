"""One file of records through the worker processes, in order, into the output."""

from __future__ import annotations

import functools
import hashlib
import pickle
import random
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import orjson

from iepile_cli.conversion.chunks import Chunk
from iepile_cli.conversion.converter import AliasConverter, Converted, Converter
from iepile_cli.conversion.gold import KEPT, SAME_ID, Problem, Unusable, read_json, text_of
from iepile_cli.conversion.label_aliases import rename_entries
from iepile_cli.conversion.mining import Survey
from iepile_cli.conversion.options import Plan
from iepile_cli.conversion.readers import open_records
from iepile_cli.conversion.report import Counts, Report
from iepile_cli.conversion.sampling import rng_for
from iepile_cli.files import atomic_write, display_name, is_device
from iepile_cli.parallel import WorkerPool
from iepile_cli.task.instruction import dumps
from iepile_cli.task.table import TASKS

# Called with how many bytes of how many are done; 0 of 0 when the size is not known.
Progress: TypeAlias = Callable[[int, int], None]

# Ids of so many records are remembered: about 20 MB, whatever the size of the dataset.
REMEMBERED = 1 << 18

# The fields of a record that hold annotation.
FIELDS = tuple(dict.fromkeys(task.layout.field for task in TASKS.values()))


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
) -> Report:
    """Convert the records of one file (None: stdin) to rows in ``output`` (None: stdout).

    With ``dev_output``, rows of the plan's dev share go there. Records that cannot be used are
    left out and counted in the report. ``several`` files are converted at once. Raises
    ``DataError`` for a file that cannot be read and, with ``plan.strict``, for the first problem.
    """
    plan.check()
    report = Report(name=display_name(path))
    convert = functools.partial(convert_chunk, pickle.dumps(plan))
    with ExitStack() as stack:
        chunks = stack.enter_context(open_chunks(path, form, plan.task_name, progress))
        file = stack.enter_context(_open_output(output, plan.strict))
        dev = stack.enter_context(atomic_write(dev_output)) if dev_output else None
        results = pool.map(convert, chunks, serial=0 if several else 4)
        _write(results, file, dev, report, plan)
    return report


def write_records(
    path: Path | None,
    output: Path | None,
    record_writer: Callable[[Chunk], Done],
    *,
    form: str,
    task_name: str | None,
    strict: bool,
    pool: WorkerPool,
    progress: Progress = silent,
) -> Report:
    """Write what a file holds as ``record_writer`` writes it."""
    plan = Plan(task_name or "", (), strict=strict)
    report = Report(name=display_name(path))
    with (
        open_chunks(path, form, task_name, progress) as chunks,
        _open_output(output, strict) as file,
    ):
        _write(pool.map(record_writer, chunks), file, None, report, plan)
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
    path: Path | None, form: str, task_name: str | None, progress: Progress
) -> Iterator[Iterator[Chunk]]:
    """The chunks of records in a file, whatever form they have there; reports ``progress``."""
    with open_records(path, form, task_name) as (chunks, size):

        def reported() -> Iterator[Chunk]:
            for chunk in chunks:
                yield chunk
                progress(min(chunk.position, size), size)

        yield reported()


# ---------------------------------------------------------------------------- in a worker process


@dataclass
class Done:
    """A converted chunk: its rows as one piece, and counts.

    ``dev`` are the rows of the dev share. ``empty`` (when asked for) says of each row whether its
    whole answer is empty, with the lengths of the rows. ``ids`` holds 8 bytes of hash of each
    record's identity, with its line.
    """

    data: bytes = b""
    dev: bytes = b""
    counts: Counts = field(default_factory=Counts)
    lengths: array[int] | None = None
    empty: list[bool] = field(default_factory=list)
    ids: array[int] = field(default_factory=lambda: array("Q"))
    id_lines: array[int] = field(default_factory=lambda: array("Q"))


# A worker gets the same few plans again and again; a converter costs more than a chunk's pickle.
@functools.lru_cache(16)
def _converter(pickled: bytes) -> Converter | AliasConverter:
    plan: Plan = pickle.loads(pickled)
    return Converter(plan) if plan.aliases is None else AliasConverter(plan)


def convert_chunk(pickled_plan: bytes, chunk: Chunk) -> Done:
    """Convert the records of a chunk; never raises for a record."""
    converter = _converter(pickled_plan)
    plan = converter.plan
    done = Done()
    counts = done.counts
    rows: list[bytes] = []
    dev: list[bytes] = []
    weighs = plan.max_empty_ratio is not None
    tests = plan.split == "test"
    line = 0

    def report(kind: str, what: str) -> None:
        counts.note(Problem(line, kind, what))

    _note_problems(chunk, counts)
    for index, raw in chunk.records():
        number = chunk.first + index
        if plan.share < 1 and rng_for(~plan.seed, number).random() >= plan.share:
            continue
        line = chunk.line_of(index)
        counts.records += 1
        try:
            converted = converter.convert(raw, number, report)
        except Unusable as problem:
            counts.note(Problem(line, problem.kind, problem.what))
            continue
        if tests or converted.id is not None:
            _identify(converted, line, done, tests=tests)
        if plan.dev_share and _in_dev(converted, plan):
            dev += converted.rows
            continue
        rows += converted.rows
        if weighs:
            done.empty += converted.empty
    counts.rows, counts.dev_rows = len(rows) + len(dev), len(dev)
    if weighs:
        done.lengths = array("Q", map(len, rows))
    done.data, done.dev = b"".join(rows), b"".join(dev)
    return done


def _note_problems(chunk: Chunk, counts: Counts) -> None:
    for problem in chunk.problems:
        # What is kept belongs to a record that is counted already.
        counts.records += problem.kind not in KEPT
        counts.note(problem)


def _identify(converted: Converted, line: int, done: Done, *, tests: bool) -> None:
    """Note what a record is known by: its own id and, in a test set, the hash of its text."""
    names = [] if converted.id is None else [orjson.dumps(converted.id, default=str)]
    if tests and converted.rows:
        names.append(converted.text.encode())
    for name in names:
        digest = hashlib.blake2b(name, digest_size=8).digest()
        done.ids.append(int.from_bytes(digest, "big"))
        done.id_lines.append(line)


def _in_dev(converted: Converted, plan: Plan) -> bool:
    """Whether a record's document, or its text when it names none, is drawn for the dev set."""
    document = converted.text if converted.doc_id is None else converted.doc_id
    name = orjson.dumps([plan.seed, document], default=str)
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return int.from_bytes(digest, "big") < plan.dev_share * 2**64


def records_chunk(renames: dict[str, str], chunk: Chunk) -> Done:
    """Write the records of a chunk as unified records, unchanged but for form and names."""
    done = Done()
    rows: list[bytes] = []
    for record in chunk_records(chunk, renames, done.counts):
        rows.append(dumps(record).encode() + b"\n")
    done.counts.rows = len(rows)
    done.data = b"".join(rows)
    return done


def chunk_records(
    chunk: Chunk, renames: dict[str, str], counts: Counts
) -> Iterator[dict[str, Any]]:
    """The unified records of a chunk, with new names of labels; others are noted in ``counts``."""
    _note_problems(chunk, counts)
    for index, raw in chunk.records():
        counts.records += 1
        try:
            record = read_json(raw)
            text = text_of(record)
        except Unusable as problem:
            counts.note(Problem(chunk.line_of(index), problem.kind, problem.what))
            continue
        if "text" not in record:
            record = {"text": text, **{key: record[key] for key in record if key != "input"}}
        for name in FIELDS:
            if renames and name in record:
                record[name] = rename_entries(record[name], name, renames)
        yield record


def survey_chunk(task_name: str, renames: dict[str, str], chunk: Chunk) -> Survey:
    """Count the records of a chunk; those that cannot be read count for nothing."""
    survey = Survey(task_name)
    for _, raw in chunk.records():
        try:
            survey.add_record(read_json(raw), renames)
        except Unusable:
            continue
    return survey


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


class EmptyLimit:
    """Decides row by row which empty ones stay; at no point is their share over ``limit``.

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

    def filtered(self, data: bytes, lengths: Sequence[int], empty: Sequence[bool]) -> list[bytes]:
        """The rows of ``data`` that stay."""
        kept = []
        start = 0
        for length, is_empty in zip(lengths, empty, strict=True):
            if self.keeps(is_empty):
                kept.append(data[start : start + length])
            start += length
        return kept

"""One set from its file to rows: chunks through the workers, in order, into the output."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias

from iepile_cli.conversion.balance import Balance
from iepile_cli.conversion.crew import Crew
from iepile_cli.conversion.gold import SAME_ID, Problem
from iepile_cli.conversion.inputs import Chunk
from iepile_cli.conversion.outputs import open_output
from iepile_cli.conversion.plan import Plan
from iepile_cli.conversion.readers import open_records
from iepile_cli.conversion.report import Report, Tally
from iepile_cli.conversion.survey import Survey, survey_chunk
from iepile_cli.conversion.work import Done, convert_chunk, records_chunk

# Called with how many bytes of how many are done; 0 of 0 when the size is not known.
Progress: TypeAlias = Callable[[int, int], None]

# Ids of so many records are remembered: about 20 MB, whatever the size of the set.
REMEMBERED = 1 << 18


def silent(done: int, size: int) -> None:
    """Show no progress."""


@contextmanager
def open_chunks(
    path: Path | None, form: str, task_name: str | None, progress: Progress
) -> Iterator[Iterator[Chunk]]:
    """The chunks of records in a file, whatever form they have there; tells ``progress``."""
    with open_records(path, form, task_name) as (chunks, size):

        def told() -> Iterator[Chunk]:
            for chunk in chunks:
                yield chunk
                progress(min(chunk.position, size), size)

        yield told()


def convert_file(
    path: Path | None,
    output: Path | None,
    plan: Plan,
    *,
    form: str = "auto",
    crew: Crew,
    progress: Progress = silent,
    at_once: bool = False,
) -> Report:
    """Convert the records of one file (None: stdin) to rows in ``output`` (None: stdout).

    Records that cannot be used are left out and counted in the report. Raises ``DataError`` for
    a file that cannot be read and, with ``plan.strict``, for the first thing that is wrong.
    """
    plan.check()
    work = functools.partial(convert_chunk, pickle.dumps(plan))
    with (
        open_chunks(path, form, plan.task_name, progress) as chunks,
        open_output(output) as file,
    ):
        results = crew.map(work, chunks, at_once=at_once)
        return _written(results, file, Report(name=named(path)), plan)


def write_records(
    path: Path | None,
    output: Path | None,
    *,
    form: str,
    task_name: str | None,
    strict: bool,
    crew: Crew,
    progress: Progress = silent,
) -> Report:
    """Write what a file holds as unified records, one to a line."""
    plan = Plan(task_name or "", (), strict=strict)
    work = functools.partial(records_chunk, b"")
    with open_chunks(path, form, task_name, progress) as chunks, open_output(output) as file:
        return _written(crew.map(work, chunks), file, Report(name=named(path)), plan)


def survey_files(
    paths: Iterable[Path], task_name: str, *, form: str, crew: Crew, progress: Progress = silent
) -> Survey:
    """Read files through and count what their annotation has; bad records are passed over."""
    whole = Survey(task_name)
    for path in paths:
        with open_chunks(path, form, task_name, progress) as chunks:
            for part in crew.map(functools.partial(survey_chunk, task_name), chunks):
                whole.add(part)
    return whole


def named(path: Path | None) -> str:
    """How messages name an input."""
    return "stdin" if path is None else str(path)


def _written(results: Iterable[Done], file: IO[bytes], report: Report, plan: Plan) -> Report:
    ratio = plan.max_empty_ratio
    balance = Balance(ratio, plan.seed) if ratio is not None else None
    known = _Identities()
    for done in results:
        for line in known.repeated(done):
            done.tally.note(Problem(line, SAME_ID, ""))
        if plan.strict:
            report.refuse(done.tally)
        if balance is None or done.lengths is None:
            file.write(done.data)
        else:
            kept = balance.filtered(done.data, done.lengths, done.empty)
            report.empty_dropped += done.tally.rows - len(kept)
            done.tally.rows = len(kept)
            file.write(b"".join(kept))
        report.add(done.tally)
    return report


class _Identities:
    """Which identities have come before, as long as there is room to remember them."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def repeated(self, done: Done) -> list[int]:
        """The lines of records whose identity came before; remembers the new ones."""
        new = set(done.ids)
        lines: list[int] = []
        if len(new) < len(done.ids) or not self.seen.isdisjoint(new):
            for identity, line in zip(done.ids, done.id_lines, strict=True):
                if identity in self.seen and line not in lines[-1:]:
                    lines.append(line)
                self.seen.add(identity)
        if len(self.seen) < REMEMBERED:
            self.seen |= new
        return lines


__all__ = ["Tally", "convert_file", "named", "open_chunks", "survey_files", "write_records"]

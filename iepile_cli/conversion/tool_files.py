"""A file of records in another program's form: as unified records, a tool's, or a graph.

Loaded where it is asked for: rows need no writers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from iepile_cli.conversion.annotation import Annotation, Lost, annotation_of
from iepile_cli.conversion.chunks import Chunk
from iepile_cli.conversion.convert_chunk import Done, note_problems
from iepile_cli.conversion.convert_file import (
    Progress,
    open_chunks,
    open_output,
    silent,
    write_chunks,
)
from iepile_cli.conversion.file_report import Counts, Report
from iepile_cli.conversion.graphs import GRAPHS, GraphFile
from iepile_cli.conversion.label_aliases import rename_entries
from iepile_cli.conversion.options import JSON_ARRAYS
from iepile_cli.conversion.plan import Plan
from iepile_cli.conversion.record_gold import (
    FIELDS,
    PART_LOST,
    Problem,
    Unusable,
    read_json,
    text_of,
)
from iepile_cli.conversion.writers import BratFolder, tool_form
from iepile_cli.errors import UsageError
from iepile_cli.files import display_name
from iepile_cli.parallel import WorkerPool
from iepile_cli.shards import Shard
from iepile_cli.task.instruction import dumps
from iepile_cli.writing import atomic_folder, atomic_write


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
        with open_output(output, strict) as file:
            if to in JSON_ARRAYS:
                file.write(b"[\n")
                write_chunks(_separated(results), file, None, report, plan)
                file.write(b"]\n")
            else:
                write_chunks(results, file, None, report, plan)
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


def records_chunk(to: str, renames: dict[str, str], chunk: Chunk) -> Done:
    """Write the records of a chunk as unified records (``to`` "records") or in a tool's form."""
    done = Done()
    rows = []
    for line, record in chunk_records(chunk, renames, done.counts):

        def lost(what: str, line: int = line) -> None:
            done.counts.note(Problem(line, PART_LOST, what))

        rows.append(
            dumps(record).encode() + b"\n"
            if to == "records"
            else tool_form(annotation_of(record, lost), to, lost)
        )
    done.counts.rows = len(rows)
    done.data = (b"," if to in JSON_ARRAYS else b"").join(rows)
    return done


def chunk_records(
    chunk: Chunk, renames: dict[str, str], counts: Counts
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The unified records of a chunk with their lines, labels under their new names.

    What cannot be used is noted in ``counts``.
    """
    note_problems(chunk, counts)
    for index, raw in chunk.records():
        counts.records += 1
        line = chunk.line_of(index)
        try:
            record = read_json(raw)
            text = text_of(record)
        except Unusable as problem:
            counts.note(Problem(line, problem.kind, problem.what))
            continue
        if "text" not in record:
            record = {"text": text, **{key: record[key] for key in record if key != "input"}}
        for name in FIELDS:
            if renames and name in record:
                record[name] = rename_entries(record[name], name, renames)
        yield line, record

"""What a worker process does with a chunk: one function for each thing that comes out."""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from iepile_cli.conversion.choosing import dice_for
from iepile_cli.conversion.converter import Converter, read_json
from iepile_cli.conversion.gold import Problem, Unusable, text_of
from iepile_cli.conversion.inputs import Chunk
from iepile_cli.conversion.plan import Plan
from iepile_cli.conversion.report import Tally
from iepile_cli.conversion.varied import VariedConverter
from iepile_cli.task.instruction import dumps


@dataclass
class Done:
    """A converted chunk: its rows as one piece, counts, and how far the file has been read.

    ``empty`` (when asked for) says of each row whether its whole answer is empty, with the
    lengths of the rows. ``ids`` holds 8 bytes of hash of each record's identity, with its line.
    """

    data: bytes = b""
    tally: Tally = field(default_factory=Tally)
    position: int = 0
    lengths: array[int] | None = None
    empty: list[bool] = field(default_factory=list)
    ids: array[int] = field(default_factory=lambda: array("Q"))
    id_lines: array[int] = field(default_factory=lambda: array("Q"))


# A worker gets the same few plans again and again; a converter costs more than a chunk's pickle.
@functools.lru_cache(16)
def _converter(pickled: bytes) -> Converter | VariedConverter:
    import pickle

    plan: Plan = pickle.loads(pickled)
    return Converter(plan) if plan.readings is None else VariedConverter(plan)


def convert_chunk(pickled_plan: bytes, chunk: Chunk) -> Done:
    """Convert the records of a chunk; never raises for a record."""
    converter = _converter(pickled_plan)
    plan = converter.plan
    done = Done(position=chunk.position)
    tally = done.tally
    rows: list[bytes] = []
    weighs = plan.max_empty_ratio is not None
    line = 0

    def report(kind: str, what: str) -> None:
        tally.note(Problem(line, kind, what))

    for problem in chunk.problems:
        tally.records += 1
        tally.note(problem)
    for index, raw in _records(chunk):
        number = chunk.first + index
        if plan.share < 1 and dice_for(~plan.seed, number).random() >= plan.share:
            continue
        line = chunk.line_of(index)
        tally.records += 1
        try:
            record = read_json(raw)
            made, empty = converter.convert(record, number, report)
        except Unusable as problem:
            tally.note(Problem(line, problem.kind, problem.what))
            continue
        _identify(record, made if plan.split == "test" else [], line, done)
        rows += made
        if weighs:
            done.empty += empty
    tally.rows = len(rows)
    if weighs:
        done.lengths = array("Q", map(len, rows))
    done.data = b"".join(rows)
    return done


def _records(chunk: Chunk) -> Iterator[tuple[int, bytes]]:
    for index, raw in enumerate(chunk.data.split(b"\n")):
        if raw and not raw.isspace():
            yield index, raw


def _identify(record: dict[str, Any], test_rows: list[bytes], line: int, done: Done) -> None:
    """Note what the record is known by: its own id and, in a test set, the hash of its text."""
    own = record.get("id")
    if own is not None:
        name = orjson.dumps(own, default=str)
        digest = hashlib.blake2b(name, digest_size=8).digest()
        done.ids.append(int.from_bytes(digest, "big"))
        done.id_lines.append(line)
    if test_rows:
        # A test row opens with {"id": " and 64 hex digits.
        done.ids.append(int(test_rows[0][8:24], 16))
        done.id_lines.append(line)


def records_chunk(_: bytes, chunk: Chunk) -> Done:
    """Write the records of a chunk as unified records, unchanged but for form."""
    done = Done(position=chunk.position)
    rows: list[bytes] = []
    for problem in chunk.problems:
        done.tally.records += 1
        done.tally.note(problem)
    for index, raw in _records(chunk):
        line = chunk.line_of(index)
        done.tally.records += 1
        try:
            record = read_json(raw)
            text = text_of(record)
        except Unusable as problem:
            done.tally.note(Problem(line, problem.kind, problem.what))
            continue
        if "text" not in record:
            record = {"text": text, **{key: record[key] for key in record if key != "input"}}
        rows.append(dumps(record).encode() + b"\n")
    done.tally.rows = len(rows)
    done.data = b"".join(rows)
    return done

"""What a worker process does with a chunk of records: one function for each kind of output."""

from __future__ import annotations

import functools
import hashlib
import pickle
from array import array
from dataclasses import dataclass, field
from pickle import PickleBuffer
from typing import Any

import orjson

from iepile_cli.conversion.chunks import Chunk
from iepile_cli.conversion.convert_record import AliasConverter, Converted, Converter
from iepile_cli.conversion.file_report import Counts
from iepile_cli.conversion.mining import Survey
from iepile_cli.conversion.plan import Plan
from iepile_cli.conversion.record_gold import KEPT, Problem, Unusable, read_json
from iepile_cli.conversion.sampling import rng_for


@dataclass
class Done:
    """A converted chunk: its rows as one piece, and counts.

    ``dev`` are the rows of the dev share. ``empty`` (when asked for) says of each row whether its
    whole answer is empty, with the lengths of the rows. ``ids`` holds 8 bytes of hash of each
    record's identity, with its line.
    """

    data: bytes | memoryview = b""
    dev: bytes | memoryview = b""
    counts: Counts = field(default_factory=Counts)
    lengths: array[int] | None = None
    empty: list[bool] = field(default_factory=list)
    ids: array[int] = field(default_factory=lambda: array("Q"))
    id_lines: array[int] = field(default_factory=lambda: array("Q"))

    def __getstate__(self) -> dict[str, Any]:
        # Rows take the way through shared memory where there is one.
        return self.__dict__ | {"data": PickleBuffer(self.data), "dev": PickleBuffer(self.dev)}


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

    note_problems(chunk, counts)
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


def note_problems(chunk: Chunk, counts: Counts) -> None:
    """Count what was met while a chunk was cut."""
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


def survey_chunk(task_name: str, renames: dict[str, str], chunk: Chunk) -> Survey:
    """Count the records of a chunk; those that cannot be read count for nothing."""
    survey = Survey(task_name)
    for _, raw in chunk.records():
        try:
            survey.add_record(read_json(raw), renames)
        except Unusable:
            continue
    return survey

"""Instruction records: texts that bring their own instruction, as ``convert`` writes them.

Goes in: JSON Lines whose records have an ``instruction``. Comes out: ``InstructionRecord``, a
document with the task, schema and text of its instruction, beside the words of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, TypeAlias

from iepile_cli import encodings, files, record_files
from iepile_cli.errors import DataError, OnError, UnknownName
from iepile_cli.extraction.inputs import Document, DocumentOrError, read_file
from iepile_cli.files import STDIN
from iepile_cli.task.instruction import Instruction, dumps, parse_instruction
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS, Task, task_named

# A record's identity, and its number among those that have the same one.
RecordKey: TypeAlias = tuple[int, int]

_IDENTITY = ("id", "task", "source", "instruction")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionRecord(Document):
    """A record with an instruction.

    ``fields`` is the whole record, ``wording`` its instruction to the letter and ``instruction``
    what that asks for. ``record_key`` stays the same from run to run, whatever the line.
    """

    fields: dict[str, Any]
    wording: str
    instruction: Instruction
    record_key: RecordKey

    @property
    def key(self) -> RecordKey:
        """What tells this record from the others of a run."""
        return self.record_key


def read_instructions(
    path: str, on_error: OnError, *, task: Task | None = None, encoding: str | None = None
) -> Iterator[Document]:
    """The instruction records of a JSON Lines file (``-`` for standard input), packed or not.

    ``task`` is that of records which name none and whose wording tells none. A record that cannot
    be used goes to ``on_error`` and the rest goes on. Raises ``UsageError`` at once for an
    ``encoding`` that is none.
    """
    encodings.check_encoding(encoding)
    whole = path != STDIN and files.suffix(path) == ".json"
    numbering = RecordNumbering()

    def reader(stream: BufferedReader, name: str) -> Iterable[DocumentOrError]:
        lines = encodings.decoded_lines(stream, encoding)
        for line, value in record_files.objects(lines, whole=whole):
            try:
                yield _record(name, line, value, numbering, task)
            except DataError as error:
                yield error.at(name, line)

    return read_file(path, reader, on_error, what="record")


def _record(
    name: str, line: int, value: Any, numbering: RecordNumbering, fallback: Task | None
) -> InstructionRecord:
    if isinstance(value, DataError):
        raise value
    wording = value.get("instruction") if isinstance(value, dict) else None
    if not isinstance(wording, str):
        raise DataError("has no 'instruction'", hint="records of convert have one")
    # Numbered even when it cannot be used: the numbers of later ones must not change with --task.
    key = numbering(value)
    instruction = _instruction(value, wording, fallback)
    return InstructionRecord(
        source=name,
        text=instruction.text,
        line=line,
        fields=value,
        wording=wording,
        instruction=instruction,
        record_key=key,
    )


def _instruction(fields: dict[str, Any], wording: str, fallback: Task | None) -> Instruction:
    """What a record's instruction asks for; raises ``DataError``."""
    failed = ""
    for task in _tasks(fields, wording, fallback):
        try:
            read = parse_instruction(task, wording)
        except (ValueError, RecursionError) as error:
            failed = failed or f"its 'instruction' cannot be read: {error}"
            continue
        if not read.items:
            raise DataError("its instruction asks for nothing: 'schema' is empty")
        # An answer has each key once, whatever asks for it.
        once: dict[str, SchemaItem] = {item.type: item for item in reversed(read.items)}
        items = tuple(once[key] for key in dict.fromkeys(item.type for item in read.items))
        return Instruction(task, items, record_files.clean(read.text), read.language)
    raise DataError(failed or "it names no task", hint="" if failed else "name it with --task")


def _tasks(fields: dict[str, Any], wording: str, fallback: Task | None) -> Iterator[Task]:
    """A record's task: as it says, else ``fallback``, else those of its instruction's words."""
    named = fields.get("task")
    if isinstance(named, str) and named:
        try:
            yield task_named(named)
        except UnknownName as error:
            raise DataError(error.message, hint=error.hint) from None
        return
    if fallback is not None:
        yield fallback
        return
    for task in TASKS.values():
        openings = [dumps({"instruction": words})[:-1] for words in task.instruction.values()]
        if wording.startswith(tuple(openings)):
            yield task


class RecordNumbering:
    """Gives each record a key that stays the same from run to run, whatever its line."""

    def __init__(self) -> None:
        self._seen: Counter[int] = Counter()

    def __call__(self, fields: dict[str, Any]) -> RecordKey:
        """The key of the next record: a hash, and a count, as corpora have the same line twice."""
        identity = json.dumps([fields.get(name) for name in _IDENTITY], ensure_ascii=True)
        digest = hashlib.blake2b(identity.encode("ascii"), digest_size=8).digest()
        which = int.from_bytes(digest, "big")
        self._seen[which] += 1
        return which, self._seen[which]

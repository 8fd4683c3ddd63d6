"""What the readers of annotation tools' JSON share: records from character spans and relations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from iepile_cli.conversion.chunks import Chunk
from iepile_cli.conversion.record_gold import UNFIT, Problem, Unusable, read_json
from iepile_cli.task.instruction import dumps

# Notes something odd that is kept: its kind, and what.
Note: TypeAlias = Callable[[str, str], None]
# Makes unified records of one decoded record of a tool.
RecordReader: TypeAlias = Callable[[Any, Note], Iterable[dict[str, Any]]]


class LabelledSpan(NamedTuple):
    """A labelled piece of a text, half-open, in characters."""

    start: int
    end: int
    label: str


def read_records(
    chunks: Iterable[Chunk], read: RecordReader, form: str
) -> Iterator[tuple[int, bytes] | Problem]:
    """Unified records, each with its line, from chunks of a tool's JSON records.

    ``form`` names the tool in what is said of a record of another form.
    """
    for chunk in chunks:
        yield from chunk.problems
        for index, raw in chunk.records():
            line = chunk.line_of(index)
            notes: list[Problem] = []

            def note(kind: str, what: str, line: int = line, notes: list[Problem] = notes) -> None:
                notes.append(Problem(line, kind, what))

            try:
                records = list(read(read_json(raw), note))
            except Unusable as problem:
                yield Problem(line, problem.kind, problem.what)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError):
                yield Problem(line, UNFIT, f"not {form}")
            else:
                yield from notes
                for record in records:
                    yield line, dumps(record).encode()


def span_record(
    text: str, spans: Iterable[LabelledSpan], identity: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A unified record with an entity for each span, repetitions left out.

    ``identity`` is what the record is taken from: its ``id`` is kept. Raises ``Unusable``.
    """
    entities = []
    for start, end, label in dict.fromkeys(spans):
        if not isinstance(text, str) or not 0 <= start < end <= len(text):
            raise Unusable(UNFIT, f"span {start} to {end} is not in the text")
        entities.append(entity_entry(text, LabelledSpan(start, end, label)))
    named = identity.get("id") if identity else None
    return {**({} if named is None else {"id": named}), "text": text, "entity": entities}


def entity_entry(text: str, span: LabelledSpan) -> dict[str, Any]:
    """A span as an entity of a unified record."""
    start, end, label = span
    return {"entity": text[start:end], "entity_type": label, "start": start, "end": end}


def relation_entry(text: str, head: LabelledSpan, label: str, tail: LabelledSpan) -> dict[str, Any]:
    """A relation between two spans as an entry of a unified record."""
    return {
        "head": text[head.start : head.end],
        "head_type": head.label,
        "relation": label,
        "tail": text[tail.start : tail.end],
        "tail_type": tail.label,
        "head_start": head.start,
        "head_end": head.end,
        "tail_start": tail.start,
        "tail_end": tail.end,
    }

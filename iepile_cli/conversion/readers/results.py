"""Results of ``iepile extract`` as annotation: what a model answered, or a person corrected.

A result names its source and the line in it; the text is read from there, unless the result holds
it as ``text``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from iepile_cli import arrow_files, record_files
from iepile_cli.conversion.chunks import Chunk
from iepile_cli.conversion.readers.spans import Note
from iepile_cli.conversion.record_gold import UNFIT, GoldItem, Span, Unusable, entries_of
from iepile_cli.documents import read_text
from iepile_cli.encodings import decode_json, decoded_lines, stream_encoding
from iepile_cli.errors import DataError
from iepile_cli.files import STDIN_NAME, open_input, suffix
from iepile_cli.record_files import TABLES, TEXT_FIELD
from iepile_cli.task.records import Gold
from iepile_cli.task.shape import fixed_roles, slot_role
from iepile_cli.task.table import Task, task_named

_RECORDS = (".json", ".jsonl", ".ndjson")


class SourceTexts:
    """The texts that results are from, read where the results say; holds one source at a time.

    ``folder`` is that of the results: sources are looked for there too. ``text_field`` and
    ``encoding`` are as for ``iepile extract``.
    """

    def __init__(
        self, folder: Path, *, text_field: str = TEXT_FIELD, encoding: str | None = None
    ) -> None:
        self._folder, self._field, self._encoding = folder, text_field, encoding
        self._source = ""
        self._texts: Iterator[tuple[int, str]] = iter(())
        self._at = 0

    def of(self, result: dict[str, Any]) -> str:
        """The text of a result: its own, or that of its source; raises ``Unusable``."""
        text = result.get("text")
        if isinstance(text, str):
            return text
        source, line = str(result["source"]), result.get("line")
        if source == STDIN_NAME:
            raise Unusable(UNFIT, "its text was read from standard input")
        path = self.path(source)
        if path is None:
            raise Unusable(UNFIT, f"its source {source} is not there")
        try:
            if line is None:
                return read_text(path, self._encoding)
            return self._line(path, line)
        except DataError as error:
            raise Unusable(UNFIT, f"{path}: {error.reason}") from None

    def path(self, source: str) -> Path | None:
        """Where a source is; None when it is not there."""
        return _found(source, self._folder)

    def _line(self, path: Path, line: int) -> str:
        """The text at a line; results in the order of their source read it once."""
        if str(path) != self._source or line < self._at:
            self._source, self._at = str(path), 0
            self._texts = _numbered_texts(path, self._field, self._encoding)
        for number, text in self._texts:
            self._at = number
            if number == line:
                return text
        self._source = ""
        raise Unusable(UNFIT, f"{path} has no text in line {line}")


class ResultReader:
    """Makes unified records of results; ``folder`` is theirs, as for ``SourceTexts``."""

    def __init__(self, folder: Path) -> None:
        self._texts = SourceTexts(folder)

    def __call__(self, value: Any, note: Note) -> Iterator[dict[str, Any]]:
        """The unified record of one result; raises ``Unusable``."""
        task = task_named(str(value["task"]))
        text = self._texts.of(value)
        items = [result_item(task, one, text) for one in value["items"]]
        named = {key: value[key] for key in ("id", "source", "line") if value.get(key) is not None}
        yield {**named, "text": text, task.layout.field: entries_of(task, items)}


def _found(source: str, folder: Path) -> Path | None:
    return next((one for one in (Path(source), folder / source) if one.is_file()), None)


def result_sources(chunks: Iterable[Chunk], folder: Path) -> Iterator[Path]:
    """The files that results in ``folder`` take their texts from, each once."""
    names: set[str] = set()
    for chunk in chunks:
        for _, raw in chunk.records():
            with contextlib.suppress(DataError):
                record = decode_json(raw)
                if isinstance(record, dict) and not isinstance(record.get("text"), str):
                    names.add(str(record.get("source")))
    return (path for name in sorted(names) if (path := _found(name, folder)) is not None)


def _numbered_texts(path: Path, text_field: str, encoding: str | None) -> Iterator[tuple[int, str]]:
    """The texts of a source with their numbers, as ``extract`` reads it."""
    with open_input(path) as source:
        ending = suffix(path)
        if ending in arrow_files.SUFFIXES:
            for number, row in arrow_files.rows(source.stream, [text_field]):
                with contextlib.suppress(DataError):
                    yield number, record_files.text_of(row, text_field)[0]
            return
        lines = decoded_lines(source.stream, encoding or stream_encoding(source.stream))
        if ending not in _RECORDS and ending not in TABLES:
            for number, line in lines:
                if isinstance(line, str):
                    yield number, line.removesuffix("\n").removesuffix("\r")
            return
        found = (
            record_files.rows(lines, TABLES[ending], text_field)
            if ending in TABLES
            else record_files.objects(lines, whole=ending == ".json")
        )
        for number, record in found:
            with contextlib.suppress(DataError):
                if not isinstance(record, DataError):
                    yield number, record_files.text_of(record, text_field)[0]


def result_item(task: Task, found: dict[str, Any], text: str | None) -> GoldItem:
    """One item of a result, with its places; an empty mention is none.

    Raises ``Unusable`` where the text, if it is known, has something else there.
    """
    fixed = fixed_roles(task.shape)
    roles: list[tuple[str, str]] = []
    spans: list[Span | None] = []

    def add(role: str, mention: dict[str, Any]) -> None:
        if not mention["text"]:
            return
        start, end = mention.get("start"), mention.get("end")
        placed = type(start) is int and type(end) is int and 0 <= start < end
        if placed and text is not None and text[start:end] != mention["text"]:
            raise Unusable(UNFIT, f"{mention['text']!r} is not at {start} of its source's text")
        roles.append((role, mention["text"]))
        spans.append((start, end) if placed else None)  # type: ignore[arg-type]

    if task.is_single:
        add(fixed[0], found)
    else:
        for role in fixed:
            if isinstance(found.get(role), dict):
                add(role, found[role])
        for part in found.get(task.slots, ()) if task.slots else ():
            add(slot_role(str(part["role"])), part)
    ends = {field: str(found.get(key, "")) for key, field in task.item_keys if "_type" in field}
    gold = Gold(str(found["type"]), tuple(roles), **ends)
    return GoldItem(gold, tuple(spans))

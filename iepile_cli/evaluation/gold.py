"""Predictions against gold of a file of its own: annotated data, or results with offsets.

Goes in: predictions (results of ``extract``, or converted records with their ``output``) and gold
in any form that ``convert`` reads. A prediction's gold is found by task, source and id, where the
gold holds results too; else by its id, by its text, or by its line where it was made from the gold
file itself. Where every gold mention of a document says where it stands, results are compared by
their offsets, otherwise by their text.
"""

from __future__ import annotations

import io
import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

from iepile_cli.conversion.gold import Unusable
from iepile_cli.conversion.offsets import entries_of
from iepile_cli.conversion.readers import form_of, read_gold
from iepile_cli.conversion.readers.results import ResultReader
from iepile_cli.errors import DataError, UsageError
from iepile_cli.evaluation.counts import (
    ANSWERS,
    FIRST,
    MALFORMED,
    SILENT,
    TRUNCATED,
    UNLABELLED,
    Counts,
)
from iepile_cli.evaluation.decoding import decode, decode_record
from iepile_cli.evaluation.documents import (
    NO_SOURCE,
    Document,
    RowReader,
    count_document,
    normalise,
)
from iepile_cli.evaluation.facts import Fact, FactReader, Facts, TypedItem
from iepile_cli.evaluation.options import EvalOptions
from iepile_cli.evaluation.predictions import plain_file
from iepile_cli.evaluation.regroup import Grouping, Span
from iepile_cli.task.instruction import dumps
from iepile_cli.task.shape import Each, Mention, fixed_roles
from iepile_cli.task.table import TASKS, Layout, Task

# What a gold document can be found by.
Name: TypeAlias = tuple[Any, ...]
NO_GOLD = -1


class GoldIndex:
    """The gold documents of one task in a temporary file, found by what predictions say of theirs.

    ``records`` are unified records with offsets, or results. The n-th prediction of a name goes
    with the n-th gold document of that name. In memory are some hundred bytes a document.
    """

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        # Closed by ``close``.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._starts = array("q", [0])
        self._by_name: dict[Name, list[int]] = {}
        self._times: Counter[Name] = Counter()
        self._used: set[int] = set()
        for number, record in enumerate(records):
            self._file.write(dumps(record).encode("utf-8", "surrogatepass"))
            self._starts.append(self._file.tell())
            for name in _names(record, record.get("text")):
                self._by_name.setdefault(name, []).append(number)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def record(self, number: int) -> dict[str, Any]:
        """A gold document: a unified record, or a result."""
        self._file.seek(self._starts[number])
        data = self._file.read(self._starts[number + 1] - self._starts[number])
        value: dict[str, Any] = decode(data.decode("utf-8", "surrogatepass"))
        return value

    def find(self, prediction: dict[str, Any], text: str | None) -> int:
        """The number of the gold document of a prediction, which is then used; or ``NO_GOLD``."""
        for name in _names(prediction, text):
            numbers = self._by_name.get(name, [])
            while self._times[name] < len(numbers):
                number = numbers[self._times[name]]
                self._times[name] += 1
                if number not in self._used:
                    self._used.add(number)
                    return number
        return NO_GOLD

    def unused(self) -> Iterator[int]:
        """The gold documents that no prediction answers."""
        return (number for number in range(len(self)) if number not in self._used)


def _names(value: dict[str, Any], text: Any) -> Iterator[Name]:
    source, name = value.get("source"), value.get("id")
    if "items" in value:
        yield "result", "" if source is None else str(source), "" if name is None else str(name)
    if name not in (None, ""):
        yield ("id", str(name))
    if isinstance(text, str):
        data = text.encode("utf-8", "surrogatepass")
        yield ("text", blake2b(data, digest_size=12).digest())


def _gold_records(path: str, form: str, task: Task) -> Iterator[dict[str, Any]]:
    """The gold of one task in a file: unified records with offsets, or results as they are."""
    known = form_of(Path(path), form)
    # Results need no text here, and no answer beside their items.
    if known == "results" or (known == "iepile" and _holds_results(path)):
        with plain_file(path) as plain, open(plain, "rb") as file:
            for line in file:
                value = decode_record(line)
                if _is_result(value) and _entries(value, task) is not None:
                    yield value
        return
    for record in read_gold(path, form, task):
        if record.task is not None:
            entries = entries_of(task, record.items)
            yield {"id": record.id, "text": record.text, task.layout.field: entries}


def _holds_results(path: str) -> bool:
    """Whether the first record of a file is a result."""
    if not os.path.isfile(path):
        return False
    with plain_file(path) as plain, open(plain, "rb") as file:
        return _is_result(decode_record(next((line for line in file if line.strip()), b"")))


class GoldComparison:
    """A file of predictions and the gold for it: counted, and its documents read again."""

    def __init__(self, path: str, gold: str, options: EvalOptions, form: str = "auto") -> None:
        if options.literal or options.asked_only:
            raise UsageError(
                "--gold cannot be combined with --upstream-compatible or --asked-only",
                hint="they are for records that hold their gold",
            )
        self.path = path
        self.options = options
        self.counts = Counts()
        self._gold_path, self._form = gold, form
        self._gold: dict[str, GoldIndex] = {}
        self._rows = RowReader(options)
        self._readers: dict[str, FactReader] = {}
        self._texts = ResultReader(Path(gold).parent)
        # For each document its task, the bytes of its prediction (none: not answered), its gold.
        self._pairs: list[tuple[Task, list[Span], int]] = []

    def count(self, tick: Callable[[int], None] | None = None) -> Counts:
        """Count every document that has gold; gold that is not answered counts as missed.

        Raises ``DataError`` when there is no gold at all.
        """
        predicted = list(self._predictions(tick))
        for name in dict.fromkeys(task.name for task, _ in predicted):
            records = _gold_records(self._gold_path, self._form, TASKS[name])
            self._gold[name] = GoldIndex(records)
        if predicted and not any(map(len, self._gold.values())):
            raise DataError(
                f"holds no result to compare with and no annotation for {', '.join(self._gold)}",
                path=self._gold_path,
            )
        for task, spans in predicted:
            self._count(task, spans, NO_GOLD)
        for name, index in self._gold.items():
            for number in index.unused():
                self._count(TASKS[name], [], number)
        return self.counts

    def close(self) -> None:
        """Remove temporary files."""
        for index in self._gold.values():
            index.close()

    def document(self, number: int) -> Document | None:
        """Read the document of that number again."""
        task, spans, gold = self._pairs[self.counts.document_table()[number, FIRST]]
        document, value = self._predicted(task, spans, Counts())
        if not self._join(document, value, self._gold[task.name].record(gold)):
            return None
        normalise(document, self.options)
        return document

    def _predictions(self, tick: Callable[[int], None] | None) -> Iterable[tuple[Task, list[Span]]]:
        """Each document that was predicted: its task, and the bytes of its lines."""
        documents: dict[Any, tuple[Task, list[Span]]] = {}
        grouping = Grouping(literal=False)
        at = 0
        with open(self.path, "rb", buffering=1 << 20) as file:
            for line in file:
                span = (at, at + len(line))
                value = decode_record(line)
                if _is_result(value):
                    task = self._task(value)
                    if task is not None:
                        documents[at] = task, [span]
                    elif self.options.task:
                        self.counts.skipped += 1
                    else:
                        self.counts.count_unreadable(at)
                else:
                    for read in self._rows.rows(io.BytesIO(line), 0, len(line), self.counts):
                        key = grouping.key(read)
                        documents.setdefault(key, (read[1].reader.task, []))[1].append(span)
                at += len(line)
                if tick is not None:
                    tick(len(line))
        return documents.values()

    def _task(self, value: dict[str, Any]) -> Task | None:
        name = value.get("task")
        task = TASKS.get(name.upper() if isinstance(name, str) else self.options.task)
        return None if task is None or self.options.task not in ("", task.name) else task

    def _count(self, task: Task, spans: list[Span], gold: int) -> None:
        """Count the document of some lines, or of gold that nothing was predicted for."""
        document, value = self._predicted(task, spans, self.counts)
        index = self._gold[task.name]
        if spans:
            if document.text is None and _is_result(value) and not value.get("id"):
                document.text = self._text(value)
            gold = index.find(value, document.text)
        record = index.record(gold) if gold != NO_GOLD else {}
        if not spans:
            document = self._empty(task, record, self.counts)
            document.rows[SILENT] += 1
        if not self._join(document, value, record):
            document.rows[UNLABELLED] += 1
            return
        if _is_result(value) and not isinstance(value["items"], list):
            document.rows[MALFORMED] += 1
        self._pairs.append((task, spans, gold))
        document.first = len(self._pairs) - 1
        count_document(document, self.options, self.counts, len(self._pairs))

    def _text(self, value: dict[str, Any]) -> str | None:
        """The text of a result that does not hold it, from the file that it names."""
        try:
            for record in self._texts({**value, "items": []}, lambda *_: None):
                return str(record["text"])
        except (Unusable, LookupError, TypeError):
            pass
        return None

    def _predicted(
        self, task: Task, spans: list[Span], counts: Counts
    ) -> tuple[Document, dict[str, Any]]:
        """A document with what rows answered for it, and the result that it is, or its names."""
        document: Document | None = None
        value: dict[str, Any] = {}
        with open(self.path, "rb") as file:
            for start, end in spans:
                file.seek(start)
                line = file.read(end - start)
                value = decode_record(line)
                if _is_result(value):
                    document = self._empty(task, value, counts)
                    document.rows[ANSWERS] += 1
                    document.rows[TRUNCATED] += value.get("truncated") is True
                    break
                for row, of_task, batch, text, *_ in self._rows.rows(
                    io.BytesIO(line), 0, len(line), Counts()
                ):
                    document = document or self._rows.begin(row, of_task, text, start, counts)
                    self._rows.add_answer(row, of_task, batch, document)
                    value = {"id": document.id, "source": document.source}
        return document or self._empty(task, {}, counts), value

    def _empty(self, task: Task, value: dict[str, Any], counts: Counts) -> Document:
        """A document without anything predicted, named as a result or a record is."""
        reader = self._readers.setdefault(task.name, FactReader(task))
        source, name, text = value.get("source"), value.get("id"), value.get("text")
        source = NO_SOURCE if source is None else str(source)
        return Document(
            reader,
            counts.group(task.name, source),
            "" if name is None else str(name),
            None,
            text if isinstance(text, str) else None,
        )

    def _join(self, document: Document, value: dict[str, Any], record: dict[str, Any]) -> bool:
        """Give a document its gold, and what a result predicts; False when there is no gold."""
        reader, task = document.reader, document.reader.task
        entries = _entries(record, task)
        if entries is None:
            return False
        text = record.get("text")
        if isinstance(text, str):
            document.text = document.comparable_text = text
        surfaces: dict[Span, str] = {}
        document.surfaces = surfaces
        result = _is_result(value)
        if _is_result(record):
            by_offset = all(_span(mention) for mention in _mentions(task, entries))
            document.gold = _item_facts(reader, entries, surfaces, by_offset)
        else:
            by_offset = (result or not value) and _is_placed(task, entries)
            document.gold, document.optional = _entry_facts(reader, entries, surfaces, by_offset)
        if result:
            document.predicted = _item_facts(reader, value["items"], surfaces, by_offset)
        if by_offset and document.text is None:
            # Without the text, a mention without offsets cannot be found in it.
            document.text = document.comparable_text = ""
        return True


def _is_result(value: Any) -> bool:
    """Whether a line is a result of ``extract``, whatever its items are like."""
    return isinstance(value, dict) and "items" in value


def _entries(record: dict[str, Any], task: Task) -> list[Any] | None:
    """The annotation of a task in a gold document: the items of a result, or its list."""
    if _is_result(record):
        name = record.get("task")
        own = not isinstance(name, str) or name.upper() == task.name
        entries = record["items"] if own else None
    else:
        entries = record.get(task.layout.field)
    return entries if isinstance(entries, list) else None


# ------------------------------------------------------------------------- unified annotations

# Stands between a mention and its offsets while an annotation is read.
_AT = "\0at\0"


def _is_placed(task: Task, entries: list[Any]) -> bool:
    """Whether every mention of some annotations says where it stands."""
    return all(_with_offsets(task.layout, entry) is not None for entry in entries)


def _entry_facts(
    reader: FactReader, entries: list[Any], surfaces: dict[Span, str], by_offset: bool
) -> tuple[Facts, list[Fact]]:
    """The facts of annotations, their mentions as offsets or as text."""
    if not by_offset:
        facts, optional = reader.read_entries(entries)
        if reader.task.layout.unique:
            # As conversion does: one mention of a type is one, wherever it stands.
            facts = [list(dict.fromkeys(of_unit)) for of_unit in facts]
        return facts, optional
    placed = [_with_offsets(reader.task.layout, entry) for entry in entries]
    facts, optional = reader.read_entries(placed)

    def span(mention: str) -> Any:
        text, at, offsets = mention.partition(_AT)
        if not at:
            return mention
        start, _, end = offsets.partition(":")
        surfaces[int(start), int(end)] = text
        return int(start), int(end)

    for of_unit, labels in zip(facts, reader.labels, strict=True):
        of_unit[:] = [(*fact[:labels], *map(span, fact[labels:])) for fact in of_unit]
    return facts, optional


def _with_offsets(layout: Layout, entry: Any) -> dict[str, Any] | None:
    """An entry whose mentions carry their offsets; None where one has none.

    An entry with one mention has ``start`` and ``end``, one with several ``head_start`` and so
    on; an argument has its own.
    """
    if not isinstance(entry, dict):
        return None
    placed = dict(entry)
    single = len(layout.roles) == 1 and not layout.by_head
    keys = [key for _, key in layout.roles]
    keys += [layout.slot_text] if layout.by_head else []
    for key in keys:
        prefix = "" if single else f"{key}_"
        if not _place(placed, key, entry.get(f"{prefix}start"), entry.get(f"{prefix}end")):
            return None
    if layout.slot_list:
        parts = entry.get(layout.slot_list, [])
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            return None
        parts = [dict(part) for part in parts]
        for part in parts:
            if not _place(part, layout.slot_text, part.get("start"), part.get("end")):
                return None
        placed[layout.slot_list] = parts
    return placed


def _place(entry: dict[str, Any], key: str, start: Any, end: Any) -> bool:
    mention = entry.get(key)
    if not mention:
        return True
    span = _span({"start": start, "end": end})
    if span is None or not isinstance(mention, str):
        return False
    entry[key] = f"{mention}{_AT}{span[0]}:{span[1]}"
    return True


# ----------------------------------------------------------------------------- results of extract


def _item_facts(
    reader: FactReader, items: Any, surfaces: dict[Span, str], by_offset: bool
) -> Facts:
    """The facts of a result's items, their mentions as offsets or as text."""
    facts = reader.empty()
    for item in items if isinstance(items, list) else ():
        typed = _typed_item(reader.task, item, surfaces, by_offset)
        if typed is not None:
            reader.add(typed, facts)
    return facts


def _span(mention: Any) -> Span | None:
    """The offsets of a mention, or None when it does not have two whole numbers in order."""
    start, end = mention.get("start"), mention.get("end")
    if type(start) is int and type(end) is int and 0 <= start < end:
        return start, end
    return None


def _parts(task: Task, item: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The mentions of an item by role; slots come under "" with their role inside."""
    bare = isinstance(task.shape, Each) and isinstance(task.shape.element, Mention)
    for role in fixed_roles(task.shape):
        yield role, item if bare else item.get(role)
    slots = item.get(task.slots) if task.slots else None
    for slot in slots if isinstance(slots, list) else ():
        yield "", slot


def _mentions(task: Task, items: Any) -> Iterator[dict[str, Any]]:
    for item in items:
        for _, part in _parts(task, item) if isinstance(item, dict) else ():
            if isinstance(part, dict) and part.get("text"):
                yield part


def _typed_item(
    task: Task, item: Any, surfaces: dict[Span, str], by_offset: bool
) -> TypedItem | None:
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return None
    fixed: list[Any] = []
    slots: list[tuple[str, Any]] = []
    for role, part in _parts(task, item):
        mention: Any = ""
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            span = _span(part) if by_offset else None
            mention = part["text"] if span is None else span
            if span is not None:
                surfaces[span] = part["text"]
        if role:
            fixed.append(mention)
        elif isinstance(part, dict) and isinstance(part.get("role"), str) and mention:
            slots.append((part["role"], mention))
    if not any(fixed) and not slots:
        return None
    ends = (item.get("subject_type"), item.get("object_type"))
    subject_type, object_type = (end if isinstance(end, str) else "" for end in ends)
    return item["type"], subject_type, object_type, (tuple(fixed), list(dict.fromkeys(slots)))

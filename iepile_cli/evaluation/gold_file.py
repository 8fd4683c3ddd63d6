"""Predictions against gold of a file of its own: annotated data, or results with offsets.

Goes in: predictions (results of ``extract``, or converted records with their ``output``) and gold
in any form that ``convert`` reads. A prediction's gold is found by task, source and id, where the
gold holds results too; else by its id, then by its text. Where every gold mention of a document
says where it stands, results are compared by their offsets, otherwise by their text.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from iepile_cli.conversion.readers.results import ResultReader, result_item
from iepile_cli.conversion.record_gold import GoldItem, Unusable, gold_items
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
from iepile_cli.evaluation.decoding import decode_record
from iepile_cli.evaluation.documents import NO_SOURCE, Document, RowReader, count_document
from iepile_cli.evaluation.facts import Fact, FactReader, Facts
from iepile_cli.evaluation.gold_index import (
    NO_GOLD,
    GoldIndex,
    entries_for,
    gold_records,
    is_result,
)
from iepile_cli.evaluation.normalise import normalise
from iepile_cli.evaluation.options import EvalOptions
from iepile_cli.evaluation.regroup import Grouping, Span
from iepile_cli.task.table import TASKS, Task


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
            records = gold_records(self._gold_path, self._form, TASKS[name])
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
                if is_result(value):
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
            if document.text is None and is_result(value) and not value.get("id"):
                document.text = document.comparable_text = self._text(value)
            gold = index.find(value, document.text)
        record = index.record(gold) if gold != NO_GOLD else {}
        if not spans:
            document = self._empty(task, record, self.counts)
            document.rows[SILENT] += 1
        if not self._join(document, value, record):
            document.rows[UNLABELLED] += 1
            return
        if is_result(value) and not isinstance(value["items"], list):
            document.rows[MALFORMED] += 1
        self._pairs.append((task, spans, gold))
        document.first = len(self._pairs) - 1
        count_document(self.options, self.counts, document, len(self._pairs))

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
                if is_result(value):
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
        source, text = value.get("source"), value.get("text")
        name = value.get("id", value.get("line"))
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
        entries = entries_for(record, task)
        if entries is None:
            return False
        text = record.get("text")
        if isinstance(text, str):
            document.text = document.comparable_text = text
        surfaces: dict[Span, str] = {}
        document.surfaces = surfaces
        answered, from_result = is_result(value), is_result(record)
        if from_result:
            items = _result_items(task, entries)
        else:
            items = gold_items(task, entries, document.text or "", [])
        by_offset = (from_result or answered or not value) and _is_placed(items)
        document.gold, document.optional = _facts(reader, items, surfaces, by_offset)
        if answered:
            answers = _result_items(task, value["items"])
            document.predicted, _ = _facts(reader, answers, surfaces, by_offset)
        if not by_offset and not from_result:
            document.gold = _distinct(document.gold, task)
            if answered:
                document.predicted = _distinct(document.predicted, task)
        if by_offset and document.text is None:
            # Without the text, a mention without offsets cannot be found in it.
            document.text = document.comparable_text = ""
        return True


# -------------------------------------------------- facts whose mentions are offsets or texts


def _is_placed(items: Iterable[GoldItem]) -> bool:
    """Whether every mention of some gold says where it stands."""
    return all(span is not None for item in items for span in item.spans)


def _facts(
    reader: FactReader, items: Iterable[GoldItem], surfaces: dict[Span, str], by_offset: bool
) -> tuple[Facts, list[Fact]]:
    """The facts of gold, and those that are optional.

    Mentions are offsets where they are known and ``by_offset``, which get their text in
    ``surfaces``, and texts otherwise.
    """
    if not by_offset:
        return reader.read_items(item.gold for item in items)
    placed = []
    for gold, spans in items:
        roles: list[tuple[str, Any]] = []
        for (role, text), span in zip(gold.roles, spans, strict=True):
            if span is not None:
                surfaces[span] = text
            roles.append((role, text if span is None else span))
        placed.append(gold._replace(roles=tuple(roles)))
    return reader.read_items(placed)


def _distinct(facts: Facts, task: Task) -> Facts:
    """As conversion has it: one mention of a type is one, wherever it stands."""
    return [list(dict.fromkeys(one)) for one in facts] if task.layout.unique else facts


def _result_items(task: Task, items: Any) -> list[GoldItem]:
    """The items of a result; those that cannot be read, or hold no mention, are left out."""
    found = []
    for item in items if isinstance(items, list) else ():
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            found.append(result_item(task, item, None))
    return [item for item in found if item.gold.roles]

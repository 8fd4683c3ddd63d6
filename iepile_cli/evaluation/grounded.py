"""Predictions with offsets against gold with offsets: the files that ``extract`` writes.

Both files hold one result a line. Where every gold mention of a document says where it stands,
mentions are compared by their offsets, otherwise by their text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from iepile_cli.errors import DataError, UsageError
from iepile_cli.evaluation.decoding import decode
from iepile_cli.evaluation.document import Document, confusions, score, settle
from iepile_cli.evaluation.facts import Facts, Reader, Typed
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.rows import NO_SOURCE
from iepile_cli.evaluation.sheet import (
    ANSWERS,
    MALFORMED,
    SILENT,
    TRUNCATED,
    UNLABELLED,
    Sheet,
)
from iepile_cli.evaluation.tally import Tally
from iepile_cli.task.shape import Each, Mention, fixed_roles
from iepile_cli.task.table import TASKS, Task

# Task, source, id, and how often these came before.
Place = tuple[str, str, str, int]
Span = tuple[int, int]


class GroundedFiles:
    """Two files of results, joined by task, source and id."""

    def __init__(self, predictions: str, gold: str, plan: Plan) -> None:
        if plan.literal or plan.repair or plan.asked_only:
            raise UsageError(
                "--gold cannot be combined with --upstream-compatible, --repair or --asked-only",
                hint="grounded results hold no raw answers",
            )
        self.predictions = predictions
        self.gold = gold
        self.plan = plan
        self._readers: dict[str, Reader] = {}
        # For each document the bytes at which its prediction and its gold begin; -1: none.
        self._pairs: list[tuple[int, int]] = []

    def tally(self, tick: Any = None) -> Tally:
        """Score every document that has gold; gold that was not answered counts as missed."""
        sheet = Sheet()
        gold = dict(self._places(self.gold, sheet))
        if not gold:
            raise DataError("holds no result to compare with", path=self.gold)
        seen = 0
        for place, at in self._places(self.predictions, sheet):
            there = gold.pop(place, None)
            counts = sheet.row_counts[sheet.group(place[0], place[1])]
            counts[ANSWERS] += 1
            if there is None:
                counts[UNLABELLED] += 1
            else:
                self._add(sheet, at, there, counts)
            if tick is not None:
                tick(at - seen)
                seen = at
        for place, there in gold.items():
            counts = sheet.row_counts[sheet.group(place[0], place[1])]
            counts[SILENT] += 1
            self._add(sheet, -1, there, counts)
        tally = Tally()
        tally.absorb(sheet)
        return tally

    def document(self, key_digest: int, first: int, end: int) -> Document | None:
        """Read one document again."""
        return self._document(*self._pairs[first], [0] * 16)

    def _add(self, sheet: Sheet, at: int, there: int, counts: list[int]) -> None:
        document = self._document(at, there, counts)
        if document is None:
            counts[UNLABELLED] += 1
            return
        number = len(self._pairs)
        self._pairs.append((at, there))
        mixed = confusions(document) if self.plan.confusions else ()
        units = score(document, self.plan)
        named = document.reader.named_unit
        sheet.add(document.key, units, number, number + 1, mixed, named)

    def _places(self, path: str, sheet: Sheet) -> Iterator[tuple[Place, int]]:
        """Where each result of a file begins."""
        times: dict[tuple[str, str, str], int] = {}
        at = 0
        with open(path, "rb", buffering=1 << 20) as file:
            for line in file:
                key = self._key(decode(line)) if line.strip() else None
                if key is not None:
                    time = times.get(key, 0)
                    times[key] = time + 1
                    yield (*key, time), at
                elif line.strip():
                    sheet.unreadable += 1
                    if sheet.first_unreadable < 0:
                        sheet.first_unreadable = at
                at += len(line)

    def _key(self, value: Any) -> tuple[str, str, str] | None:
        if not isinstance(value, dict):
            return None
        name = value.get("task")
        task = TASKS.get(name.upper() if isinstance(name, str) else self.plan.task)
        if task is None or (self.plan.task and task.name != self.plan.task):
            return None
        source, number = value.get("source"), value.get("id")
        return (
            task.name,
            NO_SOURCE if source is None else str(source),
            "" if number is None else str(number),
        )

    def _document(self, at: int, there: int, counts: list[int]) -> Document | None:
        gold = _line(self.gold, there)
        found = _line(self.predictions, at) if at >= 0 else {}
        key = self._key(gold)
        if key is None or not isinstance(gold.get("items"), list):
            return None
        reader = self._readers.get(key[0])
        if reader is None:
            reader = self._readers[key[0]] = Reader(TASKS[key[0]])
        text = next((t for t in (gold.get("text"), found.get("text")) if isinstance(t, str)), None)
        document = Document((*key, None), reader, text)
        surfaces: dict[Span, str] = {}
        document.surfaces = surfaces
        items = found.get("items")
        if at >= 0 and not isinstance(items, list):
            counts[MALFORMED] += 1
            document.broken = ["(no list of items)"]
        if found.get("truncated") is True:
            counts[TRUNCATED] += 1
        by_offset = all(_span(m) is not None for m in _mentions(reader.task, gold["items"]))
        document.gold = _facts(reader, gold["items"], surfaces, by_offset)
        document.predicted = _facts(reader, items, surfaces, by_offset)
        if by_offset and document.text is None:
            # Without the text, a mention without offsets cannot be found in it.
            document.text = ""
        settle(document, self.plan)
        return document


def _facts(reader: Reader, items: Any, surfaces: dict[Span, str], by_offset: bool) -> Facts:
    facts = reader.empty()
    for item in items if isinstance(items, list) else ():
        typed = _thing(reader.task, item, surfaces, by_offset)
        if typed is not None:
            reader.add(typed, facts)
    return facts


def _line(path: str, at: int) -> dict[str, Any]:
    with open(path, "rb") as file:
        file.seek(at)
        value = decode(file.readline())
    return value if isinstance(value, dict) else {}


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


def _thing(task: Task, item: Any, surfaces: dict[Span, str], by_offset: bool) -> Typed | None:
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

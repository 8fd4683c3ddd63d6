"""Rows of a prediction file, put together into documents.

Rows are schema batches: those with one task, source, id and label belong to one document. A batch
that comes again under them starts the next document, so two records with the same text stay two.
"""

from __future__ import annotations

from hashlib import sha256
from operator import itemgetter
from typing import Any, TypeAlias

import orjson

from iepile_cli.evaluation.asking import INPUT, Batch, Instructions
from iepile_cli.evaluation.decoding import BROKEN, decode_patiently, is_cut, mend
from iepile_cli.evaluation.document import Document, Key
from iepile_cli.evaluation.facts import Fact, Facts, Reader
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.tally import ANSWERS, MALFORMED, REPAIRED, SILENT, TRUNCATED
from iepile_cli.task.ask import dumps
from iepile_cli.task.table import TASKS

OTHER_TASK = "another task"
NO_TASK = "no known task"

_REMEMBERED = 1000
_USUAL = itemgetter("task", "source", "id", "label", "instruction")

# A source that a record does not name; the original script says "None".
NO_SOURCE = ""


# One decoded row: whose it is, what was asked, the row itself, and where in its instruction the
# text is announced (-1: not known). A plain tuple, because half a million of them are made.
Row: TypeAlias = tuple[Key, Reader, Instructions, Batch, dict[str, Any], int]


class Rows:
    """Decodes rows and reads their answers, as one plan wants it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._plain = not plan.asked_only
        # Answers that say that there is nothing: a few strings make up much of a file.
        self._empty: set[str] = set()
        self._tasks: dict[str | None, tuple[str, Reader, Instructions] | None] = {}

    def open(self, line: bytes) -> Row | str:
        """Read one line: a row, or the reason why there is none ("" for a blank line)."""
        # Nearly all rows are like the ones before and pass here, in a third of the time.
        try:
            value = orjson.loads(line)
            name, source, number, label, instruction = _USUAL(value)
            task, reader, asked = self._tasks[name]  # type: ignore[misc]
            at = instruction.find(INPUT)
            batch = asked.by_head[instruction[:at]]
        except (ValueError, LookupError, TypeError, AttributeError):
            return self._open_odd(line)
        if batch is not None and type(source) is type(number) is type(label) is str:
            return (task, source, number, label), reader, asked, batch, value, at
        return self._open_odd(line)

    def _open_odd(self, line: bytes) -> Row | str:
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            value = decode_patiently(line)
        if type(value) is not dict:
            return "not a JSON object" if line.strip(b" \t\r\n\0\xef\xbb\xbf") else ""
        get = value.get
        try:
            known = self._tasks[get("task")]
        except (KeyError, TypeError):
            known = self._task(get("task"))
        if known is None:
            return OTHER_TASK if self.plan.task else NO_TASK
        task, reader, asked = known
        instruction = get("instruction")
        batch = asked.batch(instruction)
        source, number, label = get("source"), get("id"), get("label")
        if type(source) is not str:
            source = NO_SOURCE if source is None else str(source)
        if type(number) is not str:
            number = _id(number, asked.text(instruction))
        if type(label) is not str and label is not None:
            label = dumps(label)
        return (task, source, number, label), reader, asked, batch, value, -1

    def _task(self, name: object) -> tuple[str, Reader, Instructions] | None:
        if name is not None and type(name) is not str:
            return None
        wanted = self.plan.task
        task = TASKS.get(name.upper() if name else wanted)
        if task is None or (wanted and task.name != wanted):
            known = None
        else:
            self.plan.check(task)
            known = (task.name, Reader(task, literal=self.plan.literal), Instructions(task))
        if len(self._tasks) < 1000:
            self._tasks[name] = known
        return known

    def begin(self, row: Row) -> Document:
        """A document whose first row is this one, without its answer yet."""
        key, reader, asked, _, value, at = row
        text = asked.plain_text(value["instruction"], at) if at >= 0 else None
        if text is None:
            text = asked.text(value.get("instruction"))
        return Document(key, reader, text)

    def belongs(self, row: Row, document: Document) -> bool:
        """Whether a row goes on with the document."""
        if self.plan.literal:
            return row[0][:3] == document.key[:3]
        return row[0] == document.key and row[3].number not in document.batches

    def answer(self, row: Row, document: Document, counts: list[int]) -> None:
        """Add what a row answered to its document; count what is wrong with it."""
        _, reader, _, batch, value, _ = row
        if batch.number:
            document.batches[batch.number] = batch
        output = value.get("output")
        counts[ANSWERS] += 1
        if type(output) is str:
            if output in self._empty and "truncated" not in value:
                return
            try:
                answer = orjson.loads(output)
            except orjson.JSONDecodeError:
                answer = decode_patiently(output)
        else:
            answer = output
        if type(answer) is not dict:
            answer = self._broken(output, document, counts, value.get("truncated") is True)
            if answer is None:
                return
        elif "truncated" in value and value["truncated"] is True:
            counts[TRUNCATED] += 1
        if self._plain and not reader.unusual:
            if any(answer.values()):
                reader.answer(answer, document.predicted)
            elif type(output) is str and len(self._empty) < _REMEMBERED:
                self._empty.add(output)
            return
        found = reader.empty()
        reader.answer(answer, found)
        for into, facts in zip(document.predicted, self._placed(reader, batch, found), strict=True):
            into += facts

    def _broken(
        self, output: object, document: Document, counts: list[int], cut: bool
    ) -> dict[str, Any] | None:
        if not isinstance(output, str):
            counts[SILENT] += 1
        elif cut or is_cut(output):
            counts[TRUNCATED] += 1
        if self.plan.repair and isinstance(output, str):
            mended = mend(output)
            if mended is not BROKEN:
                counts[REPAIRED] += 1
                return mended  # type: ignore[no-any-return]
        counts[MALFORMED] += 1
        shown = output if isinstance(output, str) else "(no output)"
        document.broken = [*document.broken, shown]
        return None

    def _placed(self, reader: Reader, batch: Batch, found: Facts) -> Facts:
        """Facts with the types of their ends as they were asked, unasked ones left out."""
        placed: Facts = []
        for number, facts in enumerate(found):
            if reader.typed[number]:
                facts = [_with_asked_ends(fact, batch) for fact in facts]
            if self.plan.asked_only and batch.number:
                labels = len(reader.task.units[number].label)
                facts = [fact for fact in facts if _asked(fact, labels, number, batch)]
            placed.append(facts)
        return placed


def _asked(fact: Fact, labels: int, number: int, batch: Batch) -> bool:
    if labels > 1 and type(fact[1]) is tuple:
        return fact[0] in batch.ends
    return fact[:labels] in batch.labels[number]


def _with_asked_ends(fact: Fact, batch: Batch) -> Fact:
    asked = batch.ends.get(fact[0], ())
    if len(asked) == 1:
        return (fact[0], *asked[0], *fact[3:])
    return (fact[0], asked, None, *fact[3:])


def _id(number: object, text: str | None) -> str:
    if number is None and text is not None:
        return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return str(number)

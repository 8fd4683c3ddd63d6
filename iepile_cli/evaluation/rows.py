"""Rows of a prediction file, put together into documents.

Rows are schema batches: those with one task, source, id and label belong to one document. A batch
that comes again under them starts the next document, so two records with the same text stay two.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, TypeAlias

import orjson

from iepile_cli.evaluation.asking import Batch, Instructions
from iepile_cli.evaluation.decoding import BROKEN, decode, decode_patiently, is_cut, mend
from iepile_cli.evaluation.document import Document, Key
from iepile_cli.evaluation.facts import Fact, Facts, Reader
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.sheet import ANSWERS, MALFORMED, REPAIRED, SILENT, TRUNCATED
from iepile_cli.task.instruction import dumps
from iepile_cli.task.table import TASKS

OTHER_TASK = "another task"
NO_TASK = "no known task"

# A source that a record does not name; the original script says "None".
NO_SOURCE = ""


# One decoded row: whose it is, what was asked, and the row itself.
Row: TypeAlias = tuple[Key, Reader, Instructions, Batch, dict[str, Any]]


class Rows:
    """Decodes rows and reads their answers, as one plan wants it, whatever they are like."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._tasks: dict[str | None, tuple[str, Reader, Instructions] | None] = {}

    def open(self, line: bytes) -> Row | str:
        """Read one line: a row, or the reason why there is none ("" for a blank line)."""
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            value = decode_patiently(line)
        if type(value) is not dict:
            return "not a JSON object" if line.strip(b" \t\r\n\0\xef\xbb\xbf") else ""
        get = value.get
        known = self.task(get("task"))
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
        return (task, source, number, label), reader, asked, batch, value

    def task(self, name: object) -> tuple[str, Reader, Instructions] | None:
        """The task that records name so, and what reads them; None when it is not to be scored."""
        if name is not None and type(name) is not str:
            return None
        try:
            return self._tasks[name]
        except KeyError:
            return self._task(name)

    def _task(self, name: str | None) -> tuple[str, Reader, Instructions] | None:
        wanted = self.plan.task
        task = TASKS.get(name.upper() if name else wanted)
        known = None
        if task is not None and wanted in ("", task.name):
            known = self._tasks.get(task.name)
            if known is None:
                self.plan.check(task)
                known = (task.name, Reader(task, literal=self.plan.literal), Instructions(task))
                self._tasks[task.name] = known
        if len(self._tasks) < 1000:
            self._tasks[name] = known
        return known

    def begin(self, row: Row) -> Document:
        """A document whose first row is this one, without its answer yet."""
        key, reader, asked, _, value = row
        return Document(key, reader, asked.text(value.get("instruction")))

    def belongs(self, key: Key, batch: Batch, document: Document) -> bool:
        """Whether a row with this key and batch goes on with the document."""
        if self.plan.literal:
            return key[:3] == document.key[:3]
        return key == document.key and batch.number not in document.batches

    def answer(
        self, value: dict[str, Any], batch: Batch, document: Document, counts: list[int]
    ) -> None:
        """Add what one row answered to its document; count what is wrong with it."""
        reader = document.reader
        if batch.number:
            document.batches[batch.number] = batch
        counts[ANSWERS] += 1
        output = value.get("output")
        cut = value.get("truncated") is True
        answer = decode(output) if type(output) is str else output
        if type(answer) is not dict:
            answer = self.mended(output, cut, counts)
            if answer is None:
                shown = output if isinstance(output, str) else "(no output)"
                document.broken = [*document.broken, shown]
                return
        elif cut:
            counts[TRUNCATED] += 1
        found = reader.empty()
        reader.answer(answer, found)
        for into, facts in zip(document.predicted, self._placed(reader, batch, found), strict=True):
            into += facts

    def mended(self, output: object, cut: bool, counts: list[int]) -> dict[str, Any] | None:
        """What can be saved of an output that is not a JSON object, if anything is to be saved.

        Counts what is wrong with it; ``cut`` says that the row calls itself truncated.
        """
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

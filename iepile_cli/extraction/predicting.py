"""Converted records in, the same records with the model's answers out.

A test record of ``convert`` carries its own instruction: wording, schema batch and text. It is put
to the model to the letter, so that a benchmark asks what it says it asks; only a text that does
not fit the model's context is cut into passages, and their answers are put together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from iepile_cli.backends import Request, Runner
from iepile_cli.errors import DataError, IEPileError, ModelError, UnknownName
from iepile_cli.extraction.answering import OnAnswer, Pending, answered
from iepile_cli.extraction.asking import Asker
from iepile_cli.extraction.inputs import clean
from iepile_cli.extraction.instructions import InstructionRecord
from iepile_cli.extraction.merging import merge
from iepile_cli.task.instruction import Instruction, dumps, parse_instruction
from iepile_cli.task.passages import Passage, passages
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS, Task, task_named
from iepile_cli.templates import Template

OnError = Callable[[IEPileError], None]


@dataclass(frozen=True)
class Predicting:
    """How records are answered; ``task`` is taken for records that name none.

    Things whose score (0..1) is below ``min_score`` are left out; ``list_prior`` is added to the
    log-odds of going on with a list against ending it.
    """

    task: Task | None = None
    answer_tokens: int = 0
    constrain: bool = True
    system: str | None = None
    min_score: float = 0.0
    list_prior: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """A record and its answer, in the wire format; the counts are those of ``Result``."""

    record: InstructionRecord
    output: str
    passages: int = 1
    truncated: int = 0
    ungrounded: int = 0
    problems: int = 0
    tokens: int = 0


def predict(
    records: Iterable[InstructionRecord],
    predicting: Predicting,
    runner: Runner,
    template: Template,
    *,
    on_answer: OnAnswer | None = None,
    on_error: OnError | None = None,
) -> Iterator[Prediction]:
    """Answer records, lazily and in order.

    A record that cannot be put, or that the backend could not answer, has no prediction;
    ``on_error`` is told of it, and without it ``DataError`` or ``ModelError`` is raised.
    """
    bound = template.bind(runner.tokenizer)
    asker = Asker(
        runner,
        bound,
        predicting.constrain,
        predicting.system,
        predicting.answer_tokens,
        predicting.list_prior,
    )
    asked = _asked(records, predicting, asker, on_error or _raise)
    for pending in answered(runner, asked, on_answer):
        if not pending.failed:
            yield _prediction(pending, predicting.min_score)
            continue
        where = f"{pending.subject.source}:{pending.subject.line}"
        (on_error or _raise)(ModelError(f"{where}: no answer: {pending.failed}"))


def _raise(error: IEPileError) -> None:
    raise error


def _asked(
    records: Iterable[InstructionRecord], predicting: Predicting, asker: Asker, on_error: OnError
) -> Iterator[tuple[Pending[InstructionRecord], list[Request]]]:
    for record in records:
        try:
            questions = list(_questions(record, predicting, asker))
        except (DataError, ModelError) as error:
            on_error(
                DataError(error.message, path=record.source, line=record.line, hint=error.hint)
            )
            continue
        asks = [(ask, passage) for ask, passage, _ in questions]
        yield Pending(record, asks), [asker.request(ask, words) for ask, _, words in questions]


def _questions(
    record: InstructionRecord, predicting: Predicting, asker: Asker
) -> Iterator[tuple[Instruction, Passage, str]]:
    """What is asked for a record, about which passage, and in which words."""
    ask = _ask(record, predicting.task)
    words = record.instruction
    room = asker.room(ask.items, _with_input(words, ""))
    whole = Passage(ask.text, 0)
    if asker.measure(ask.text) <= room or not ask.text.strip():
        yield ask, whole, words
        return
    for passage in passages(ask.text, room, asker.measure):
        part = Instruction(ask.task, ask.items, passage.text, ask.language)
        yield part, passage, _with_input(words, passage.text)


def _ask(record: InstructionRecord, fallback: Task | None) -> Instruction:
    """What a record's instruction asks for; raises ``DataError``."""
    failed = ""
    for task in _tasks(record, fallback):
        try:
            ask = parse_instruction(task, record.instruction)
        except (ValueError, RecursionError) as error:
            failed = failed or f"its 'instruction' cannot be read: {error}"
            continue
        if not ask.items:
            raise DataError("its instruction asks for nothing: 'schema' is empty")
        # An answer has each key once, whatever asks for it.
        once: dict[str, SchemaItem] = {item.type: item for item in reversed(ask.items)}
        items = tuple(once[key] for key in dict.fromkeys(item.type for item in ask.items))
        return Instruction(task, items, clean(ask.text), ask.language)
    raise DataError(failed or "it names no task", hint="" if failed else "name it with --task")


def _tasks(record: InstructionRecord, fallback: Task | None) -> Iterator[Task]:
    """A record's task: as it says, else those of its instruction's words, else ``fallback``."""
    named = record.fields.get("task")
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
        if record.instruction.startswith(tuple(openings)):
            yield task


def _with_input(instruction: str, text: str) -> str:
    """An instruction with another text, everything else as it is."""
    value: dict[str, Any] = json.loads(instruction)
    return dumps({**value, "input": text})


def _prediction(pending: Pending[InstructionRecord], min_score: float) -> Prediction:
    ask = pending.asks[0][0]
    merged = merge(ask.task, ask.items, pending.items, _text(pending), min_score=min_score)
    return Prediction(
        record=pending.subject,
        output=dumps(merged.answer),
        passages=len(pending.asks),
        truncated=pending.truncated,
        ungrounded=pending.ungrounded,
        problems=pending.problems,
        tokens=pending.tokens,
    )


def _text(pending: Pending[InstructionRecord]) -> str:
    """The whole text of a record; a record that was not cut is its own passage."""
    ask, passage = pending.asks[0]
    if len(pending.asks) == 1 and not passage.start:
        return ask.text
    return clean(json.loads(pending.subject.instruction)["input"])

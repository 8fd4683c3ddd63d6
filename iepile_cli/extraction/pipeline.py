"""Documents in, results out: the flow from text to grounded items.

For each document: passages, schema batches, one request for each pair, answers read, grounded and
merged. A document is a text, to which one schema is put, or an instruction record, which brings
its own. Requests of several documents are under way at once, results come in the documents' order,
and no more is held than the documents under way.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from iepile_cli.backends import Answer, Request, Runner
from iepile_cli.errors import DataError, ModelError, NoAnswer, OnError, raise_error
from iepile_cli.extraction.grounding import Item, ground, read_answer
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.instruction_records import InstructionRecord
from iepile_cli.extraction.requests import (
    ExtractOptions,
    PassageInstruction,
    RequestBuilder,
    SchemaInstructions,
    record_instructions,
)
from iepile_cli.extraction.results import Result, merge, voted
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task
from iepile_cli.templates import Template

# Told of each answer: its tokens (prompt and answer), and the characters of text it deals with; all
# answers about a document together deal with its length, however often it is read.
OnAnswer: TypeAlias = Callable[[int, float], None]


def extract(
    documents: Iterable[Document],
    runner: Runner,
    template: Template,
    options: ExtractOptions | None = None,
    *,
    task: Task | None = None,
    schema: Sequence[SchemaItem] = (),
    on_answer: OnAnswer | None = None,
    on_error: OnError = raise_error,
) -> Iterator[Result]:
    """Extract from documents, lazily and in order.

    ``task`` and ``schema`` are put to texts; instruction records bring their own. A document that
    cannot be put to the model, or that it could not answer, has no result: ``on_error`` is told of
    it, and raises the error when not given. Raises ``ModelError`` at once when the schema and an
    answer to it do not fit the model's context, ``UsageError`` for a ``split_num`` that is none.
    """
    options = options or ExtractOptions()
    builder = RequestBuilder(runner, template, options)
    schema_instructions = SchemaInstructions(task, schema, builder) if task is not None else None
    if schema_instructions is not None and options.language:
        schema_instructions.passage_budget(options.language)
    planned = _planned(documents, schema_instructions, builder, on_error)
    return _results(_answered(planned, builder, on_answer), options, on_error)


@dataclass
class _Extraction:
    """What is put to the model about a document, and what has come in of it.

    ``items`` are what was found, by the order of the schema in which it was asked for. ``failed``
    is why the backend could not answer an instruction, "" while all went well.
    """

    document: Document
    task: Task
    schema: Sequence[SchemaItem]
    language: str
    instructions: Sequence[PassageInstruction]
    items: dict[int, list[Item]] = field(default_factory=dict)
    answered: int = 0
    truncated: int = 0
    ungrounded: int = 0
    problems: int = 0
    tokens: int = 0
    failed: str = ""

    @property
    def complete(self) -> bool:
        """Whether all answers have come in."""
        return self.answered == len(self.instructions)

    def add(self, answer: Answer) -> float:
        """Read the answer to the next instruction; gives the characters that it deals with."""
        part = self.instructions[self.answered]
        asked = part.instruction
        self.answered += 1
        if answer.failed:
            self.failed = self.failed or answer.failed
        else:
            problems: list[str] = []
            found = read_answer(asked.task, asked.items, answer, problems)
            grounded = ground(found, part.passage, asked.task.shape)
            self.items.setdefault(part.vote, []).extend(grounded.items)
            self.ungrounded += grounded.ungrounded
            self.problems += len(problems)
            self.truncated += answer.truncated
            self.tokens += answer.answer_tokens
        return len(part.passage.text) * self._share

    @cached_property
    def _share(self) -> float:
        """How much of the document a character of a passage stands for: each is put many times."""
        put = sum(len(part.passage.text) for part in self.instructions)
        return len(self.document.text) / put if put else 0.0


def _planned(
    documents: Iterable[Document],
    schema_instructions: SchemaInstructions | None,
    builder: RequestBuilder,
    on_error: OnError,
) -> Iterator[_Extraction]:
    for document in documents:
        if schema_instructions is not None:
            # A schema that leaves no room for any text ends the run; a bad text only fails itself.
            schema_instructions.passage_budget(schema_instructions.language(document))
        try:
            yield _plan(document, schema_instructions, builder)
        except (DataError, ModelError) as error:
            on_error(
                DataError(error.message, path=document.source, line=document.line, hint=error.hint)
            )


def _plan(
    document: Document, schema_instructions: SchemaInstructions | None, builder: RequestBuilder
) -> _Extraction:
    if isinstance(document, InstructionRecord):
        asked = document.instruction
        parts = list(record_instructions(document, builder))
        return _Extraction(document, asked.task, asked.items, asked.language, parts)
    if schema_instructions is None:
        raise TypeError("a text needs a task and a schema")
    language = schema_instructions.language(document)
    parts = list(schema_instructions.of(document, language))
    return _Extraction(
        document, schema_instructions.task, schema_instructions.schema, language, parts
    )


def _answered(
    planned: Iterable[_Extraction], builder: RequestBuilder, on_answer: OnAnswer | None
) -> Iterator[_Extraction]:
    """Put the instructions to the model; gives each document once all its answers are in.

    Where an answer depends on those computed beside it, each block of documents is by itself.
    """
    apart = getattr(builder.runner, "reproducible", False)
    for _, block in itertools.groupby(planned, key=lambda one: apart and one.document.block):
        yield from _answered_together(block, builder, on_answer)


def _answered_together(
    planned: Iterable[_Extraction], builder: RequestBuilder, on_answer: OnAnswer | None
) -> Iterator[_Extraction]:
    waiting: deque[_Extraction] = deque()

    def requests() -> Iterator[Request]:
        for extraction in planned:
            waiting.append(extraction)
            for part in extraction.instructions:
                yield builder.request(part.instruction, part.wording)

    def finished() -> Iterator[_Extraction]:
        while waiting and waiting[0].complete:
            yield waiting.popleft()

    for answer in builder.runner.generate(requests()):
        # Documents without an instruction may stand before the one that is answered.
        yield from finished()
        characters = waiting[0].add(answer)
        if on_answer:
            on_answer(answer.computed_tokens, characters)
        yield from finished()
    yield from finished()


def _results(
    extractions: Iterable[_Extraction], options: ExtractOptions, on_error: OnError
) -> Iterator[Result]:
    for extraction in extractions:
        document = extraction.document
        if extraction.failed:
            on_error(NoAnswer(extraction.failed, path=document.source, line=document.line))
            continue
        items = voted(list(extraction.items.values()))
        merged = merge(extraction.task, extraction.schema, items, document.text, options)
        yield Result(
            document=document,
            task=extraction.task,
            language=extraction.language,
            answer=merged.answer,
            items=tuple(merged.items),
            passages=len({part.passage for part in extraction.instructions}),
            truncated=extraction.truncated,
            ungrounded=extraction.ungrounded,
            problems=extraction.problems,
            tokens=extraction.tokens,
        )


__all__ = ["ExtractOptions", "OnAnswer", "extract"]

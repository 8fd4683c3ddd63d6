"""Documents in, results out: the flow from text to grounded items.

For each document: passages, schema batches, one request for each pair, answers read, grounded and
merged. Requests of several documents are under way at once, results come in the documents' order,
and no more is held than the documents under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from iepile_cli.backends import Request, Runner
from iepile_cli.errors import IEPileError, ModelError
from iepile_cli.extraction.answering import OnAnswer, Pending, answered
from iepile_cli.extraction.asking import Asker
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.merging import merge
from iepile_cli.extraction.results import Result
from iepile_cli.task.instruction import Instruction, batches
from iepile_cli.task.language import detect_language
from iepile_cli.task.passages import Passage, passages
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task
from iepile_cli.templates import Template


@dataclass(frozen=True)
class Asking:
    """What is asked and how.

    ``language`` None is detected for each document. ``split_num`` None takes the task's own;
    ``passage_tokens`` is the longest passage and ``answer_tokens`` the longest answer, in tokens
    (0: as the passage and the schema need). Items with a score (0..1) below ``min_score`` are left
    out; ``list_prior`` is added to the log-odds of going on with a list against ending it.
    Raises ``UsageError`` for a ``split_num`` that is none.
    """

    task: Task
    schema: tuple[SchemaItem, ...]
    language: str | None = None
    split_num: int | None = None
    passage_tokens: int = 384
    answer_tokens: int = 0
    constrain: bool = True
    all_occurrences: bool = False
    system: str | None = None
    min_score: float = 0.0
    list_prior: float = 0.0

    def __post_init__(self) -> None:
        self.batches()

    def batches(self) -> list[tuple[SchemaItem, ...]]:
        """The schema in the batches that are asked at once."""
        own = self.task.batch_size
        return batches(self.schema, own if self.split_num is None else self.split_num)


def extract(
    documents: Iterable[Document],
    asking: Asking,
    runner: Runner,
    template: Template,
    *,
    on_answer: OnAnswer | None = None,
    on_error: Callable[[IEPileError], None] | None = None,
) -> Iterator[Result]:
    """Extract from documents, lazily and in order.

    ``on_answer`` is told, for each answer, how many tokens it took (prompt and answer) and how
    many characters of text it deals with (a passage shared evenly among its schema batches).
    A document that the backend could not answer has no result; ``on_error`` is told of it, and
    without it ``ModelError`` is raised. Raises ``ModelError`` when the schema and an answer do not
    fit the model's context.
    """
    flow = _Flow(asking, runner, template)
    for pending in answered(runner, flow.asked(documents), on_answer):
        if not pending.failed:
            yield flow.result(pending)
            continue
        document = pending.subject
        where = document.source + (f":{document.line}" if document.line else "")
        error = ModelError(f"{where}: no answer: {pending.failed}")
        if on_error is None:
            raise error
        on_error(error)


class _Flow:
    def __init__(self, asking: Asking, runner: Runner, template: Template) -> None:
        self.asking = asking
        bound = template.bind(runner.tokenizer)
        self.asker = Asker(
            runner,
            bound,
            asking.constrain,
            asking.system,
            asking.answer_tokens,
            asking.list_prior,
        )
        self.batches = asking.batches()
        self.budgets: dict[str, int] = {}

    def asked(
        self, documents: Iterable[Document]
    ) -> Iterator[tuple[Pending[Document], Iterator[Request]]]:
        for document in documents:
            asks = list(self.asks(document))
            share = max(1, len(self.batches))
            yield Pending(document, asks, share), (self.asker.request(ask) for ask, _ in asks)

    def asks(self, document: Document) -> Iterator[tuple[Instruction, Passage]]:
        """Every schema batch put to every passage; batches outside, for their common prompts."""
        language = self.language(document)
        cut = list(passages(document.text, self.passage_budget(language), self.asker.measure))
        for batch in self.batches:
            for passage in cut:
                yield Instruction(self.asking.task, batch, passage.text, language), passage

    def language(self, document: Document) -> str:
        return self.asking.language or detect_language(document.text)

    def passage_budget(self, language: str) -> int:
        """The longest passage, in tokens, that fits with its schema batch and its answer."""
        if language not in self.budgets:
            room = min(
                self.asker.room(batch, Instruction(self.asking.task, batch, "", language).json)
                for batch in self.batches
            )
            self.budgets[language] = min(self.asking.passage_tokens, room)
        return self.budgets[language]

    def result(self, pending: Pending[Document]) -> Result:
        asking, document = self.asking, pending.subject
        merged = merge(
            asking.task,
            asking.schema,
            pending.items,
            document.text,
            all_occurrences=asking.all_occurrences,
            min_score=asking.min_score,
        )
        return Result(
            document=document,
            task=asking.task,
            language=pending.asks[0][0].language if pending.asks else self.language(document),
            answer=merged.answer,
            items=tuple(merged.items),
            passages=len(pending.asks) // pending.share,
            truncated=pending.truncated,
            ungrounded=pending.ungrounded,
            problems=pending.problems,
            tokens=pending.tokens,
        )

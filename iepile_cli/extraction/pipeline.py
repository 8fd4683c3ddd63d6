"""Documents in, results out: the flow from text to grounded items.

For each document: passages, schema batches, one request for each pair, answers read, grounded and
merged. Requests of several documents are under way at once, results come in the documents' order,
and no more is held than the documents under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from iepile_cli.backends import Answer, Request, Runner
from iepile_cli.errors import ModelError
from iepile_cli.extraction.grounding import Item, ground
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.merging import merge
from iepile_cli.extraction.passages import Passage, passages
from iepile_cli.extraction.reading import read_answer
from iepile_cli.extraction.results import Result
from iepile_cli.task.ask import Ask, batches, dumps
from iepile_cli.task.grammar import empty_answers, grammar
from iepile_cli.task.language import detect_language
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task
from iepile_cli.templates import Template, encode

# The shortest passage worth asking about, in tokens.
_LEAST = 16
# An answer may quote its passage this many times over before it is cut short.
_PER_PASSAGE_TOKEN = 2


@dataclass(frozen=True)
class Asking:
    """What is asked and how.

    ``language`` None is detected for each document. ``split_num`` None takes the task's own;
    ``passage_tokens`` is the longest passage and ``answer_tokens`` the longest answer, in tokens
    (0: as the passage and the schema need). Raises ``UsageError`` for a ``split_num`` that is none.
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

    def __post_init__(self) -> None:
        self.batches()

    def batches(self) -> list[tuple[SchemaItem, ...]]:
        """The schema in the batches that are asked at once."""
        own = self.task.batch_size
        return batches(self.schema, own if self.split_num is None else self.split_num)


@dataclass
class _Pending:
    """A document whose answers are coming in."""

    document: Document
    language: str
    asks: list[tuple[Ask, Passage]]
    items: list[Item] = field(default_factory=list)
    answered: int = 0
    truncated: int = 0
    ungrounded: int = 0
    problems: int = 0
    tokens: int = 0


def extract(
    documents: Iterable[Document],
    asking: Asking,
    runner: Runner,
    template: Template,
    *,
    on_answer: Callable[[int, float], None] | None = None,
) -> Iterator[Result]:
    """Extract from documents, lazily and in order.

    ``on_answer`` is told, for each answer, how many tokens it took (prompt and answer) and how
    many characters of text it deals with (a passage shared evenly among its schema batches).
    Raises ``ModelError`` when the schema and an answer do not fit the model's context.
    """
    yield from _Flow(asking, runner, template, on_answer).run(iter(documents))


class _Flow:
    def __init__(
        self,
        asking: Asking,
        runner: Runner,
        template: Template,
        on_answer: Callable[[int, float], None] | None,
    ) -> None:
        self.asking, self.runner = asking, runner
        self.template = template.bind(runner.tokenizer)
        self.on_answer = on_answer
        self.batches = asking.batches()
        self.pending: deque[_Pending] = deque()
        self.budgets: dict[str, int] = {}

    def run(self, documents: Iterator[Document]) -> Iterator[Result]:
        for answer in self.runner.generate(self.requests(documents)):
            yield from self.finished()
            passage = self.take(self.pending[0], answer)
            if self.on_answer:
                tokens = answer.prompt_tokens + answer.answer_tokens
                self.on_answer(tokens, len(passage.text) / len(self.batches))
            yield from self.finished()
        yield from self.finished()

    def finished(self) -> Iterator[Result]:
        """Results of the documents at the front that have all their answers."""
        while self.pending and self.pending[0].answered == len(self.pending[0].asks):
            yield self.result(self.pending.popleft())

    # ---------------------------------------------------------------------------------- asking

    def requests(self, documents: Iterator[Document]) -> Iterator[Request]:
        for document in documents:
            language = self.asking.language or detect_language(document.text)
            asks = list(self.asks(document, language))
            self.pending.append(_Pending(document, language, asks))
            for ask, _ in asks:
                yield self.request(ask)

    def asks(self, document: Document, language: str) -> Iterator[tuple[Ask, Passage]]:
        """Every schema batch put to every passage; batches outside, for their common prompts."""
        cut = list(passages(document.text, self.passage_budget(language), self.measure))
        for batch in self.batches:
            for passage in cut:
                yield Ask(self.asking.task, batch, passage.text, language), passage

    def request(self, ask: Ask) -> Request:
        text = ask.text
        return Request(
            prompt=self.template.prompt(ask.instruction, self.asking.system),
            grammar=self.grammar(ask) if self.asking.constrain else None,
            max_tokens=self.answer_budget(ask.items, self.measure(text)),
            empties=empty_answers(ask.task, ask.items),
        )

    def grammar(self, ask: Ask) -> str:
        runner = self.runner
        return grammar(ask.task, ask.items, ask.text, lead=runner.lead, spells=runner.spells)

    def passage_budget(self, language: str) -> int:
        """The longest passage, in tokens, that fits with its schema batch and its answer."""
        if language not in self.budgets:
            room = min(self.room(batch, language) for batch in self.batches)
            if room < _LEAST:
                raise ModelError(
                    f"the schema and its answer leave {max(0, room)} of {self.runner.context} "
                    "tokens for the text",
                    hint="ask for fewer types at once (--split-num), or give a larger --context",
                )
            self.budgets[language] = min(self.asking.passage_tokens, room)
        return self.budgets[language]

    def room(self, batch: Sequence[SchemaItem], language: str) -> int:
        empty = Ask(self.asking.task, tuple(batch), "", language)
        prompt = self.template.prompt(empty.instruction, self.asking.system)
        left = self.runner.context - len(encode(prompt, self.runner.tokenizer))
        fixed = self.asking.answer_tokens or self.answer_budget(batch, 0)
        growth = 0 if self.asking.answer_tokens else _PER_PASSAGE_TOKEN
        # Tokens at the joints of prompt and passage can split differently.
        return (left - fixed - 8) // (1 + growth)

    def answer_budget(self, batch: Sequence[SchemaItem], passage_tokens: int) -> int:
        """Tokens that an answer may have: its keys some times over and the passage twice."""
        if self.asking.answer_tokens:
            return self.asking.answer_tokens
        keys = "".join(item.type + "".join(item.slots) * 2 for item in batch)
        signs = 6 * sum(1 + len(item.slots) for item in batch)
        frame = len(self.runner.tokenizer.text(keys)) + signs
        return 64 + 2 * frame + _PER_PASSAGE_TOKEN * passage_tokens

    def measure(self, text: str) -> int:
        """The tokens of a text as it stands in the instruction."""
        return len(self.runner.tokenizer.text(dumps(text)))

    # ------------------------------------------------------------------------------- answering

    def take(self, pending: _Pending, answer: Answer) -> Passage:
        """Read one answer of a document; gives the passage it is about."""
        ask, passage = pending.asks[pending.answered]
        problems: list[str] = []
        found = read_answer(ask.task, ask.items, answer, problems)
        grounded = ground(found, passage, ask.task.shape)
        pending.items += grounded.items
        pending.ungrounded += grounded.ungrounded
        pending.problems += len(problems)
        pending.truncated += answer.truncated
        pending.tokens += answer.answer_tokens
        pending.answered += 1
        return passage

    def result(self, pending: _Pending) -> Result:
        asking = self.asking
        merged = merge(
            asking.task,
            asking.schema,
            pending.items,
            pending.document.text,
            all_occurrences=asking.all_occurrences,
        )
        return Result(
            document=pending.document,
            task=asking.task,
            language=pending.language,
            answer=merged.answer,
            items=tuple(merged.items),
            passages=len(pending.asks) // max(1, len(self.batches)),
            truncated=pending.truncated,
            ungrounded=pending.ungrounded,
            problems=pending.problems,
            tokens=pending.tokens,
        )

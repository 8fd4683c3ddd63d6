"""Questions under way, and the answers that come in for them.

A document, or a record of instructions, is pending from its first question to its last answer.
Questions of several are under way at once; they finish in their order, and no more is held than
those under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from iepile_cli.backends import Answer, Request, Runner
from iepile_cli.extraction.grounding import Item, ground
from iepile_cli.extraction.reading import read_answer
from iepile_cli.task.instruction import Instruction
from iepile_cli.task.passages import Passage

Subject = TypeVar("Subject")
# Told of each answer: its tokens (prompt and answer), and characters of text it deals with.
OnAnswer: TypeAlias = Callable[[int, float], None]


@dataclass
class Pending(Generic[Subject]):
    """What is asked about a subject, and what has come in of it.

    ``share`` is how many of the questions are about the same passage. ``failed`` is why the
    backend could not answer a question, "" while all went well.
    """

    subject: Subject
    asks: Sequence[tuple[Instruction, Passage]]
    share: int = 1
    items: list[Item] = field(default_factory=list)
    answered: int = 0
    truncated: int = 0
    ungrounded: int = 0
    problems: int = 0
    tokens: int = 0
    failed: str = ""

    @property
    def complete(self) -> bool:
        """Whether all answers have come in."""
        return self.answered == len(self.asks)

    def take(self, answer: Answer) -> Passage:
        """Read the answer to the next question; gives the passage it is about."""
        ask, passage = self.asks[self.answered]
        self.answered += 1
        if answer.failed:
            self.failed = self.failed or answer.failed
            return passage
        problems: list[str] = []
        found = read_answer(ask.task, ask.items, answer, problems)
        grounded = ground(found, passage, ask.task.shape)
        self.items += grounded.items
        self.ungrounded += grounded.ungrounded
        self.problems += len(problems)
        self.truncated += answer.truncated
        self.tokens += answer.answer_tokens
        return passage


def answered(
    runner: Runner,
    asked: Iterable[tuple[Pending[Subject], Iterable[Request]]],
    on_answer: OnAnswer | None = None,
) -> Iterator[Pending[Subject]]:
    """Put the questions about each subject; gives each once all its answers are in, in order."""
    waiting: deque[Pending[Subject]] = deque()

    def requests() -> Iterator[Request]:
        for pending, questions in asked:
            waiting.append(pending)
            yield from questions

    def finished() -> Iterator[Pending[Subject]]:
        while waiting and waiting[0].complete:
            yield waiting.popleft()

    for answer in runner.generate(requests()):
        # Subjects without a question may stand before the one that is answered.
        yield from finished()
        passage = waiting[0].take(answer)
        if on_answer:
            tokens = answer.prompt_tokens + answer.answer_tokens
            on_answer(tokens, len(passage.text) / waiting[0].share)
        yield from finished()
    yield from finished()

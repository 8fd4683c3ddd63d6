"""Questions under way, and the answers that come in for them.

A document, or a record of instructions, is pending from its first question to its last answer.
Questions of several are under way at once; they finish in their order, and no more is held than
those under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from iepile_cli.backends import Answer, Request, Runner
from iepile_cli.extraction.grounding import Item, ground
from iepile_cli.extraction.passages import Passage
from iepile_cli.extraction.reading import read_answer
from iepile_cli.task.ask import Ask

Subject = TypeVar("Subject")


@dataclass
class Pending(Generic[Subject]):
    """What is asked about a subject, and what has come in of it.

    ``failed`` is why the backend could not answer a question, "" while all went well.
    """

    subject: Subject
    asks: Sequence[tuple[Ask, Passage]]
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

    def take(self, answer: Answer) -> None:
        """Read the answer to the next question."""
        ask, passage = self.asks[self.answered]
        self.answered += 1
        if answer.failed:
            self.failed = self.failed or answer.failed
            return
        problems: list[str] = []
        found = read_answer(ask.task, ask.items, answer, problems)
        grounded = ground(found, passage, ask.task.shape)
        self.items += grounded.items
        self.ungrounded += grounded.ungrounded
        self.problems += len(problems)
        self.truncated += answer.truncated
        self.tokens += answer.answer_tokens


def answered(
    runner: Runner,
    asked: Iterable[tuple[Pending[Subject], Iterable[Request]]],
    on_answer: Callable[[Answer], None] | None = None,
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
        waiting[0].take(answer)
        if on_answer:
            on_answer(answer)
        yield from finished()
    yield from finished()

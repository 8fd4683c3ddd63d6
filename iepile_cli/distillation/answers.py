"""The answers of a model to many texts, in a file of results, and what they cost."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import IEPileError, OnError
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.outputs import open_writer
from iepile_cli.extraction.requests import ExtractOptions
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task

if TYPE_CHECKING:
    from iepile_cli.backends.opening import Opened

# The memory of the process is looked at every so many answers.
_EVERY = 16


@dataclass
class Cost:
    """What answers cost: texts, tokens, seconds without opening the model, bytes of memory.

    ``memory`` is what the process grew by at most; 0 for a model at a server.
    """

    texts: int = 0
    failed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    memory: int = 0

    def as_json(self) -> dict[str, Any]:
        """With the speeds."""
        seconds = max(self.seconds, 1e-9)
        speeds = {
            "tokens_per_second": self.tokens / seconds,
            "texts_per_second": self.texts / seconds,
        }
        return {**asdict(self), **speeds} if self.texts else asdict(self)


@dataclass(frozen=True)
class Question:
    """What every text is asked."""

    task: Task
    schema: tuple[SchemaItem, ...]
    how: ExtractOptions


def answer_texts(
    documents: Iterable[Document],
    path: Path,
    question: Question,
    open_model: Callable[[], Opened],
    cost: Cost,
    on_error: OnError,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write results to a file, going on with those that it has; adds to ``cost`` what they cost.

    Texts without an answer are told to ``on_error`` and left out. Raises what ``open_model``
    raises, and ``UsageError`` for a file of other results.
    """
    from iepile_cli.extraction.pipeline import extract

    cost.failed, resumed = 0, cost.texts

    def failed(error: IEPileError) -> None:
        cost.failed += 1
        on_error(error)

    writer = open_writer(
        "jsonl",
        str(path),
        task=question.task,
        resume=True,
        settings={"task": question.task.name},
    )
    with writer:
        rest = (one for one in documents if not writer.done(one))
        first = next(rest, None)
        if first is None:
            return
        meter = _Meter(cost)
        opened = open_model()
        try:
            meter.begin(remote=opened.remote)
            results = extract(
                itertools.chain([first], rest),
                opened.runner,
                opened.template,
                question.how.suiting(opened),
                task=question.task,
                schema=question.schema,
                on_answer=meter.answered,
                on_error=failed,
            )
            for result in results:
                writer.write(result)
                cost.texts += 1
                progress(writer.resumed + cost.texts - resumed)
        finally:
            meter.end()
            opened.runner.close()


class _Meter:
    """Measures the time and the memory of answers."""

    def __init__(self, cost: Cost) -> None:
        import psutil

        self._cost, self._process = cost, psutil.Process()
        self._before = self._memory()
        self._started, self._answers, self._remote = 0.0, 0, False

    def begin(self, *, remote: bool) -> None:
        """The model is open."""
        self._started, self._remote = time.monotonic(), remote
        self._look()

    def answered(self, tokens: int, characters: float) -> None:
        """Count an answer."""
        self._cost.tokens += tokens
        self._answers += 1
        if self._answers % _EVERY == 1:
            self._look()

    def end(self) -> None:
        """All answers are there, or no more will come."""
        self._look()
        self._cost.seconds += time.monotonic() - self._started

    def _look(self) -> None:
        if not self._remote:
            self._cost.memory = max(self._cost.memory, self._memory() - self._before)

    def _memory(self) -> int:
        return int(self._process.memory_info().rss)

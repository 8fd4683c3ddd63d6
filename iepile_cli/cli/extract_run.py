"""The run of an extraction: read, skip what is done, answer, write, report.

Texts and instruction records run alike; what is read and how it is answered is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import typer

from iepile_cli.cli.console import Failures, Progress, detail, note
from iepile_cli.cli.fetching import with_offer
from iepile_cli.errors import IEPileError, PartialFailure
from iepile_cli.files import STDIN_NAME
from iepile_cli.formatting import duration, plural

if TYPE_CHECKING:
    from iepile_cli.backends.opening import Opened
    from iepile_cli.errors import OnError
    from iepile_cli.extraction.inputs import Document
    from iepile_cli.extraction.outputs import ResultWriter
    from iepile_cli.extraction.pipeline import OnAnswer
    from iepile_cli.extraction.results import Result


def run(
    noun: str,
    read: Callable[[OnError], Iterable[Document]],
    writing: ResultWriter,
    open_model: Callable[[], Opened],
    answer: Callable[[Iterator[Document], Opened, OnAnswer, OnError], Iterable[Result]],
    *,
    output: str | None = None,
    resumable: bool = True,
    read_again: Callable[[], Iterable[Document] | None] = lambda: None,
) -> None:
    """Read items, answer those that are not done, write the results, and report.

    ``noun`` is what an item is called. ``read`` gives the items and reports those that cannot be
    read; ``answer`` gives a result for each item, in order, and reports those without one. The
    model is opened only when something is left to do; a person may be offered to download it.
    ``resumable`` says whether ``--resume`` goes on with ``output``. ``read_again`` gives the items
    once more, for the time left, or None where they cannot be read twice.

    Raises ``PartialFailure`` when some items failed, and what exits with 1 when all did: then no
    file is written or replaced.
    """
    failures = Failures()
    output = None if output == "-" else output
    with writing as writer, _resume_hint(output, writer, resumable=resumable):
        rest = (item for item in read(failures.add) if not writer.done(item))
        first = next(rest, None)
        if first is None:
            if failures:
                raise typer.Exit(1)
            done = f"{plural(writer.resumed, noun)} done before"
            note(f"nothing left to do: {done}" if writer.resumed else f"no {noun} to read")
            return
        with Progress() as progress:
            counts = _Counts(progress, noun, lambda: _measured(first, read_again(), writer))
            opened = with_offer(open_model, progress.hidden)
            counts.begin()
            with closing(opened.runner):
                for result in answer(chain([first], rest), opened, counts.answered, failures.add):
                    with progress.aside():
                        writer.write(result)
                    counts.finished(result)
        counts.tell(opened.runner)
        failed_inputs = f"{plural(len(failures), 'input')} failed"
        if failures and not (counts.items or writer.resumed):
            # Raised in here: a file of earlier results is not replaced by an empty one.
            raise IEPileError(f"{failed_inputs}; nothing written")
    for line in writer.notes:
        note(line)
    counts.report(output, writer.resumed)
    if failures:
        raise PartialFailure(
            f"{failed_inputs}; {plural(counts.items, noun)} written",
            hint="--resume tries again what failed" if output and resumable else "",
        )


def _measured(
    first: Document, again: Iterable[Document] | None, writer: ResultWriter
) -> tuple[int, int] | None:
    """The numbers of items and of characters that are left to do, None where nobody knows."""
    if again is None:
        # A text from standard input is read as a whole: it is there already.
        alone = first.line is None and first.source == STDIN_NAME
        return (1, len(first.text)) if alone else None
    lengths = [len(item.text) for item in again if not writer.done(item)]
    return len(lengths), sum(lengths)


class _Counts:
    """What a run has done so far, its bar, and how long it will take."""

    # A run without a bar gets an estimate after so many seconds, if it takes longer than a minute,
    # and so many answers: several are computed at once, and the first tell little.
    ESTIMATE_AFTER = 10
    ESTIMATE_ANSWERS = 16
    LONG = 60

    def __init__(
        self, progress: Progress, noun: str, measure: Callable[[], tuple[int, int] | None]
    ) -> None:
        self._progress, self._noun, self._measure = progress, noun, measure
        self._started = self._opened = time.monotonic()
        self._bar = progress.bar("opening the model")
        self._of = ""
        self._estimated = False
        self.items = self._found = self._ungrounded = 0
        self._tokens = self._answers = 0
        self._characters = 0.0

    def begin(self) -> None:
        """The model is open: from now on the bar shows what is done."""
        self._opened = time.monotonic()
        known = self._measure() if self._progress.visible else None
        if known is not None:
            self._of = f"/{known[0]:,}"
            self._bar.update(done=0, total=max(1, known[1]))
        self._show()

    def answered(self, tokens: int, characters: float) -> None:
        """Count an answer: its tokens, and the characters of text that it deals with."""
        self._tokens += tokens
        self._characters += characters
        self._bar.advance(characters)
        self._show()
        self._answers += 1
        waited = time.monotonic() - self._opened >= self.ESTIMATE_AFTER
        if waited and self._answers >= self.ESTIMATE_ANSWERS and not self._estimated:
            self._estimated = True
            self._estimate()

    def _estimate(self) -> None:
        known = None if self._progress.visible else self._measure()
        if known is None or not self._characters:
            return
        seconds = time.monotonic() - self._opened
        left = seconds * (known[1] / self._characters - 1)
        if left > self.LONG:
            note(f"{plural(known[0], self._noun)}: about {duration(left)} left")

    def finished(self, result: Result) -> None:
        """Count a finished item."""
        self.items += 1
        self._found += len(result.items)
        self._ungrounded += result.ungrounded
        self._show()

    def _show(self) -> None:
        rate = f"  {self._rate():,.0f} tokens/s" if self._tokens else ""
        self._bar.update(f"{self.items:,}{self._of} {self._noun}s{rate}")

    def _rate(self) -> float:
        return self._tokens / max(1e-9, time.monotonic() - self._opened)

    def tell(self, runner: Any) -> None:
        """Say what was left out, and what the runner has to say of its answers."""
        for line in getattr(runner, "notes", ()):
            note(line)
        if self._ungrounded:
            left_out = plural(self._ungrounded, "mention")
            note(f"{left_out} not found in the text, left out")

    def report(self, output: str | None, resumed: int) -> None:
        """Say what was written, where, and in what time; for standard output only with ``-v``.

        ``resumed`` is how many items were there already.
        """
        time_taken = duration(time.monotonic() - self._started)
        done = f"{plural(self.items, self._noun)} with {plural(self._found, 'item')}"
        before = f"; {plural(resumed, self._noun)} done before" if resumed else ""
        line = f"{done} written to {output or 'stdout'} in {time_taken}{before}"
        (note if output else detail)(line)
        detail(f"{plural(self._tokens, 'token')}, {self._rate():.0f} tokens/s")


@contextmanager
def _resume_hint(output: str | None, writer: ResultWriter, *, resumable: bool) -> Iterator[None]:
    """Say, when a run with results ends before it is over, where they are and how to go on."""
    try:
        yield
    except (KeyboardInterrupt, IEPileError):
        if output is not None and writer.written and resumable:
            note(f"what is done stays; add --resume to go on with {output}")
        elif output is not None and writer.written:
            note(
                f"what is done stays in {writer.path}, up to the text of its last row; extract the "
                "rest into another file (--resume needs json or jsonl)"
            )
        raise

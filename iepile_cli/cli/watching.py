"""The progress view of an extraction: documents, tokens a second, time left. On stderr only."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from iepile_cli.cli import console

if TYPE_CHECKING:
    from iepile_cli.extraction.inputs import Document

# Inputs up to this size are read once beforehand, so that the time left can be told.
_COUNTED_BYTES = 200_000_000


class Watch:
    """Counts what an extraction does and shows it, if there is a terminal to show it on."""

    def __init__(self, view: Any = None, row: Any = None, total: int | None = None) -> None:
        self._view, self._row, self._total = view, row, total
        self._started = time.monotonic()
        self.documents = self.tokens = self.ungrounded = 0

    def answered(self, tokens: int, characters: float) -> None:
        """Note an answer: tokens computed for it and how much text it deals with."""
        self.tokens += tokens
        if self._view is not None:
            self._view.update(self._row, advance=characters, text=self._text())

    def finished(self, ungrounded: int = 0) -> None:
        """Note a finished document, and mentions that were left out as not in its text."""
        self.documents += 1
        self.ungrounded += ungrounded
        if self._view is not None:
            self._view.update(self._row, text=self._text())

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the view off the terminal while results are written to the same one."""
        hidden = self._view is not None and sys.stdout.isatty()
        if hidden:
            self._view.stop()
        try:
            yield
        finally:
            if hidden:
                self._view.start()

    @property
    def rate(self) -> float:
        """Tokens a second, prompts and answers together."""
        return self.tokens / max(1e-9, time.monotonic() - self._started)

    def report(self, what: str, runner: object = None) -> None:
        """Say how the run went: what a server did not take, and what was left out."""
        for note in getattr(runner, "notes", ()):
            console.note(note)
        if self.ungrounded:
            console.note(f"{self.ungrounded} mentions that are not in their text are left out")
        console.detail(f"{self.documents} {what}, {self.tokens} tokens, {self.rate:.0f} tokens/s")

    def _text(self) -> str:
        of = f"/{self._total:,}" if self._total is not None else ""
        return f"{self.documents:,}{of} documents  {self.rate:,.0f} tokens/s"


@contextmanager
def watching(count: Callable[[], tuple[int, int] | None]) -> Iterator[Watch]:
    """Show progress while inside; ``count`` gives documents and characters, None if unknown."""
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn

    with console.progress(
        SpinnerColumn(),
        TextColumn("{task.fields[text]}"),
        BarColumn(bar_width=20),
        TimeRemainingColumn(compact=True),
    ) as view:
        if view.disable:
            yield Watch()
            return
        known = count()
        total = known[1] if known else None
        row = view.add_task("", total=total, text="opening the model")
        yield Watch(view, row, known[0] if known else None)


def counting(
    paths: list[str], read: Callable[[], Iterator[Document]]
) -> Callable[[], tuple[int, int] | None]:
    """A way to count documents and characters beforehand, for inputs that can be read twice."""

    def count() -> tuple[int, int] | None:
        sizes = [os.path.getsize(path) for path in paths if os.path.isfile(path)]
        if len(sizes) < len(paths) or sum(sizes) > _COUNTED_BYTES:
            return None
        lengths = [len(document.text) for document in read()]
        return len(lengths), sum(lengths)

    return count


@contextmanager
def resumable(output: str | None) -> Iterator[None]:
    """Say, when the run is interrupted, how to go on with what is written."""
    try:
        yield
    except KeyboardInterrupt:
        if output not in (None, "-"):
            console.note(f"what is done stays; add --resume to go on with {output}")
        raise

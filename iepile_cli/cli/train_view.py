"""What is shown of a training run: progress on stderr, and a decoded example."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from iepile_cli.cli import console
from iepile_cli.training.watcher import Watcher


class View(Watcher):
    """Shows a run's course on a terminal; elsewhere a line now and then."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._row: Any = None
        self._encoded = 0
        self._steps = 0

    def note(self, message: str) -> None:
        """Say it above the progress view."""
        if not console.verbosity.quiet:
            if self._progress.disable:
                console.note(message)
            else:
                self._progress.console.print(message, markup=False)

    def encoding(self) -> None:
        """Count encoded examples."""
        self._encoded += 1
        if self._encoded % 100 == 0:
            self._update(f"tokenising: {self._encoded:,} examples")

    def started(self, steps: int, done: int) -> None:
        """Begin the bar."""
        self._steps = steps
        self._update("training", total=steps, completed=done)

    def step(self, record: Mapping[str, Any]) -> None:
        """Show loss, learning rate and speed."""
        text = f"step {record['step']}/{self._steps}"
        for key, label, form in _SHOWN:
            if key in record:
                text += f"  {label} {record[key]:{form}}"
        self._update(text, completed=record["step"])
        scored = "eval_loss" in record or "eval_f1" in record
        tenth = max(1, self._steps // 10)
        if scored or (self._progress.disable and record["step"] % tenth == 0):
            self.note(text)

    def _update(self, text: str, **more: Any) -> None:
        if self._row is None:
            self._row = self._progress.add_task("", total=None, text=text)
        self._progress.update(self._row, text=text, **more)


_SHOWN = (
    ("loss", "loss", ".4f"),
    ("eval_loss", "held-out loss", ".4f"),
    ("eval_f1", "F1", ".2f"),
    ("learning_rate", "lr", ".1e"),
    ("tokens_per_second", "tokens/s", ".0f"),
)


@contextmanager
def watching_training() -> Iterator[View]:
    """A progress view while inside."""
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn

    with console.progress(
        SpinnerColumn(),
        TextColumn("{task.fields[text]}"),
        BarColumn(bar_width=20),
        TimeRemainingColumn(compact=True),
    ) as progress:
        yield View(progress)


def show_example(runs: Sequence[tuple[str, bool]]) -> None:
    """Write an example with what is learnt marked: by colour on a terminal, else by lines."""
    typer.echo("\nan example; what is learnt is marked:")
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        parts = [(text, "bold green" if learnt else "dim") for text, learnt in runs]
        Console(highlight=False).print(Text.assemble(*parts))
        return
    for text, learnt in runs:
        typer.echo(f"[{'learnt' if learnt else 'masked'}] {text}")

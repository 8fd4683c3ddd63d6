"""What a training run tells whoever looks on; the command line draws it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Watcher:
    """Told of a run's course. This one keeps silent; override what is of interest."""

    def note(self, message: str) -> None:
        """Something worth a line."""

    def encoding(self) -> None:
        """One more example has been encoded."""

    def started(self, steps: int, done: int) -> None:
        """Training begins: steps in all, and those done before a resume."""

    def step(self, record: Mapping[str, Any]) -> None:
        """A line of the training log: step, loss, learning_rate, tokens_per_second and more."""

    def finished(self) -> None:
        """Training is over, whatever came of it."""

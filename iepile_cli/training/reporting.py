"""How a run tells of its progress, and how it is asked to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

from iepile_cli.errors import IEPileError


class Stopped(IEPileError):
    """A run was asked to stop; its weights are in a checkpoint."""

    exit_code = 130


class Reporter:
    """Told of a run's progress. This one keeps silent; override what is of interest."""

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


class StopRequest:
    """Remembers the first Ctrl-C or SIGTERM; a second one interrupts at once, as usual."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

"""Training runs that keep what they tell."""

from __future__ import annotations

from typing import Any

from iepile_cli.training.finetune import Result, train
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.reporting import Reporter


class Recorder(Reporter):
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.records: list[dict[str, Any]] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def step(self, record: Any) -> None:
        self.records.append(dict(record))

    @property
    def losses(self) -> dict[int, float]:
        return {record["step"]: record["loss"] for record in self.records if "loss" in record}


def run(options: TrainOptions, given: tuple[str, ...] = ()) -> tuple[Result, Recorder]:
    """Train and record."""
    recorder = Recorder()
    return train(options, given=given, reporter=recorder), recorder

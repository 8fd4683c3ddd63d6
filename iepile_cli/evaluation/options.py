"""What an evaluation is to do: the options of ``iepile eval``, checked here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

from iepile_cli.errors import UsageError
from iepile_cli.task.table import Task, task_named

Match = Literal["multiset", "set"]
Mode = Literal["strict", "boundary", "partial", "type"]


@dataclass(frozen=True)
class EvalOptions:
    """How answers are read, matched and resampled.

    ``task`` restricts to one task and names the task of records that do not. ``literal`` reads and
    groups as the IEPile repository's script does. ``ignore_case`` and ``ignore_space`` compare
    mentions without regard to case, or to white space. ``resamples`` is the number of bootstrap
    samples (0: no intervals), ``shuffles`` the number of random swaps of the paired test. Raises
    ``UsageError`` for values that are not known or do not go together.
    """

    task: str = ""
    match: Match = "multiset"
    mode: Mode = "strict"
    repair: bool = False
    asked_only: bool = False
    literal: bool = False
    ignore_case: bool = False
    ignore_space: bool = False
    confusions: bool = False
    resamples: int = 1000
    shuffles: int = 10_000
    seed: int = 42

    def __post_init__(self) -> None:
        for value, allowed, option in (
            (self.match, get_args(Match), "--match"),
            (self.mode, get_args(Mode), "--mode"),
        ):
            if value not in allowed:
                raise UsageError(
                    f"{option} {value!r} is not known", hint=f"one of {', '.join(allowed)}"
                )
        if self.resamples < 0 or self.resamples == 1:
            raise UsageError("--resamples takes 0 (no intervals) or at least 2")
        if self.literal and (self.mode != "strict" or self.repair or self.asked_only):
            raise UsageError(
                "--upstream-compatible cannot be combined with --mode, --repair or --asked-only",
                hint="upstream has strict matching only",
            )
        if self.literal and self.normalises:
            raise UsageError(
                "--upstream-compatible cannot be combined with --ignore-case or --ignore-space",
                hint="upstream compares letter by letter",
            )
        if self.task:
            object.__setattr__(self, "task", task_named(self.task).name)
            self.check(task_named(self.task))

    @property
    def normalises(self) -> bool:
        """Whether mentions are compared in another form than they are written in."""
        return self.ignore_case or self.ignore_space

    @cached_property
    def transforms(self) -> bool:
        """Whether facts of a document are changed before they are compared."""
        return self.match == "set" or self.asked_only or self.normalises

    def check(self, task: Task) -> None:
        """Raise ``UsageError`` for a task that cannot be scored this way."""
        if self.literal and not task.comparable:
            raise UsageError(
                f"upstream's evaluation cannot score {task.name}",
                hint="leave out --upstream-compatible",
            )

    def without_intervals(self) -> EvalOptions:
        """The same without resampling."""
        return replace(self, resamples=0)

    def without_repair(self) -> EvalOptions:
        """The same with broken answers left broken."""
        return replace(self, repair=False)

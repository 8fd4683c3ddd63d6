"""What an evaluation is to do: the options of ``iepile eval``, checked here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from iepile_cli.errors import UsageError
from iepile_cli.fields import check_fields, option
from iepile_cli.task.table import Task, task_named

# Groups of the options in the help of the command line.
_MATCHING, _SAMPLES = "Matching", "Intervals"


@dataclass(frozen=True)
class EvalOptions:
    """How answers are read, matched and resampled.

    ``task`` restricts to one task and names the task of records that do not. ``literal`` reads and
    groups as the IEPile repository's script does. ``ignore_case`` and ``ignore_space`` compare
    mentions without regard to case, or to white space. ``resamples`` is the number of bootstrap
    samples (0: no intervals), ``shuffles`` the number of random swaps of the paired test. Raises
    ``UsageError`` for values that are not known or do not go together.
    """

    task: str = option(
        "",
        help="Score this task only; needed where records do not name theirs.",
        completes="task",
    )
    match: Literal["multiset", "set"] = option(
        "multiset", help="multiset: repetitions count; set: they do not.", group=_MATCHING
    )
    mode: Literal["strict", "boundary", "partial", "type"] = option(
        "strict", help="When a prediction is right: see docs/eval.md.", group=_MATCHING
    )
    repair: bool = option(False, help="Save what can be saved of broken answers.", group=_MATCHING)
    asked_only: bool = option(
        False, help="Leave out gold and answers whose types were not asked.", group=_MATCHING
    )
    literal: bool = option(
        False,
        help="Give the numbers of the IEPile script.",
        flags=("--upstream-compatible",),
        group=_MATCHING,
    )
    ignore_case: bool = option(
        False, help="Compare mentions without regard to case.", group=_MATCHING
    )
    ignore_space: bool = option(
        False, help="Compare mentions without their white space.", group=_MATCHING
    )
    confusions: bool = False
    resamples: int = option(
        1000, help="Bootstrap samples for the 95 % intervals; 0: none.", group=_SAMPLES, least=0
    )
    shuffles: int = 10_000
    seed: int = option(42, help="Seed of resampling.", group=_SAMPLES, least=0)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.resamples == 1:
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

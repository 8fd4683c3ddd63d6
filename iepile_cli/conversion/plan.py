"""What a conversion is asked to do: one frozen value that goes to every worker process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from iepile_cli.errors import UsageError
from iepile_cli.task.instruction import batch_bounds
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task, task_named

if TYPE_CHECKING:
    from iepile_cli.conversion.readings import Readings

HardNegatives: TypeAlias = dict[str, tuple[str, ...]]

SPLITS = ("train", "test")
TRIGGERS = ("train", "always", "never")
LANGUAGES = ("zh", "en", "auto")


@dataclass(frozen=True)
class Plan:
    """How the records of one set become instructions.

    ``split_num`` None takes the task's own batch size, -1 asks everything at once. ``neg_ratio``
    is the probability with which a type that the record lacks is asked all the same (negative:
    all of them). ``hard`` maps a label to the labels that are easily mistaken for it; with it,
    ``neg_ratio`` counts only for records without any gold. ``triggers`` says in which split given
    triggers are shown. ``split_arguments`` 0 splits none. ``share`` is that of the
    records that are converted.
    """

    task_name: str
    items: tuple[SchemaItem, ...]
    split: str = "train"
    source: str = ""
    language: str = "auto"
    split_num: int | None = None
    neg_ratio: float = 1.0
    shuffle: bool = False
    hard: HardNegatives | None = None
    seed: int = 42
    split_arguments: int = 0
    triggers: str = "train"
    max_empty_ratio: float | None = None
    strict: bool = False
    share: float = 1.0
    readings: Readings | None = None

    @property
    def task(self) -> Task:
        """The task's row."""
        return task_named(self.task_name)

    @property
    def batch_size(self) -> int:
        """How many schema items stand in one instruction; -1 for all."""
        return self.task.batch_size if self.split_num is None else self.split_num

    @property
    def shows_triggers(self) -> bool:
        """Whether a schema item with given triggers shows them."""
        return self.triggers in (self.split, "always")

    def check(self) -> Plan:
        """Give the plan back when it can be carried out; raises ``UsageError``."""
        list(batch_bounds(1, self.batch_size))
        _one_of("--split", self.split, SPLITS)
        _one_of("--lang", self.language, LANGUAGES)
        _one_of("--triggers", self.triggers, TRIGGERS)
        if not self.neg_ratio <= 1:
            raise UsageError(
                f"--neg-ratio {self.neg_ratio:g} is not a share",
                hint="0 to 1, or -1 for all negatives",
            )
        if self.split_arguments < 0:
            raise UsageError(f"--split-arguments {self.split_arguments} is not a number of roles")
        if self.split_arguments and not self.task.slots:
            raise UsageError(f"--split-arguments: {self.task.name} has no arguments")
        if not self.items:
            raise UsageError(f"the schema names nothing that {self.task.name} asks for")
        if not 0 < self.share <= 1:
            raise UsageError(f"--sample {self.share:g} is not a share", hint="above 0, at most 1")
        if self.readings is not None and self.split == "test":
            raise UsageError(
                "--readings would rename the gold of a test set", hint="use it with train"
            )
        if self.hard is not None and self.task.gold_types_only:
            raise UsageError(
                f"--hard-negatives: {self.task.name} asks only the types that a record has"
            )
        self._check_share()
        return self

    def _check_share(self) -> None:
        if self.max_empty_ratio is None:
            return
        if not 0 <= self.max_empty_ratio <= 1:
            raise UsageError(
                f"--max-empty-ratio {self.max_empty_ratio:g} is not a share", hint="0 to 1"
            )
        if self.split == "test":
            raise UsageError(
                "--max-empty-ratio would drop gold from a test set", hint="use it with train"
            )


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{option} {value} is not known", hint=f"one of {', '.join(known)}")

"""What to convert and how, as the command line says it, and what follows from it for one set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from iepile_cli.conversion.crew import Crew
from iepile_cli.conversion.deriving import derived_schema
from iepile_cli.conversion.hard_negatives import joined, read_hard_negatives
from iepile_cli.conversion.mining import mined
from iepile_cli.conversion.plan import HardNegatives, Plan
from iepile_cli.conversion.readings import read_readings
from iepile_cli.conversion.report import Report
from iepile_cli.conversion.run import Progress, named, silent, survey_files
from iepile_cli.conversion.sets import SCHEMA, language_of_path, source_of, task_of
from iepile_cli.conversion.survey import Survey
from iepile_cli.errors import UsageError
from iepile_cli.task.schema import read_schema, read_schema_file
from iepile_cli.task.shape import SchemaItem, label_of
from iepile_cli.task.table import Task, task_named

AUTO = "auto"

# Gives a callback for the progress of what it is called with: a name and a size in bytes.
Show: TypeAlias = Callable[[str, int], Progress]


def show_nothing(name: str, size: int) -> Progress:
    """Show no progress of anything."""
    return silent


@dataclass(frozen=True)
class Job:
    """What to convert, to what, and how; ``None`` and empty values are decided from the data.

    ``path`` None is stdin, ``output`` None stdout. ``schema`` holds names or files, or ``auto``;
    ``hard_negatives`` files or ``auto``. The other fields are those of ``Plan``.
    """

    path: Path | None
    output: Path | None = None
    schema: tuple[str, ...] = ()
    task: str | None = None
    language: str = AUTO
    split: str | None = None
    split_num: int | None = None
    neg_ratio: float = 1.0
    shuffle: bool = False
    hard_negatives: tuple[str, ...] = ()
    write_hard_negatives: Path | None = None
    max_empty_ratio: float | None = None
    split_arguments: int = 0
    triggers: str = "train"
    sample: float = 1.0
    readings: Path | None = None
    seed: int = 42
    source: str | None = None
    workers: int | None = None
    form: str = AUTO
    to: str = "rows"
    strict: bool = False


class SetUp:
    """What the conversions of a set's files share: task, schema, hard negatives."""

    def __init__(self, job: Job, crew: Crew, files: tuple[Path | None, ...], folder: Path) -> None:
        self.job = job
        self.crew = crew
        self.files = files
        self.folder = folder
        self.task: Task | None = task_named(job.task) if job.task else task_of(folder)
        self.source = job.source or source_of(files[0] if files else None)
        self._survey: Survey | None = None

    def needed_task(self) -> Task:
        """The task; raises ``UsageError`` when nothing says which."""
        if self.task is None:
            raise UsageError(
                "which task? neither --task nor the path names it", hint="for example --task NER"
            )
        return self.task

    def survey(self) -> Survey:
        """One pass over all files of the set."""
        if self._survey is None:
            paths = [path for path in self.files if path is not None]
            if len(paths) < len(self.files):
                raise UsageError(
                    "stdin cannot be read twice",
                    hint="write it to a file first, or name schema and hard negatives",
                )
            self._survey = survey_files(
                paths, self.needed_task().name, form=self.job.form, crew=self.crew
            )
        return self._survey

    def items(self) -> tuple[SchemaItem, ...]:
        """The schema: as given, derived, or from ``schema.json`` beside the data."""
        given = self.job.schema
        if given == (AUTO,):
            return derived_schema(self.survey(), named(self.files[0]))
        if given:
            self.task, found = read_schema(given, self.task)
            return tuple(found)
        beside = self.folder / SCHEMA
        if self.files[0] is None or not beside.is_file():
            where = f"no {beside} and " if self.files[0] is not None else ""
            raise UsageError(
                f"{where}no --schema", hint="name a schema file, or --schema auto to derive one"
            )
        self.task, found = read_schema_file(beside, self.task)
        return tuple(found)

    def hard(self, items: tuple[SchemaItem, ...]) -> HardNegatives | None:
        """The hard negatives that the job names, as one dictionary; None without any."""
        if not self.job.hard_negatives and self.job.write_hard_negatives is None:
            return None
        task = self.needed_task()
        # Labels are what negatives are drawn from: types, or the slots of a type.
        by_slot = "types" not in task.negatives
        slots = (slot for item in items for slot in item.slots)
        labels = sorted(set(slots if by_slot else map(label_of, items)))
        return joined(
            mined(self.survey(), labels)
            if name == AUTO
            else read_hard_negatives(Path(name), task.name, self.source)
            for name in self.job.hard_negatives or (AUTO,)
        )

    def plan(self, items: tuple[SchemaItem, ...], hard: HardNegatives | None, split: str) -> Plan:
        """The plan for one file of the set."""
        job = self.job
        language = job.language
        if language == AUTO:
            language = language_of_path(self.folder) or AUTO
        train = split == "train"
        return Plan(
            task_name=self.needed_task().name,
            items=items,
            split=split,
            source=self.source,
            language=language,
            split_num=job.split_num,
            neg_ratio=job.neg_ratio,
            shuffle=job.shuffle,
            hard=hard if train and job.hard_negatives else None,
            seed=job.seed,
            split_arguments=job.split_arguments,
            triggers=job.triggers,
            max_empty_ratio=job.max_empty_ratio if train or job.split else None,
            strict=job.strict,
            share=job.sample,
            # Of a folder's test files nothing is renamed; asked for one by name it is refused.
            readings=(
                read_readings(job.readings, self.source)
                if job.readings and (train or job.split)
                else None
            ),
        ).check()


def finished(report: Report, plan: Plan, hard: HardNegatives | None) -> Report:
    """The report of a converted file with what its plan decided."""
    report.task_name, report.split, report.language = plan.task_name, plan.split, plan.language
    if plan.hard is not None and not hard:
        report.notes.append(f"no hard negatives for {plan.task_name} of {plan.source!r}")
    return report

"""A whole conversion, one file or a whole corpus, from what the command line says."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from iepile_cli.conversion.crew import Crew
from iepile_cli.conversion.deriving import derived_schema, schema_text
from iepile_cli.conversion.hard_negatives import (
    joined,
    read_hard_negatives,
    write_hard_negatives,
)
from iepile_cli.conversion.mining import mined
from iepile_cli.conversion.outputs import open_output
from iepile_cli.conversion.plan import HardNegatives, Plan, label_of
from iepile_cli.conversion.readers import form_of
from iepile_cli.conversion.report import Report
from iepile_cli.conversion.run import (
    Progress,
    convert_file,
    named,
    silent,
    survey_files,
    write_records,
)
from iepile_cli.conversion.sets import (
    SCHEMA,
    DataSet,
    find_sets,
    language_of_path,
    source_of,
    split_of,
    task_of,
)
from iepile_cli.conversion.survey import Survey
from iepile_cli.errors import IEPileError, UsageError
from iepile_cli.task.schema import read_schema, read_schema_file
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task, task_named

AUTO = "auto"
OUTCOMES = ("rows", "records", "schema")

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
    seed: int = 42
    source: str | None = None
    workers: int | None = None
    form: str = AUTO
    to: str = "rows"
    strict: bool = False


def convert(job: Job, show: Show = show_nothing) -> list[Report]:
    """Carry out a job; gives a report for each file.

    Records and sets that cannot be used are in the reports; the rest is written. Raises
    ``UsageError`` for options that do not fit together, ``DataError`` for a single file that
    cannot be used, and with ``strict`` for the first thing that is wrong.
    """
    if job.to not in OUTCOMES:
        raise UsageError(f"--to {job.to} is not known", hint=f"one of {', '.join(OUTCOMES)}")
    if job.path is not None and not job.path.exists():
        raise UsageError(f"{job.path}: no such file or folder")
    with Crew(job.workers) as crew:
        if job.path is not None and job.path.is_dir() and form_of(job.path, job.form) != "brat":
            return _Corpus(job, crew, show).convert()
        return [_Single(job, crew, show).convert()]


class _Set:
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
        labels = [slot for item in items for slot in item.slots] if by_slot else map(label_of, items)
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
        ).check()


class _Single:
    """One file, or stdin."""

    def __init__(self, job: Job, crew: Crew, show: Show) -> None:
        self.job = job
        self.crew = crew
        self.show = show
        folder = job.path.parent if job.path is not None else Path("/")
        self.set = _Set(job, crew, (job.path,), folder)

    def convert(self) -> Report:
        job, path = self.job, self.job.path
        size = path.stat().st_size if path is not None and path.is_file() else 0
        progress = self.show(named(path), size)
        if job.to == "records":
            return write_records(
                path,
                job.output,
                form=job.form,
                task_name=self.set.task.name if job.task and self.set.task else None,
                strict=job.strict,
                crew=self.crew,
                progress=progress,
            )
        if job.to == "schema":
            return self._schema()
        items = self.set.items()
        hard = self.set.hard(items)
        plan = self.set.plan(items, hard, job.split or split_of(path))
        if job.write_hard_negatives is not None:
            found = {(plan.task_name, plan.source): hard or {}}
            write_hard_negatives(job.write_hard_negatives, found)
        report = convert_file(
            path, job.output, plan, form=job.form, crew=self.crew, progress=progress
        )
        return _finished(report, plan, hard)

    def _schema(self) -> Report:
        survey = self.set.survey()
        items = derived_schema(survey, named(self.job.path))
        with open_output(self.job.output) as file:
            file.write(schema_text(survey.task, items).encode())
        return Report(
            name=named(self.job.path), records=survey.records, notes=[f"{len(items):,} types"]
        )


def _finished(report: Report, plan: Plan, hard: HardNegatives | None) -> Report:
    report.task_name, report.split = plan.task_name, plan.split
    if plan.hard is not None and not hard:
        report.notes.append(f"no hard negatives for {plan.task_name} of {plan.source!r}")
    return report


class _Corpus:
    """A folder of sets, several at once, each with a bar of its own."""

    def __init__(self, job: Job, crew: Crew, show: Show) -> None:
        self.job = job
        self.crew = crew
        self.show = show
        self.hard: dict[tuple[str, str], HardNegatives] = {}

    def convert(self) -> list[Report]:
        root, output = self.job.path, self.job.output
        assert root is not None
        if output is None or (output.exists() and not output.is_dir()):
            raise UsageError("a folder is converted into a folder", hint="name one with -o")
        if self.job.to == "records":
            raise UsageError("--to records is for single files")
        sets = [one for one in find_sets(root) if self._wanted(one)]
        if not sets:
            raise UsageError(
                f"{root}: no train.json, dev.json or test.json in it or below",
                hint="see iepile convert --help",
            )
        reports = self._all(sets)
        if self.job.write_hard_negatives is not None:
            write_hard_negatives(self.job.write_hard_negatives, self.hard)
        return reports

    def _wanted(self, one: DataSet) -> bool:
        """With ``--task``, the sets of that task, and those whose path names none."""
        task = task_of(one.folder)
        return self.job.task is None or task in (None, task_named(self.job.task))

    def _all(self, sets: list[DataSet]) -> list[Report]:
        with ThreadPoolExecutor(self.crew.workers) as threads:
            under_way = [threads.submit(self._one, one) for one in sets]
            try:
                return [report for future in under_way for report in future.result()]
            except BaseException:
                self.crew.stop()
                for future in under_way:
                    future.cancel()
                raise

    def _one(self, one: DataSet) -> list[Report]:
        reports: list[Report] = []
        try:
            self._files(one, reports)
        except (IEPileError, OSError) as error:
            if self.job.strict:
                raise
            reports.append(Report(name=one.name, error=" ".join(str(error).split())))
        return reports

    def _files(self, one: DataSet, reports: list[Report]) -> None:
        job, output = self.job, self.job.output
        assert output is not None
        files = [path for path in one.files if job.split in (None, split_of(path))]
        if not files:
            return
        progress = self.show(one.name, one.size)
        files_and_all = _Set(job, self.crew, one.files, one.folder)
        if job.to == "schema":
            survey = files_and_all.survey()
            items = derived_schema(survey, one.name)
            with open_output(output / one.inside / SCHEMA) as file:
                file.write(schema_text(survey.task, items).encode())
            reports.append(
                Report(name=one.name, task_name=survey.task_name, records=survey.records)
            )
            return
        items = files_and_all.items()
        hard = files_and_all.hard(items)
        if hard is not None:
            self.hard[files_and_all.needed_task().name, files_and_all.source] = hard
        before = 0
        for path in files:
            plan = files_and_all.plan(items, hard, job.split or split_of(path))

            def told(done: int, _: int, before: int = before) -> None:
                progress(before + done, one.size)

            report = convert_file(
                path,
                output / one.inside / path.name,
                plan,
                form=job.form,
                crew=self.crew,
                progress=told,
                at_once=True,
            )
            before += path.stat().st_size
            reports.append(_finished(report, plan, hard))
        progress(one.size, one.size)


__all__ = ["OUTCOMES", "Job", "Show", "convert", "replace"]

"""A whole conversion, one file or a whole corpus, from what the command line says."""

from __future__ import annotations

from pathlib import Path

from iepile_cli.conversion.corpus import Corpus
from iepile_cli.conversion.crew import Crew
from iepile_cli.conversion.deriving import derived_schema, schema_text
from iepile_cli.conversion.hard_negatives import write_hard_negatives
from iepile_cli.conversion.outputs import open_output
from iepile_cli.conversion.readers import form_of
from iepile_cli.conversion.report import Report
from iepile_cli.conversion.run import convert_file, named, write_records
from iepile_cli.conversion.sets import split_of
from iepile_cli.conversion.setup import Job, SetUp, Show, finished, show_nothing
from iepile_cli.errors import UsageError

OUTCOMES = ("rows", "records", "schema")


def convert(job: Job, show: Show = show_nothing) -> list[Report]:
    """Carry out a job; gives a report for each file.

    Records and sets that cannot be used are in the reports; the rest is written. Raises
    ``UsageError`` for options that do not fit together, ``DataError`` for a single file that
    cannot be used, and with ``strict`` for the first thing that is wrong.
    """
    if job.to not in OUTCOMES:
        raise UsageError(f"--to {job.to} is not known", hint=f"one of {', '.join(OUTCOMES)}")
    if job.to != "rows" and (job.readings or job.sample != 1):
        raise UsageError(f"--readings and --sample draw rows: they cannot be used --to {job.to}")
    if job.path is not None and not job.path.exists():
        raise UsageError(f"{job.path}: no such file or folder")
    with Crew(job.workers) as crew:
        if job.path is not None and job.path.is_dir() and form_of(job.path, job.form) != "brat":
            return Corpus(job, crew, show).convert()
        return [_Single(job, crew, show).convert()]


class _Single:
    """One file, or stdin."""

    def __init__(self, job: Job, crew: Crew, show: Show) -> None:
        self.job = job
        self.crew = crew
        self.show = show
        folder = job.path.parent if job.path is not None else Path("/")
        self.set = SetUp(job, crew, (job.path,), folder)

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
        return finished(report, plan, hard)

    def _schema(self) -> Report:
        survey = self.set.survey()
        items = derived_schema(survey, named(self.job.path))
        with open_output(self.job.output) as file:
            file.write(schema_text(survey.task, items).encode())
        return Report(
            name=named(self.job.path), records=survey.records, notes=[f"{len(items):,} types"]
        )


__all__ = ["OUTCOMES", "Job", "Show", "convert"]

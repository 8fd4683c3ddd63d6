"""A folder of sets laid out as the IEPile download, several sets at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from iepile_cli.conversion.crew import Crew
from iepile_cli.conversion.deriving import derived_schema, schema_text
from iepile_cli.conversion.hard_negatives import write_hard_negatives
from iepile_cli.conversion.outputs import open_output
from iepile_cli.conversion.plan import HardNegatives
from iepile_cli.conversion.report import Report
from iepile_cli.conversion.run import convert_file
from iepile_cli.conversion.sets import SCHEMA, DataSet, find_sets, split_of, task_of
from iepile_cli.conversion.setup import Job, SetUp, Show, finished
from iepile_cli.errors import IEPileError, UsageError
from iepile_cli.task.table import task_named


class Corpus:
    """A folder of sets, several at once, each with a bar of its own."""

    def __init__(self, job: Job, crew: Crew, show: Show) -> None:
        self.job = job
        self.crew = crew
        self.show = show
        self.hard: dict[tuple[str, str], HardNegatives] = {}

    def convert(self) -> list[Report]:
        """Convert every set; one that fails is in the reports and the others finish."""
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
        setup = SetUp(job, self.crew, one.files, one.folder)
        if job.to == "schema":
            survey = setup.survey()
            items = derived_schema(survey, one.name)
            with open_output(output / one.inside / SCHEMA) as file:
                file.write(schema_text(survey.task, items).encode())
            name = str(one.inside / SCHEMA)
            reports.append(Report(name=name, task_name=survey.task_name, records=survey.records))
            return
        items = setup.items()
        hard = setup.hard(items)
        if hard is not None:
            self.hard[setup.needed_task().name, setup.source] = hard
        before = 0
        for path in files:
            plan = setup.plan(items, hard, job.split or split_of(path))

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
            report.title = str(one.inside / path.name)
            reports.append(finished(report, plan, hard))
        progress(one.size, one.size)

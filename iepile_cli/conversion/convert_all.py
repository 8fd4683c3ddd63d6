"""A whole conversion, one file or a whole corpus."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from iepile_cli.conversion.convert_file import (
    Progress,
    convert_file,
    silent,
)
from iepile_cli.conversion.datasets import (
    SCHEMA,
    Dataset,
    DatasetPlanner,
    find_datasets,
    inferred_schema,
    schema_text,
    split_of,
    task_of,
)
from iepile_cli.conversion.file_report import Report
from iepile_cli.conversion.hard_negatives import write_hard_negatives
from iepile_cli.conversion.options import AUTO, GRAPH_FORMS, JSON_ARRAYS, ConvertOptions
from iepile_cli.conversion.plan import HardNegatives, Plan
from iepile_cli.conversion.readers import files_of, form_of
from iepile_cli.errors import IEPileError, NoSuchFile, UsageError
from iepile_cli.fields import check_fields
from iepile_cli.files import display_name
from iepile_cli.formatting import plural
from iepile_cli.parallel import WorkerPool
from iepile_cli.shards import parse_shard, refuse_streams
from iepile_cli.task.table import task_named
from iepile_cli.writing import refuse_overwriting, write_atomic

# Gives a callback for the progress of what it is called with: a name and a size in bytes.
Show: TypeAlias = Callable[[str, int], Progress]


def show_nothing(name: str, size: int) -> Progress:
    """Show no progress of anything."""
    return silent


def convert(options: ConvertOptions, show: Show = show_nothing) -> list[Report]:
    """Convert a file, or a folder of datasets; gives a report for each file.

    Records and datasets that cannot be used are in the reports; the rest is written. Raises
    ``UsageError`` for options that do not fit together, ``DataError`` for a single file that
    cannot be used, and with ``strict`` for the first problem.
    """
    check_fields(options)
    _check(options)
    path = options.path
    if path is not None and not path.exists():
        raise NoSuchFile(path)
    _keep_inputs(options, options.output, options.write_hard_negatives)
    with WorkerPool(options.workers) as pool:
        if path is not None and path.is_dir() and form_of(path, options.form) != "brat":
            return _Corpus(options, pool, show).convert()
        return [_convert_single(options, pool, show)]


def _keep_inputs(options: ConvertOptions, *outputs: Path | None) -> None:
    """Raise ``UsageError`` when an output is a file that the conversion reads."""
    there = [path for path in outputs if path is not None and path.exists()]
    if there:
        refuse_overwriting(there, _inputs_of(options))


def _inputs_of(options: ConvertOptions) -> list[Path | None]:
    path = options.path
    named = [*options.schema, *options.hard_negatives]
    beside = [] if path is None else [(path if path.is_dir() else path.parent) / SCHEMA]
    return [
        *(files_of(path, options.form) if path is not None else ()),
        *(Path(name.removeprefix("@")) for name in named if name != AUTO),
        *beside,
        options.label_aliases,
        options.rename_labels,
    ]


def _check(options: ConvertOptions) -> None:
    if options.shard is not None:
        _check_part(options)
    if options.to == "rows":
        return
    if options.label_aliases or options.sample != 1:
        raise UsageError(
            f"--label-aliases and --sample draw rows: they cannot be used --to {options.to}"
        )
    if options.dev_share:
        raise UsageError(f"--dev-share splits rows: it cannot be used --to {options.to}")


def _check_part(options: ConvertOptions) -> None:
    """Raise ``UsageError`` for a part of what cannot be taken apart, or joined again."""
    parse_shard(options.shard or "")
    refuse_streams([options.path])
    if options.to in ("schema", "brat", *JSON_ARRAYS, *GRAPH_FORMS):
        raise UsageError(f"--shard: outputs --to {options.to} cannot be joined")
    if options.max_empty_ratio is not None:
        raise UsageError(
            "--shard: --max-empty-ratio counts the rows of the whole file",
            hint="--neg-ratio and --sample draw each record by itself",
        )


def dev_path(output: Path | None, share: float) -> Path | None:
    """Where the rows of the dev share go: ``rows.dev.jsonl`` beside ``rows.jsonl``."""
    if not share:
        return None
    if output is None:
        raise UsageError("--dev-share writes two files", hint="name the first one with -o")
    stem, dot, endings = output.name.partition(".")
    return output.with_name(f"{stem}.dev{dot}{endings}")


def _convert_single(options: ConvertOptions, pool: WorkerPool, show: Show) -> Report:
    """Convert one file, or stdin."""
    path = options.path
    folder = path.parent if path is not None else Path("/")
    planner = DatasetPlanner(options, pool, (path,), folder)
    size = path.stat().st_size if path is not None and path.is_file() else 0
    progress = show(display_name(path), size)
    if options.to == "schema":
        return _write_schema(planner, options.output, display_name(path))
    if options.to != "rows":
        if options.to == "brat" and options.output is None:
            raise UsageError("--to brat writes a folder", hint="name one with -o")
        from iepile_cli.conversion.tool_files import write_records

        return write_records(
            path,
            options.output,
            options.to,
            planner.renames,
            form=options.form,
            task_name=planner.task.name if options.task and planner.task else None,
            strict=options.strict,
            pool=pool,
            progress=progress,
            part=options.part,
        )
    dev = dev_path(options.output, options.dev_share)
    _keep_inputs(options, dev)
    items = planner.items()
    hard = planner.hard(items)
    plan = planner.plan(items, hard, options.split or split_of(path))
    if options.write_hard_negatives is not None:
        write_hard_negatives(
            options.write_hard_negatives, {(plan.task_name, plan.source): hard or {}}
        )
    report = convert_file(
        path,
        options.output,
        plan,
        form=options.form,
        pool=pool,
        dev_output=dev,
        progress=progress,
        part=options.part,
    )
    return _finished(report, plan, hard)


def _write_schema(planner: DatasetPlanner, output: Path | None, name: str) -> Report:
    survey = planner.survey()
    items = inferred_schema(survey, name)
    write_atomic(output if output is not None else "-", schema_text(survey.task, items))
    return Report(
        name=name,
        task_name=survey.task_name,
        records=survey.records,
        notes=[plural(len(items), "type")],
    )


def _finished(report: Report, plan: Plan, hard: HardNegatives | None) -> Report:
    """The report of a converted file with what its plan decided."""
    report.task_name, report.split, report.language = plan.task_name, plan.split, plan.language
    if plan.hard is not None and not hard:
        report.notes.append(f"no hard negatives for {plan.task_name} of {plan.source!r}")
    return report


class _Corpus:
    """A folder of datasets, several at once, each with its own progress."""

    def __init__(self, options: ConvertOptions, pool: WorkerPool, show: Show) -> None:
        self.options = options
        self.pool = pool
        self.show = show
        self.hard: dict[tuple[str, str], HardNegatives] = {}

    def convert(self) -> list[Report]:
        """Convert every dataset; one that fails is in the reports and the others finish."""
        root, output = self.options.path, self.options.output
        assert root is not None
        if output is None or (output.exists() and not output.is_dir()):
            raise UsageError("a folder is converted into a folder", hint="name one with -o")
        if self.options.to not in ("rows", "schema"):
            raise UsageError(f"--to {self.options.to} is for single files")
        found = find_datasets(root, leave_out=output)
        inputs = [path for one in found for path in (*one.files, one.folder / SCHEMA)]
        outputs = [output / path.relative_to(root) for path in inputs]
        refuse_overwriting([*outputs, self.options.write_hard_negatives], inputs)
        datasets = [one for one in found if self._wanted(one)]
        if not datasets:
            raise UsageError(
                f"{root}: no train.json, dev.json or test.json in it or below",
                hint="see iepile convert --help",
            )
        reports = self._convert_all(datasets)
        if self.options.write_hard_negatives is not None:
            write_hard_negatives(self.options.write_hard_negatives, self.hard)
        return reports

    def _wanted(self, one: Dataset) -> bool:
        """With ``--task``, the datasets of that task, and those whose path names none."""
        wanted = self.options.task
        task = task_of(one.folder, len(one.inside.parts))
        return wanted is None or task in (None, task_named(wanted))

    def _convert_all(self, datasets: list[Dataset]) -> list[Report]:
        with ThreadPoolExecutor(self.pool.workers) as threads:
            under_way = [threads.submit(self._convert, one) for one in datasets]
            try:
                return [report for future in under_way for report in future.result()]
            except BaseException:
                self.pool.stop()
                for future in under_way:
                    future.cancel()
                raise

    def _convert(self, one: Dataset) -> list[Report]:
        reports: list[Report] = []
        try:
            self._convert_files(one, reports)
        except (IEPileError, OSError) as error:
            if self.options.strict:
                raise
            reports.append(Report(name=one.name, error=" ".join(str(error).split())))
        return reports

    def _convert_files(self, one: Dataset, reports: list[Report]) -> None:
        options, output = self.options, self.options.output
        assert output is not None
        files = [path for path in one.files if options.split in (None, split_of(path))]
        if not files:
            return
        progress = self.show(one.name, one.size)
        planner = DatasetPlanner(
            options,
            self.pool,
            one.files,
            one.folder,
            inside=len(one.inside.parts),
            source=one.source,
        )
        if options.to == "schema":
            report = _write_schema(planner, output / one.inside / SCHEMA, one.name)
            report.name = str(one.inside / SCHEMA)
            reports.append(report)
            return
        items = planner.items()
        hard = planner.hard(items)
        if hard is not None:
            self.hard[planner.needed_task().name, planner.source] = hard
        before = 0
        for path in files:
            split = options.split or split_of(path)
            target = output / one.inside / path.name
            plan = planner.plan(items, hard, split)
            if not path.name.startswith("train"):
                plan = replace(plan, dev_share=0)

            def reported(done: int, _: int, before: int = before) -> None:
                progress(before + done, one.size)

            report = convert_file(
                path,
                target,
                plan,
                form=options.form,
                pool=self.pool,
                dev_output=dev_path(target, plan.dev_share),
                progress=reported,
                several=True,
                part=options.part,
            )
            before += path.stat().st_size
            report.title = str(one.inside / path.name)
            reports.append(_finished(report, plan, hard))
        progress(one.size, one.size)

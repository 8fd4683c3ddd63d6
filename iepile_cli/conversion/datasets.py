"""Datasets: what a path says about one, and what the conversions of its files share.

The layout is that of the IEPile download: ``IE-en/NER/CoNLL2003/test.json`` with ``schema.json``
beside, datasets nested deeper as in ``EE/RAMS/life``.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from iepile_cli.conversion.convert_file import open_chunks, silent, survey_files
from iepile_cli.conversion.hard_negatives import joined, read_hard_negatives
from iepile_cli.conversion.label_aliases import read_label_aliases, read_renames, rename_items
from iepile_cli.conversion.mining import Survey, mined
from iepile_cli.conversion.options import AUTO, ConvertOptions
from iepile_cli.conversion.plan import HardNegatives, Plan
from iepile_cli.conversion.readers import form_of
from iepile_cli.conversion.record_gold import FIELDS, Unusable, item_of, read_json
from iepile_cli.errors import DataError, UsageError
from iepile_cli.files import display_name
from iepile_cli.parallel import WorkerPool
from iepile_cli.task.instruction import dumps, item_json
from iepile_cli.task.schema import read_schema, read_schema_file
from iepile_cli.task.shape import SchemaItem, label_of
from iepile_cli.task.table import TASKS, Task, task_named

SCHEMA = "schema.json"

_FILE = re.compile(r"(train|dev|valid|test)\.jsonl?(\.gz|\.zst|\.bz2|\.xz)?")
_LANGUAGE = re.compile(r".+[-_](en|zh)")
# A folder that names the task is at most so many levels above the folder of the files.
_LEVELS = 2


@dataclass(frozen=True)
class Dataset:
    """One dataset of a corpus: its folder, that folder within the corpus, its files, its name.

    ``source`` is the folder's name, with those above it as far as they tell it from others.
    """

    folder: Path
    inside: Path
    files: tuple[Path, ...]
    source: str = ""

    @property
    def name(self) -> str:
        """How the dataset is named in messages."""
        return str(self.inside) if self.inside.parts else self.folder.resolve().name

    @property
    def size(self) -> int:
        """Bytes in its files."""
        return sum(path.stat().st_size for path in self.files)


def find_datasets(root: Path, leave_out: Path | None = None) -> list[Dataset]:
    """Every folder at or below ``root`` that holds train, dev, valid or test files, sorted.

    What is below ``leave_out`` is passed over.
    """
    found = sorted(_datasets(root, leave_out), key=lambda one: one.inside.as_posix())
    return [replace(one, source=_source(one, found)) for one in found]


def _source(dataset: Dataset, others: Sequence[Dataset]) -> str:
    """The shortest end of a dataset's path that no other one of its task has."""
    parts = dataset.inside.parts or (dataset.folder.resolve().name,)
    task = task_of(dataset.folder, len(parts))
    rivals = [
        one.inside.parts
        for one in others
        if one is not dataset and task_of(one.folder, len(one.inside.parts)) is task
    ]
    length = 1
    while length < len(parts) and any(one[-length:] == parts[-length:] for one in rivals):
        length += 1
    return "/".join(parts[-length:])


def _datasets(root: Path, leave_out: Path | None) -> Iterator[Dataset]:
    output = leave_out.resolve() if leave_out is not None else None
    for here, folders, names in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and Path(here, name).resolve() != output
        ]
        files = [name for name in names if _FILE.fullmatch(name)]
        if files:
            folder = Path(here)
            paths = tuple(folder / name for name in sorted(files, key=_usual_order))
            yield Dataset(folder, folder.relative_to(root), paths)


def _usual_order(name: str) -> tuple[int, str]:
    return ("train", "dev", "valid", "test").index(name.partition(".")[0]), name


def split_of(path: Path | None) -> str:
    """What a file is for by its name: ``test`` for test files, ``train`` for all others."""
    return "test" if path is not None and path.name.partition(".")[0] == "test" else "train"


def task_of(folder: Path, inside: int = 0) -> Task | None:
    """The task that a folder's path names: the nearest of its last parts.

    ``inside`` is the number of parts that belong to the corpus; folders further up are ignored.
    """
    at = _task_level(folder, inside)
    return None if at is None else TASKS[folder.resolve().parts[at].upper()]


def _task_level(folder: Path, inside: int) -> int | None:
    parts = folder.resolve().parts
    for at in reversed(range(len(parts))):
        if at < len(parts) - 1 - max(_LEVELS, inside):
            return None
        if parts[at].upper() in TASKS:
            return at
    return None


def language_of_path(folder: Path, inside: int = 0) -> str | None:
    """The language that the folder above the task's names, as in ``IE-en``."""
    at = _task_level(folder, inside)
    found = _LANGUAGE.fullmatch(folder.resolve().parts[at - 1].lower()) if at else None
    return found[1] if found else None


def source_of(path: Path | None) -> str:
    """The name of a dataset: its file's folder, or the file's own stem without one."""
    if path is None:
        return "stdin"
    named = path.parent.name
    return named if named not in ("", ".", "..") else path.name.partition(".")[0]


# ---------------------------------------------------------------------- what is asked of a dataset


class DatasetPlanner:
    """Decides what the conversions of a dataset's files share: task, schema, hard negatives."""

    def __init__(
        self,
        options: ConvertOptions,
        pool: WorkerPool,
        files: tuple[Path | None, ...],
        folder: Path,
        *,
        inside: int = 0,
        source: str = "",
    ) -> None:
        self.options = options
        self.pool = pool
        self.files = files
        self.folder = folder
        self.inside = inside
        self.form = form_of(files[0], options.form)
        self.task = task_named(options.task) if options.task else task_of(folder, inside)
        self.source = options.source or source or source_of(files[0] if files else None)
        self.renames = read_renames(options.rename_labels) if options.rename_labels else {}
        self._survey: Survey | None = None

    def needed_task(self) -> Task:
        """The task; raises ``UsageError`` where neither options nor the data name it."""
        if self.task is None and self.form != "iepile":
            self.task = self._annotated_task()
        if self.task is None:
            raise UsageError(
                "which task? neither --task nor the path names it", hint="for example --task NER"
            )
        return self.task

    def _annotated_task(self) -> Task | None:
        """The task that the first records are annotated for, if it is one."""
        if self.files[0] is None:
            return None
        with open_chunks(self.files[0], self.options.form, None, silent) as chunks:
            found = {
                field
                for chunk in itertools.islice(chunks, 1)
                for _, raw in chunk.records()
                for field in _annotated_fields(raw)
            }
        tasks = [next(task for task in TASKS.values() if task.layout.field == one) for one in found]
        return tasks[0] if len(tasks) == 1 else None

    def survey(self) -> Survey:
        """One pass over all files of the dataset."""
        if self._survey is None:
            paths = [path for path in self.files if path is not None]
            if len(paths) < len(self.files):
                raise UsageError(
                    "stdin cannot be read twice",
                    hint="write it to a file first, or name schema and hard negatives",
                )
            self._survey = survey_files(
                paths,
                self.needed_task().name,
                self.renames,
                form=self.options.form,
                pool=self.pool,
            )
        return self._survey

    def items(self) -> tuple[SchemaItem, ...]:
        """The schema: as given, inferred, or from ``schema.json`` beside the data; renamed."""
        given = self.options.schema
        beside = self.folder / SCHEMA
        if not given and self.form != "iepile" and not beside.is_file():
            given = (AUTO,)
        if given == (AUTO,):
            return inferred_schema(self.survey(), display_name(self.files[0]))
        if given:
            self.task, found = read_schema(given, self.task)
        elif self.files[0] is None or not beside.is_file():
            where = f"no {beside} and " if self.files[0] is not None else ""
            raise UsageError(
                f"{where}no --schema", hint="name a schema file, or --schema auto to infer one"
            )
        else:
            self.task, found = read_schema_file(beside, self.task)
        return rename_items(found, self.renames)

    def hard(self, items: tuple[SchemaItem, ...]) -> HardNegatives | None:
        """The hard negatives that the options name, as one dictionary; None without any."""
        options = self.options
        if not options.hard_negatives and options.write_hard_negatives is None:
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
            for name in options.hard_negatives or (AUTO,)
        )

    def plan(self, items: tuple[SchemaItem, ...], hard: HardNegatives | None, split: str) -> Plan:
        """The plan for one file of the dataset."""
        options = self.options
        language: str = options.language
        if language == AUTO:
            language = language_of_path(self.folder, self.inside) or AUTO
        train = split == "train"
        # What is for training alone is refused for a file asked for by name, and passed over in
        # the test files of a folder.
        training = train or bool(options.split)
        aliases = options.label_aliases if training else None
        return Plan(
            task_name=self.needed_task().name,
            items=items,
            split=split,
            source=self.source,
            language=language,
            split_num=options.split_num,
            neg_ratio=options.neg_ratio,
            shuffle=options.shuffle,
            hard=hard if train and options.hard_negatives else None,
            seed=options.seed,
            split_arguments=options.split_arguments,
            triggers=options.triggers,
            max_empty_ratio=options.max_empty_ratio if training else None,
            strict=options.strict,
            share=options.sample,
            dev_share=options.dev_share if training else 0,
            renames=self.renames,
            aliases=read_label_aliases(aliases, self.source) if aliases else None,
        ).check()


def _annotated_fields(raw: bytes) -> Iterator[str]:
    try:
        record = read_json(raw)
    except Unusable:
        return
    yield from (field for field in FIELDS if isinstance(record, dict) and record.get(field))


def inferred_schema(survey: Survey, name: str) -> tuple[SchemaItem, ...]:
    """Every type that the annotation has, with every slot seen with it, sorted by name.

    Raises ``DataError`` (``name`` says which data) when there is nothing to infer it from.
    """
    task = survey.task
    items = []
    for key in survey.types:
        item = item_of(key)
        if not item.type:
            raise DataError(
                f"heads have no {task.layout.type!r}, so the schema cannot be inferred",
                path=name,
                hint="name types and attributes in a schema file",
            )
        slots = tuple(sorted(survey.slots[key])) if task.slots else ()
        items.append(SchemaItem(item.type, slots, item.subject_type, item.object_type))
    if not items:
        raise DataError(f"no {task.layout.field!r} annotation to infer a schema from", path=name)
    return tuple(sorted(items, key=label_of))


def schema_text(task: Task, items: Sequence[SchemaItem]) -> str:
    """A schema file: three JSON lines (types, roles, roles of each type).

    Typed relations whose type names hold an underscore cannot be written so (bug C08d) and make
    one JSON list of objects.
    """
    names = [item.type for item in items]
    if task.layout.subject_type:
        if any("_" in item.subject_type + item.object_type for item in items):
            return dumps([item_json(task, item) for item in items]) + "\n"
        lists = [label_of(item) for item in items], sorted(set(names))
    elif task.slots:
        lists = names, sorted({slot for item in items for slot in item.slots})
    else:
        lists = ([], names) if task.layout.field == "relation" else (names, [])
    roles_of = {item.type: list(item.slots) for item in items} if task.slots else {}
    return "".join(dumps(part) + "\n" for part in (*lists, roles_of))

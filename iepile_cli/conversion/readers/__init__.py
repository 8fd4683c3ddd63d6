"""Forms that annotated data comes in, each read into unified records.

``open_records`` gives the records of a file or folder as chunks, whatever their form;
``read_gold`` gives what they are annotated with. The form follows from the file's name and from
what its first record holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

from iepile_cli import arrow_files
from iepile_cli.conversion.chunks import Chunk, json_chunks, numbered_chunks
from iepile_cli.conversion.options import Form
from iepile_cli.conversion.readers.bio import (
    TAG_KEYS,
    TOKEN_KEYS,
    feature_names,
    is_tagged,
    read_bio,
    token_reader,
)
from iepile_cli.conversion.readers.brat import brat_documents, brat_files, read_brat
from iepile_cli.conversion.readers.doccano import doccano_records
from iepile_cli.conversion.readers.label_studio import label_studio_records
from iepile_cli.conversion.readers.published import is_row, read_published
from iepile_cli.conversion.readers.results import ResultReader, result_sources
from iepile_cli.conversion.readers.spacy import read_doc_bin, spacy_records
from iepile_cli.conversion.readers.spans import RecordReader, read_records
from iepile_cli.conversion.record_gold import (
    BAD_GOLD,
    KEPT,
    NOT_IN_TEXT,
    GoldItem,
    Problem,
    Unusable,
    gold_items,
    read_json,
    text_of,
)
from iepile_cli.errors import DataError, NoSuchFile, UsageError
from iepile_cli.files import Input, StrPath, display_name, open_input, suffix, utf8_stream
from iepile_cli.task.instruction import dumps
from iepile_cli.task.table import TASKS, Task

FORMS: tuple[str, ...] = get_args(Form)

_BY_SUFFIX = {
    ".bio": "bio",
    ".iob": "bio",
    ".iob2": "bio",
    ".conll": "bio",
    ".bioes": "bio",
    ".spacy": "spacy",
    ".ann": "brat",
}
_DOC_BIN = ".spacy"
# So many bytes of a file show whether it holds columns of tokens and tags.
_HEAD = 1 << 13
_NAMES = {"label-studio": "a Label Studio task", "tokens": "a record of tokens and tags"}

Opened: TypeAlias = tuple[Iterator[Chunk], int]


def form_of(path: Path | None, form: str = "auto") -> str:
    """The form of a file: as named, by its suffix, or by its first record or sentence.

    Raises ``UsageError`` for an unknown name and ``DataError`` for plain text; a file that cannot
    be read is ``iepile``.
    """
    if form not in FORMS:
        raise UsageError(f"--from {form} is not known", hint=f"one of {', '.join(FORMS)}")
    if form != "auto":
        return form
    named = _form_by_name(path)
    if named != "auto" or path is None or not path.is_file():
        return "iepile" if named == "auto" else named
    try:
        with _open_source(path) as source:
            if _is_bio(source, form):
                return "bio"
            plain = _is_plain_text(source)
            found = _form_of_record(next(_first_record(_json_of(path, source)[0]), None))
    except DataError:
        return "iepile"
    if plain:
        raise _not_annotated(path)
    return found


def files_of(path: Path, form: str = "auto") -> Iterator[Path]:
    """Every file that is read with a file or folder: brat's documents, the sources of results.

    Raises ``UsageError`` for an unknown form and ``DataError`` for results that cannot be read.
    """
    yield path
    form = form_of(path, form)
    if form == "brat":
        yield from brat_files(path)
    elif form == "results" and path.is_file():
        with _open_source(path) as source:
            yield from result_sources(_json_of(path, source)[0], path.parent)


def _form_by_name(path: Path | None) -> str:
    if path is None:
        return "auto"
    if path.is_dir():
        return "brat" if any(path.rglob("*.ann")) else "iepile"
    return _BY_SUFFIX.get(suffix(path), "auto")


def _form_of_record(value: Any) -> str:
    """The form of a decoded record, by the keys that no other form has together."""
    match value:
        case [str(), {"entities": list()}] | {"paragraphs": list()}:
            return "spacy"
    if not isinstance(value, dict) or any(task.layout.field in value for task in TASKS.values()):
        return "iepile"
    label, data = value.get("label", value.get("labels")), value.get("data")
    if isinstance(data, dict) and {"annotations", "predictions", "completions"} & value.keys():
        return "label-studio"
    if any(key in value for key in TOKEN_KEYS) and any(key in value for key in TAG_KEYS):
        return "tokens"
    if {"task", "answer", "items"} <= value.keys():
        return "results"
    if "text" not in value:
        return "iepile"
    if isinstance(label, list) and "spans" not in value:
        regions = bool(label) and isinstance(label[0], dict)
        return "label-studio" if regions else "doccano"
    entities = value.get("entities")
    if isinstance(entities, list) and "relations" in value:
        return "doccano"
    if "ents" in value:
        return "spacy"
    return "prodigy" if "spans" in value else "iepile"


def _first_record(chunks: Iterator[Chunk]) -> Iterator[Any]:
    for chunk in chunks:
        for _, raw in chunk.records():
            try:
                yield read_json(raw)
            except Unusable:
                return


@contextmanager
def open_records(path: Path | None, form: str, task_name: str | None) -> Iterator[Opened]:
    """The records of a file (None: stdin) as chunks, and the file's size for progress.

    ``task_name`` picks the rows of one task out of published files. Raises ``DataError`` for what
    cannot be opened.
    """
    # A pipe can be read only once: what its first record holds is looked at below.
    form = form_of(path, form) if form != "auto" else _form_by_name(path)
    if form == "brat":
        yield numbered_chunks(read_brat(brat_documents(path)), lambda: 0), 0
        return
    if form == "spacy" and path is not None and suffix(path) == _DOC_BIN:
        yield numbered_chunks(read_doc_bin(path), lambda: 0), 0
        return
    with _open_source(path) as source:
        if source is not None and (form == "bio" or _is_bio(source, form)):
            yield numbered_chunks(read_bio(source, display_name(path)), source.tell), source.size
        elif form == "auto" and _is_plain_text(source):
            raise _not_annotated(path)
        else:
            yield _read_json(path, source, form, task_name)


def _read_json(path: Path | None, source: Input | None, form: str, task_name: str | None) -> Opened:
    """Records of JSON or Parquet as unified ones."""
    chunks, size = _json_of(path, source)
    first = next(chunks, None)
    if first is None:
        return iter(()), size
    rest = itertools.chain([first], chunks)
    record = next(_first_record(iter([first])), None)
    if form == "auto":
        form = _form_of_record(record)
    # How far the file is read shows in its chunks.
    position = [0]
    watched = _watched(rest, position)
    if form != "iepile":
        named = _NAMES.get(form, f"{form} annotation")
        records = read_records(watched, _record_reader(form, path), named)
    elif isinstance(record, dict) and is_row(record):
        records = read_published(watched, task_name)
    else:
        return rest, size
    return numbered_chunks(records, lambda: position[0]), size


def _watched(chunks: Iterable[Chunk], position: list[int]) -> Iterator[Chunk]:
    for chunk in chunks:
        position[0] = chunk.position
        yield chunk


def _record_reader(form: str, path: Path | None) -> RecordReader:
    match form:
        case "doccano":
            return doccano_records
        case "label-studio":
            return label_studio_records
        case "tokens":
            return token_reader(feature_names(path))
        case "results":
            return ResultReader(path.parent if path is not None else Path())
        case _:
            return spacy_records


@contextmanager
def _open_source(path: Path | None) -> Iterator[Input | None]:
    """A file as UTF-8; None for a Parquet or Arrow file."""
    if path is not None and suffix(path) in arrow_files.SUFFIXES:
        yield None
        return
    with open_input(path) as opened:
        with _naming(path):
            stream = utf8_stream(opened.stream)
        yield opened._replace(stream=stream)


def _is_bio(source: Input | None, form: str) -> bool:
    return source is not None and form == "auto" and is_tagged(source.stream.peek(_HEAD))


def _is_plain_text(source: Input | None) -> bool:
    """Whether a file begins with lines of which none can be a record."""
    head = source.stream.peek(_HEAD) if source is not None else b""
    begins = [line.lstrip()[:1] for line in head.splitlines()]
    return any(begins) and not any(one in (b"{", b"[") for one in begins)


def _not_annotated(path: Path | None) -> DataError:
    return DataError(
        "is plain text, not annotated data",
        path=display_name(path),
        hint="convert reads JSON records, columns of tags (BIO), brat, spaCy, Prodigy, doccano, "
        "Label Studio and results of extract; iepile extract makes these from text",
    )


def _json_of(path: Path | None, source: Input | None) -> Opened:
    """The records of a file of JSON, or of a Parquet file, as they are."""
    if source is None:
        assert path is not None
        return numbered_chunks(_arrow_rows(path), lambda: 0), 0
    return json_chunks(source), source.size


def _arrow_rows(path: Path) -> Iterator[tuple[int, bytes]]:
    with _naming(path), path.open("rb") as file:
        for number, row in arrow_files.rows(file):
            yield number, dumps(row).encode()


@contextmanager
def _naming(path: Path | None) -> Iterator[None]:
    """Give a ``DataError`` the path that it lacks."""
    try:
        yield
    except DataError as error:
        raise error.at(display_name(path)) from None


# ------------------------------------------------------------------------------------------- gold


class GoldRecord(NamedTuple):
    """What one record is annotated with for one task.

    ``items`` have the spans in ``text`` where the form has them. ``problems`` are what is wrong
    with the record, each with its line; a record that cannot be used has no ``task`` and no items.
    """

    id: str | None
    text: str
    items: tuple[GoldItem, ...]
    task: Task | None
    problems: tuple[Problem, ...] = ()


def read_gold(path: StrPath, form: str = "auto", task: Task | None = None) -> Iterator[GoldRecord]:
    """The annotation in a file or folder of whatever form, record by record.

    A record makes one ``GoldRecord`` for each task that it has a field for: with ``task`` only
    that one, else the first task of each annotated field. Raises ``DataError`` for a file that
    cannot be read.
    """
    place = Path(path)
    if not place.exists():
        raise NoSuchFile(display_name(path))
    first: dict[str, Task] = {}
    for one in TASKS.values():
        first.setdefault(one.layout.field, one)
    tasks = [task] if task else list(first.values())
    with open_records(place, form, task.name if task else None) as (chunks, _):
        for chunk in chunks:
            problems: dict[int, list[Problem]] = {}
            for problem in chunk.problems:
                if problem.kind in KEPT:
                    problems.setdefault(problem.line, []).append(problem)
                else:
                    yield GoldRecord(None, "", (), None, (problem,))
            for index, raw in chunk.records():
                line = chunk.line_of(index)
                yield from _gold_records(raw, line, tasks, problems.get(line, []))


def _gold_records(
    raw: bytes, line: int, tasks: Sequence[Task], notes: Sequence[Problem]
) -> Iterator[GoldRecord]:
    try:
        record = read_json(raw)
        text = text_of(record)
    except Unusable as problem:
        yield GoldRecord(None, "", (), None, (Problem(line, problem.kind, problem.what),))
        return
    named = record.get("id")
    for task in tasks:
        if record.get(task.layout.field) is None:
            continue
        wrong: list[str] = []
        items = gold_items(task, record[task.layout.field], text, wrong)
        problems = [*notes, *(Problem(line, BAD_GOLD, what) for what in wrong)]
        problems += [
            Problem(line, NOT_IN_TEXT, f"{mention!r} ({one.gold.type})")
            for one in items
            for _, mention in one.gold.roles
            if mention not in text
        ]
        yield GoldRecord(
            None if named is None else str(named), text, tuple(items), task, tuple(problems)
        )

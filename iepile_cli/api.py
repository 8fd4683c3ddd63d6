"""The Python API: what the command line does, for programs. ``docs/python.md`` shows it in use.

Its names are those of the package (``iepile_cli.load``), where they are loaded on first use. What
goes wrong is raised as one of ``iepile_cli.errors``; nothing is printed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from iepile_cli.errors import IEPileError, raise_error

if TYPE_CHECKING:
    from iepile_cli.backends.opening import Opened
    from iepile_cli.conversion.file_report import Report
    from iepile_cli.extraction.inputs import Document
    from iepile_cli.extraction.results import Result
    from iepile_cli.extraction.summary import Entry
    from iepile_cli.task.shape import SchemaItem
    from iepile_cli.task.table import Task
    from iepile_cli.training.finetune import Result as TrainResult


@dataclass(frozen=True)
class Schema:
    """What to extract: the items of one task (see ``read_schema``)."""

    task: Task
    items: tuple[SchemaItem, ...]

    @property
    def names(self) -> list[str]:
        """The types, in their order: the keys of an answer."""
        return list(dict.fromkeys(item.type for item in self.items))


SchemaLike: TypeAlias = Schema | str | Sequence[str] | Mapping[str, Any]


def read_schema(schema: SchemaLike, task: str | None = None) -> Schema:
    """Read a schema: an expression or a file's name, several of them, or an object as in JSON.

    Without ``task`` (``"NER"``, ``"RE"`` ...) it follows from the form. Raises ``UsageError`` for
    an expression that cannot be read, ``DataError`` for a file.
    """
    from iepile_cli.task.schema import read_schema as reading
    from iepile_cli.task.table import task_named

    if isinstance(schema, Schema):
        return schema
    named = task_named(task) if task else None
    if isinstance(schema, Mapping):
        schema = json.dumps(dict(schema))
    found, items = reading([schema] if isinstance(schema, str) else list(schema), named)
    return Schema(found, tuple(items))


@dataclass(frozen=True, slots=True)
class Mention:
    """A part of an item: ``text[start:end]`` of the document, in characters.

    ``role`` is what it is in the item (``subject``, ``trigger``, ``attacker`` ...), ``score`` the
    model's certainty in 0..1, None where the backend does not tell. ``occurrences`` are the other
    places of the same words, where ``all_occurrences`` asks for them.
    """

    role: str
    text: str
    start: int
    end: int
    score: float | None = None
    occurrences: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """What was found: its type and its parts, in the order of the task.

    ``text``, ``start`` and ``end`` are those of the first part: the entity, the subject, the
    trigger. ``subject_type`` and ``object_type`` are those of typed relations, else empty.
    """

    type: str
    mentions: tuple[Mention, ...]
    score: float | None = None
    subject_type: str = ""
    object_type: str = ""

    @property
    def text(self) -> str:
        """The words of the first part."""
        return self.mentions[0].text

    @property
    def start(self) -> int:
        """Where the first part begins, in characters."""
        return self.mentions[0].start

    @property
    def end(self) -> int:
        """Where the first part ends, in characters; the character there is no part of it."""
        return self.mentions[0].end

    def __getitem__(self, role: str) -> Mention:
        """The first mention in a role; raises ``KeyError`` where there is none."""
        for mention in self.mentions:
            if mention.role == role:
                return mention
        raise KeyError(role)


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was found in one text.

    ``answer`` has exactly the keys that the schema asks for, in the form of IEPile's data;
    ``items`` are in text order. ``truncated`` counts answers that their token budget ended,
    ``ungrounded`` mentions that were dropped as not in the text, ``problems`` parts of answers
    that could not be used.
    """

    text: str
    task: str
    language: str
    answer: dict[str, Any]
    items: tuple[Item, ...]
    truncated: int = 0
    ungrounded: int = 0
    problems: int = 0
    record: dict[str, Any] | None = None
    """The object that ``iepile extract`` writes for this text."""


class Extractor:
    """An opened model; made by ``load``. Use it in one thread, and close it or use ``with``."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    @property
    def backend(self) -> str:
        """The name of the backend that runs the model."""
        return self._opened.backend

    @property
    def template(self) -> str:
        """The name of the chat template."""
        return self._opened.template.name

    def extract(
        self, text: str, schema: SchemaLike, *, task: str | None = None, **options: Any
    ) -> Extraction:
        """Extract from one text what a schema names.

        ``options`` are fields of ``ExtractOptions``, as the options of ``iepile extract``. Raises
        ``UsageError`` for a schema or options that cannot be, ``ModelError`` without an answer.
        """
        return next(self.extract_all([text], schema, task=task, **options))

    def extract_all(
        self,
        texts: Iterable[str | Document],
        schema: SchemaLike,
        *,
        task: str | None = None,
        on_error: Callable[[IEPileError], None] | None = None,
        **options: Any,
    ) -> Iterator[Extraction]:
        """Extract from many texts, lazily and in their order; several are under way at once.

        A text may be a document, as ``read_documents`` gives it. One without an answer raises
        ``ModelError``, or is left out and reported to ``on_error``.
        """
        from iepile_cli.extraction.inputs import document_of
        from iepile_cli.extraction.pipeline import extract
        from iepile_cli.extraction.requests import ExtractOptions

        wanted = read_schema(schema, task)
        given = ExtractOptions(**options).suiting(self._opened)
        results = extract(
            (document_of(text, number) for number, text in enumerate(texts, 1)),
            self._opened.runner,
            self._opened.template,
            given,
            task=wanted.task,
            schema=wanted.items,
            on_error=on_error or raise_error,
        )
        return map(_extraction, results)

    def close(self) -> None:
        """Give the model's memory back."""
        self._opened.runner.close()

    def __enter__(self) -> Extractor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def load(
    model: str | None = None,
    *,
    adapter: str | Sequence[str] = (),
    backend: str | None = None,
    template: str | None = None,
    language: str | None = None,
    **options: Any,
) -> Extractor:
    """Open a model: a name of ``iepile list models``, a path or a hub id; None: the embedded one.

    ``language`` picks a model's own adapter for it, where it has one (``zh`` of the embedded one).
    ``options`` are fields of ``backends.Options``, as the options of ``iepile extract``:
    ``device``, ``bits``, ``context``, ``parallel``, ``base_url`` ... Raises ``UsageError``,
    ``UnknownName`` or ``ModelError``; nothing is downloaded.
    """
    from iepile_cli.backends import Options
    from iepile_cli.backends.opening import open_model

    opened = open_model(
        model,
        adapters=[adapter] if isinstance(adapter, str) else list(adapter),
        backend=backend,
        template=template,
        language=language,
        options=Options(**_tuples(options)),
    )
    return Extractor(opened)


def read_documents(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    pattern: str | None = None,
    on_error: Callable[[IEPileError], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    **options: Any,
) -> Iterator[Document]:
    """The texts in files, folders, globs and addresses, as ``iepile extract`` reads them.

    Each has ``text``, ``source``, ``line``, ``id``, and ``page(offset)`` where it has pages.
    ``options`` are ``encoding``, ``lines``, ``text_field``, ``input_format`` and ``limit``;
    ``pattern`` says which files of folders are read (``*.txt``), ``on_note`` is called with notes
    on guessed encodings and unread parts. What cannot be read raises ``DataError``, or goes to
    ``on_error`` and the rest goes on.
    """
    from iepile_cli.extraction import inputs

    named = [paths] if isinstance(paths, (str, PathLike)) else paths
    return inputs.read_documents(
        [fspath(path) for path in named],
        inputs.InputOptions(**options),
        pattern=pattern,
        on_error=on_error or raise_error,
        on_note=on_note,
    )


def _extraction(result: Result) -> Extraction:
    from iepile_cli.extraction.results import to_json

    items = [
        Item(
            type=found.item.type,
            mentions=tuple(
                Mention(role, span.text, span.start, span.end, span.score, span.occurrences)
                for role, span in found.roles
            ),
            score=found.score,
            subject_type=found.item.subject_type,
            object_type=found.item.object_type,
        )
        for found in result.items
    ]
    return Extraction(
        text=result.document.text,
        task=result.task.name,
        language=result.language,
        answer=result.answer,
        items=tuple(items),
        truncated=result.truncated,
        ungrounded=result.ungrounded,
        problems=result.problems,
        record=to_json(result),
    )


# ------------------------------------------------------------------------ pages and summaries

Source: TypeAlias = "str | PathLike[str]"
ResultLike: TypeAlias = "Extraction | Mapping[str, Any]"


def summarise(results: Iterable[ResultLike], **options: Any) -> list[Entry]:
    """The names in results, counted over all of them, as ``iepile view --summary``.

    ``options`` are fields of ``extraction.summary.SummaryOptions``.
    """
    from iepile_cli.extraction import summary

    records = (_record_and_text(one)[0] for one in results)
    return summary.summarise(records, summary.SummaryOptions(**options))


def write_page(
    results: Iterable[ResultLike], output: Source, *, title: str | None = None, **options: Any
) -> None:
    """Write results as a page for browsers, as ``iepile view RESULTS -o OUTPUT``.

    A text is that of the ``Extraction``, or the object's ``text``. Raises ``DataError`` for a file
    that cannot be written, and for objects that are no results.
    """
    from iepile_cli.extraction.page import TITLE, page_of
    from iepile_cli.extraction.summary import SummaryOptions
    from iepile_cli.writing import atomic_write

    documents = ((*_record_and_text(one), "") for one in results)
    with atomic_write(fspath(output)) as file:
        for piece in page_of(documents, title=title or TITLE, options=SummaryOptions(**options)):
            file.write(piece)


def _record_and_text(result: ResultLike) -> tuple[dict[str, Any], str | None]:
    from iepile_cli.extraction.result_files import check_result

    if isinstance(result, Extraction):
        return result.record or {}, result.text
    record = dict(result)
    check_result(record)
    text = record.get("text")
    return record, text if isinstance(text, str) else None


# -------------------------------------------------------------- conversion, training, scores


def convert(source: Source, output: Source, **options: Any) -> list[Report]:
    """Convert annotated data to instructions, as ``iepile convert SOURCE -o OUTPUT``.

    ``options`` are fields of ``ConvertOptions``. Gives a report for each dataset, with what was
    skipped and why. Raises ``UsageError`` or ``DataError``.
    """
    from iepile_cli import conversion
    from iepile_cli.models import resolve_data

    given = {"path": resolve_data(fspath(source)), "output": Path(output), **_tuples(options)}
    return conversion.convert(conversion.ConvertOptions(**given))


def train(data: Source | Sequence[Source], output: Source, **options: Any) -> TrainResult:
    """Train on converted data, as ``iepile train --data DATA -o OUTPUT``.

    ``options`` are fields of ``TrainOptions``; ``recipe`` names one to start from. Needs the
    extra ``train``. Raises ``UsageError``, ``DataError`` or ``ModelError``.
    """
    from iepile_cli.registry import registry
    from iepile_cli.training.finetune import train as run
    from iepile_cli.training.recipes import options_from

    files = [data] if isinstance(data, (str, PathLike)) else list(data)
    named = options.pop("recipe", "")
    given = {"data": [fspath(file) for file in files], "output": fspath(output), **options}
    tables = [registry().get("recipe", named).table] if named else []
    return run(options_from(*tables, given), given=given)


def evaluate(
    predictions: Source,
    *,
    gold: Source | None = None,
    baseline: Source | None = None,
    by: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Score predictions, as ``iepile eval PREDICTIONS --json -``; gives that report.

    ``options`` are fields of ``evaluation.EvalOptions``. Raises ``UsageError``, or ``DataError``
    where nothing can be scored.
    """
    from iepile_cli import evaluation as scoring
    from iepile_cli.evaluation.report import as_json

    with scoring.evaluate(
        fspath(predictions),
        scoring.EvalOptions(**options),
        by=tuple(by),
        gold=None if gold is None else fspath(gold),
        baseline=None if baseline is None else fspath(baseline),
    ) as evaluation:
        return as_json(evaluation)


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(value) if isinstance(value, list) else value for k, value in options.items()}

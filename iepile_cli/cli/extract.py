"""``iepile extract``."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iepile_cli.backends import Options
from iepile_cli.cli import console, options
from iepile_cli.cli.cluster_run import extract_on_cluster
from iepile_cli.cli.extract_run import run
from iepile_cli.cli.extract_sources import InstructionRecords, Texts, refuse_with_instructions
from iepile_cli.cli.view import summarising
from iepile_cli.cluster.options import ClusterOptions
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.extraction.forms import OutputOptions
from iepile_cli.extraction.inputs import InputOptions
from iepile_cli.extraction.requests import ExtractOptions
from iepile_cli.extraction.summary import SummaryOptions
from iepile_cli.fields import option
from iepile_cli.models.catalogue import MANY

if TYPE_CHECKING:
    from iepile_cli.backends.opening import Opened
    from iepile_cli.errors import OnError
    from iepile_cli.extraction.inputs import Document
    from iepile_cli.extraction.outputs import ResultWriter
    from iepile_cli.extraction.results import Result

EXAMPLES = """
Examples:

\b
  iepile extract --schema person,location news.txt
  cat news.txt | iepile extract --schema person,location
  iepile extract --task re --schema "founder of,place of birth" notes/
  iepile extract --schema "person -works for-> organization" a.txt b.txt
  iepile extract --schema "attack(attacker, target, place)" -o events.jsonl *.txt
  iepile extract --schema "person{birthplace, occupation}" --lines names.txt
  iepile extract --schema schema.yaml --text-field body posts.jsonl --format csv
  iepile extract --schema person,location -o page.html reports/
  iepile extract --schema person,location --summary reports/
  iepile extract --instructions test.jsonl -o pred.jsonl
"""


# What a person sees who names nothing to extract.
_FIRST_USE = """\
iepile extract finds in texts what you name with --schema, and says where each item stands:
  iepile extract --schema person,location,organization {files}
  echo "Tim Cook flew to Dublin." | iepile extract --schema person,location
Relations, events and attributes have forms of their own, e.g. --schema "attack(attacker, target)".
All options: iepile extract --help; what works on this machine: iepile doctor"""


@dataclass(frozen=True)
class RecordOptions:
    """Whether records with instructions are answered, and not texts."""

    instructions: str | None = option(
        None,
        group="Input",
        help="Answer the records that `iepile convert` made (- for standard input) as they are: "
        "each is written with its 'output'.",
    )


@options.command(first=("schema", "task", "model", "output", "format"))
def extract(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders or globs; - or nothing: standard input."),
    ] = None,
    *,
    wanted: options.SchemaOptions,
    records: RecordOptions,
    reading: InputOptions,
    writing: OutputOptions,
    counting: SummaryOptions,
    how: ExtractOptions,
    named: options.ModelOptions,
    runs: options.BackendOptions,
    opening: Options,
    cluster: ClusterOptions,
) -> None:
    """Extract what a schema names from texts, with the place of every item in its text."""
    if not wanted.schema and records.instructions is None and console.may_ask():
        named_files = shlex.join(files) if files else "news.txt"
        console.note(_FIRST_USE.format(files=named_files))
        raise typer.Exit(UsageError.exit_code)
    source: Texts | InstructionRecords
    if records.instructions is None:
        source = Texts(files, wanted, reading)
    else:
        refuse_with_instructions(files, wanted, reading, how, writing=writing)
        source = InstructionRecords(records.instructions, wanted.task, reading)
    if cluster.ray is not None:
        if not isinstance(source, Texts):
            raise UsageError("--ray reads texts: --instructions cannot be used with it")
        extract_on_cluster(source, writing, how, cluster, named, runs, opening)
        return
    settings = replace(opening, verbose=console.verbosity.verbose, on_note=console.note)
    writer = source.writer(writing, counting)
    with summarising(writing, counting) as count:
        run(
            source.noun,
            source.read,
            writer,
            functools.partial(_open, source, how, named, runs, settings),
            functools.partial(_answer, source, writer, how, named.model, count),
            output=writing.output,
            resumable=source.resumable,
            read_again=source.read_again,
        )


def _open(
    source: Texts | InstructionRecords,
    how: ExtractOptions,
    named: options.ModelOptions,
    runs: options.BackendOptions,
    settings: Options,
) -> Opened:
    from iepile_cli.backends.opening import open_model

    if isinstance(source, Texts) and not settings.base_url:
        source.check_room(how, named, runs.template, settings.context)
    return open_model(
        named.model,
        adapters=named.adapter,
        backend=runs.backend,
        template=runs.template,
        language=how.language,
        options=settings,
    )


def _answer(
    source: Texts | InstructionRecords,
    writer: ResultWriter,
    how: ExtractOptions,
    model: str | None,
    count: Callable[[Result], None],
    documents: Iterator[Document],
    opened: Opened,
    on_answer: Callable[[int, float], None],
    on_error: OnError,
) -> Iterator[Result]:
    """Extract from the documents with an opened model; say once what of it may disappoint."""
    from iepile_cli.extraction.pipeline import extract as extract_documents

    writer.check(**_model_settings(opened, model))
    remarks = _Remarks(opened, how)
    how = how.suiting(opened, records=not isinstance(source, Texts))
    results = extract_documents(
        documents,
        opened.runner,
        opened.template,
        how,
        task=source.task if isinstance(source, Texts) else None,
        schema=source.schema,
        on_answer=on_answer,
        on_error=on_error,
    )
    try:
        for result in results:
            remarks.about(result)
            yield result
            count(result)
    except ModelError as error:
        raise source.named(error) from None


_OTHERS = "`iepile list models` has others"


class _Remarks:
    """What is said once of a run: what its model is not good for, options that do nothing."""

    def __init__(self, opened: Opened, how: ExtractOptions) -> None:
        self._name = opened.model.name if opened.model else opened.backend
        self._tasks = opened.model.tasks if opened.model else ()
        self._languages = opened.model.languages if opened.model else ()
        entry = opened.model.entry if opened.model and not opened.remote else None
        # Of an embedded model, whose files are all here.
        self._entry = entry if entry and entry.embedded else None
        self._min_score = how.min_score
        self._usual = how.suiting(opened)
        self._said: set[str] = set()

    def about(self, result: Result) -> None:
        """Say what this result is the first reason for."""
        from iepile_cli.task import task_named
        from iepile_cli.task.language import detect_language, seems_foreign

        task, text = result.task, result.document.text
        if self._tasks and task.name not in self._tasks:
            best = ", ".join(task_named(name).title for name in self._tasks)
            hidden = self._min_score is None and self._usual.least_score(task) > 0
            more = ", and --min-score 0 shows what scores low" if hidden else ""
            weak = f"{self._name} is best at {best}, and weak at {task.title}"
            self._say("task", weak, f"{_OTHERS}{more}")
        if self._languages and MANY not in self._languages and "language" not in self._said:
            language = "" if seems_foreign(text) else detect_language(text)
            if language not in self._languages:
                known = ", ".join(self._languages)
                self._say(
                    "language",
                    f"{self._name} knows {known}, and the text of {result.document.source} seems "
                    "to be in another language",
                    self._for_language(language),
                )
        if self._min_score and result.items and all(item.score is None for item in result.items):
            self._say("scores", "--min-score: answers have no scores here, nothing is left out", "")

    def _for_language(self, language: str) -> str:
        from iepile_cli.models.resolve import adapter_for

        adapters = self._entry.adapters if self._entry else ()
        if self._entry and adapters and adapter_for(self._entry, language) != adapters[0]:
            return f"--lang {language} uses its adapter for that"
        return _OTHERS

    def _say(self, what: str, message: str, way_out: str = _OTHERS) -> None:
        if what not in self._said:
            self._said.add(what)
            console.note(f"note: {message}" + (f": {way_out}" if way_out else ""))


def _model_settings(opened: Opened, name: str | None) -> dict[str, Any]:
    """What answers, as it is compared when the run is resumed."""
    found = opened.model
    if found is None or opened.remote:
        return {"model": name or opened.backend, "template": opened.template.name}
    adapters = [f"{path.parent.name}/{path.name}" for path in found.adapters]
    return {"model": found.name, "adapters": adapters, "template": opened.template.name}

"""``iepile extract``."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Annotated

import typer

from iepile_cli.cli import complete, console, options
from iepile_cli.cli.fetching import offer
from iepile_cli.cli.predicting import predict_records, refuse
from iepile_cli.cli.watching import Watch, counting, resumable, watching
from iepile_cli.errors import IEPileError, PartialFailure, UsageError

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
  iepile extract --instructions test.jsonl -o pred.jsonl
"""


def extract(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders or globs; - or nothing: standard input."),
    ] = None,
    schema: options.Schemas = None,
    instructions: Annotated[
        str | None,
        typer.Option(
            "--instructions",
            help="Answer the records that `iepile convert` made (- for standard input) as they "
            "are: each is written with its 'output'.",
        ),
    ] = None,
    task: options.TaskName = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    backend: options.BackendName = None,
    template: options.TemplateName = None,
    lang: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete.choices(("en", "zh")),
            help="Language of the instruction: en or zh. Default: detected.",
        ),
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Every line is a text.")] = False,
    text_field: Annotated[
        str | None,
        typer.Option(help="The field of JSONL, CSV and TSV records that holds the text."),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of the input. Default: UTF-8, or as its BOM says.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="Stop after so many texts.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            autocompletion=complete.choices(("table", "json", "jsonl", "csv")),
            help="table, json, jsonl or csv. Default: table on a terminal, else by the file's "
            "ending, else jsonl.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what --output already holds.")
    ] = False,
    all_occurrences: Annotated[
        bool, typer.Option("--all-occurrences", help="Give every place where a mention stands.")
    ] = False,
    constrain: Annotated[
        bool,
        typer.Option(
            "--constrain/--no-constrain",
            help="Allow only valid, grounded answers; without it, answers are repaired.",
        ),
    ] = True,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Leave out what scores less. Default: as was found best for the adapter, else 0.",
        ),
    ] = None,
    list_prior: Annotated[
        float | None,
        typer.Option(
            min=-20,
            max=20,
            help="Added to the log-odds of listing one thing more; above 0 more is found, and with "
            "less certainty. Default: as was found best for the adapter, else 0.",
        ),
    ] = None,
    split_num: options.SplitNum = None,
    passage_tokens: Annotated[
        int, typer.Option(min=16, help="Longer texts are cut at sentences into such passages.")
    ] = 384,
    answer_tokens: Annotated[
        int, typer.Option(min=0, help="The longest answer; 0: as the passage and schema need.")
    ] = 0,
    system: Annotated[
        str | None, typer.Option(help="A system text instead of the template's own.")
    ] = None,
    context: options.Context = 0,
    parallel: options.Parallel = 0,
    threads: options.Threads = 0,
    device: options.Device = "",
    bits: options.Bits = 0,
    max_memory: options.MaxMemory = None,
    trust_remote_code: options.TrustRemoteCode = False,
    base_url: options.BaseUrl = "",
    api_key_env: options.ApiKeyEnv = "",
    server: options.Server = "",
    tokenizer: options.TokenizerName = "",
    concurrency: options.Concurrency = 0,
    timeout: options.Timeout = 0.0,
) -> None:
    """Extract what a schema names from texts, with the place of every item in its text."""
    from iepile_cli.backends import Options
    from iepile_cli.backends.opening import open_model
    from iepile_cli.extraction.inputs import Document, is_piped, read_documents
    from iepile_cli.extraction.outputs import FORMATS, PART, RESUMABLE, open_writer
    from iepile_cli.extraction.pipeline import Asking
    from iepile_cli.extraction.pipeline import extract as extract_documents
    from iepile_cli.extraction.predicting import Predicting
    from iepile_cli.task.schema import read_schema
    from iepile_cli.task.table import LANGUAGES, task_named

    settings = Options(
        context=context,
        parallel=parallel,
        threads=threads,
        device=device,
        bits=bits,
        max_memory=tuple(max_memory or ()),
        trust_remote_code=trust_remote_code,
        base_url=base_url,
        api_key_env=api_key_env,
        server=server,
        tokenizer=tokenizer,
        concurrency=concurrency,
        timeout=timeout,
        verbose=console.verbosity.verbose,
        on_note=console.note,
    )
    opening = functools.partial(
        open_model,
        model,
        adapters=adapter or (),
        backend=backend,
        template=template,
        options=settings,
    )
    if list_prior is not None and not constrain:
        raise UsageError("--list-prior and --no-constrain do not go together")
    if instructions is not None:
        refuse(
            files=files,
            schema=schema,
            lang=lang,
            lines=lines,
            text_field=text_field,
            split_num=split_num,
            all_occurrences=all_occurrences,
            format=format_ not in (None, "jsonl"),
        )
        asking_as = Predicting(task_named(task) if task else None, answer_tokens, constrain, system)
        if not base_url:
            offer(model, adapter or ())
        predict_records(
            instructions,
            asking_as,
            opening,
            output,
            min_score,
            list_prior,
            resume=resume,
            limit=limit,
        )
        return
    if not schema:
        raise UsageError(
            "no --schema: what is to be extracted?", hint="try --schema person,location"
        )
    named, items = read_schema(schema, task_named(task) if task else None)
    if lang is not None and lang not in LANGUAGES:
        raise UsageError(f"no instruction in {lang!r}", hint=f"--lang {' or '.join(LANGUAGES)}")
    if not files and not is_piped():
        raise UsageError("nothing to read", hint="name files, or pipe a text in")
    asking = Asking(
        named,
        tuple(items),
        language=lang,
        split_num=split_num,
        passage_tokens=passage_tokens,
        answer_tokens=answer_tokens,
        constrain=constrain,
        all_occurrences=all_occurrences,
        system=system,
    )
    form = format_ or _format_for(output, list(FORMATS))
    failures: list[IEPileError] = []

    def failed(error: IEPileError) -> None:
        failures.append(error)
        console.print_error(error.message, error.hint)

    def read(on_error: object = None) -> Iterator[Document]:
        return read_documents(
            files or ["-"],
            encoding=encoding,
            lines=lines,
            text_field=text_field,
            limit=limit,
            exclude=[output, output + PART] if output else (),
            on_error=on_error or (lambda error: None),  # type: ignore[arg-type]
        )

    documents = read(failed)
    with (
        open_writer(form, output, resume=resume) as writer,
        resumable(output if form in RESUMABLE else None),
    ):
        rest = (document for document in documents if not writer.done(document))
        first = next(rest, None)
        if first is None:
            _nothing_left(failures, writer.resumed)
            return
        if not base_url:
            offer(model, adapter or ())
        with watching(counting(files or ["-"], read)) as watch:
            opened = opening()
            with closing(opened.runner):
                for result in extract_documents(
                    itertools.chain([first], rest),
                    replace(
                        asking,
                        min_score=opened.least_score(min_score),
                        list_prior=opened.list_prior(list_prior),
                    ),
                    opened.runner,
                    opened.template,
                    on_answer=watch.answered,
                    on_error=failed,
                ):
                    with watch.aside():
                        writer.write(result)
                    watch.finished(result.ungrounded)
    watch.report("documents", opened.runner)
    _report(watch, failures, output if form in RESUMABLE else None)


def _format_for(output: str | None, known: list[str]) -> str:
    if output is None or output == "-":
        return "table" if sys.stdout.isatty() else "jsonl"
    ending = output.rsplit(".", 1)[-1].lower()
    return ending if ending in known else "jsonl"


def _nothing_left(failures: list[IEPileError], resumed: int) -> None:
    if failures:
        raise typer.Exit(1)
    console.note(f"nothing left to do: {resumed} documents were done" if resumed else "no text")


def _report(watch: Watch, failures: list[IEPileError], output: str | None) -> None:
    if failures:
        raise PartialFailure(
            f"{len(failures)} inputs failed; the other {watch.documents} are written",
            hint="--resume tries them again" if output not in (None, "-") else "",
        )

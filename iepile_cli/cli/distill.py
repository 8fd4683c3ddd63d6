"""``iepile distill``: a small model of one's own from the answers of a large one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from iepile_cli.backends import Options
from iepile_cli.cli import console, options
from iepile_cli.distillation.options import DistillOptions
from iepile_cli.errors import UsageError
from iepile_cli.extraction.inputs import InputOptions
from iepile_cli.extraction.requests import ExtractOptions

EXAMPLES = """
Examples:

\b
  iepile distill --teacher qwen3-32b --base-url http://localhost:8000/v1 \\
      --schema "mineral,mine,collector" texts/ -o student/
  iepile distill --teacher my-13b --schema schema.yaml --certainty 0.8 posts.jsonl -o student/
  iepile distill --teacher my-13b --schema schema.yaml texts/ --gold test.bio -o student/
  iepile distill --teacher my-13b --schema schema.yaml texts/ --until convert -o student/
"""
_FIRST = ("schema", "task", "teacher", "output", "until")


@options.command(first=_FIRST, without=("save_text", "shard"))
def distill(
    files: Annotated[
        list[str], typer.Argument(help="Texts: files, folders or globs; they need no annotation.")
    ],
    chosen: DistillOptions,
    wanted: options.SchemaOptions,
    reading: InputOptions,
    how: ExtractOptions,
    runs: options.BackendOptions,
    opening: Options,
) -> None:
    """Train a small model on the answers of a large one, and measure how close it comes.

    The teacher answers, certain answers become training data, the student is trained, compared
    with the teacher on held-out texts, and exported. An interrupted run continues with the first
    step that is not done.
    """
    from iepile_cli.cli.extract_sources import Texts
    from iepile_cli.cli.train import TrainingProgress
    from iepile_cli.distillation.answers import Question
    from iepile_cli.distillation.comparison import write_report
    from iepile_cli.distillation.steps import Distillation
    from iepile_cli.distillation.steps import Texts as TextsOf
    from iepile_cli.files import STDIN

    if STDIN in files:
        raise UsageError("texts are read twice: standard input cannot be", hint="name files")
    source = Texts(files, wanted, reading)
    with console.Progress() as progress:
        bar = progress.bar("texts")
        run = Distillation(
            chosen,
            Question(source.task, source.schema, how),
            wanted.schema,
            TextsOf(tuple(files), source.documents),
            runs.backend,
            runs.template,
            replace(opening, verbose=console.verbosity.verbose, on_note=progress.note),
            note=progress.note,
            on_error=console.Failures().add,
            progress=lambda name, done: bar.update(f"{name}: {done:,} texts"),
            reporter=TrainingProgress(progress, bar),
        )
        facts = run.run()
    folder = Path(chosen.output)
    console.put(write_report(facts, folder))
    console.note(f"written: {folder / 'report.md'}")

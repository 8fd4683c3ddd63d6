"""``iepile serve``."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import typer

from iepile_cli.backends.serving import Serving, command, run_server
from iepile_cli.cli import console, options
from iepile_cli.errors import ModelError
from iepile_cli.fields import option

EXAMPLES = """
Examples:

\b
  iepile serve --model oneke --gpus 2
  iepile serve --model llama2-13b-chat --adapter llama2-13b-iepile-lora --run
  iepile serve --server llama-cpp-python --run
  iepile serve --model model.gguf --server ollama
"""


@dataclass(frozen=True)
class RunOptions:
    """Whether the command is run."""

    run: bool = option(False, help="Run the command, not only show it.")


@options.command(first=("model", "adapter", "server", "run"))
def serve(chosen: options.ModelOptions, serving: Serving, how: RunOptions) -> None:
    """Show, or run, the command that serves a model to many requests at once.

    The command goes to standard output; how to extract with the server is said on stderr.
    """
    made = command(chosen.model, chosen.adapter, serving, on_note=console.note)
    if how.run and (missing := made.missing()):
        raise ModelError(
            f"{missing} is not installed here",
            hint="without --run the command is shown, to be run where it is",
        )
    if made.remark:
        console.note(made.remark)
    console.note(f"then: {made.extract()}")
    if not how.run:
        typer.echo(made.script(), nl=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, content in made.files.items():
            Path(folder, name).write_text(content, encoding="utf-8")
        raise typer.Exit(run_server(made.argv, Path(folder) if made.files else None))

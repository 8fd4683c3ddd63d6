"""``iepile serve``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from iepile_cli.cli import console, options
from iepile_cli.errors import ModelError

EXAMPLES = """
Examples:

\b
  iepile serve --model oneke --gpus 2
  iepile serve --model llama2-13b-chat --adapter llama2-13b-iepile-lora --run
  iepile serve --server llama-cpp-python --run
  iepile serve --model model.gguf --server ollama
"""


def serve(
    model: options.Model = None,
    adapter: options.Adapter = None,
    server: Annotated[
        Literal["vllm", "llama-server", "llama-cpp-python", "ollama"] | None,
        typer.Option(help="Default: llama-server for a GGUF file, else vllm."),
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Run the command, not only show it.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    context: Annotated[
        int,
        typer.Option(
            min=0,
            help="Longest sequence in tokens. 0: vllm: the model's own; llama.cpp's: 2048; "
            "ollama: 4096.",
        ),
    ] = 0,
    parallel: Annotated[int, typer.Option(min=1, help="llama-server: answers at once.")] = 8,
    gpus: Annotated[int, typer.Option(min=1, help="vllm: tensor parallel size (GPUs).")] = 1,
    nodes: Annotated[
        int, typer.Option(min=1, help="vllm: pipeline parallel size (machines of a Ray cluster).")
    ] = 1,
) -> None:
    """Show, or run, the command that serves a model to many requests at once.

    The command goes to standard output; how to extract with the server is said on stderr.
    """
    from iepile_cli.backends import serving

    how = serving.Serving(host, port, context, gpus, nodes, parallel)
    made = serving.command(model, adapter or (), server=server, serving=how, on_note=console.note)
    if run and (missing := made.missing()):
        raise ModelError(
            f"{missing} is not installed here",
            hint="without --run the command is shown, to be run where it is",
        )
    if made.remark:
        console.note(made.remark)
    console.note(f"then: {made.extract()}")
    if not run:
        typer.echo(made.script(), nl=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, content in made.files.items():
            Path(folder, name).write_text(content, encoding="utf-8")
        raise typer.Exit(serving.run(made.argv, Path(folder) if made.files else None))

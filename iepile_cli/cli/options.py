"""Option types that several subcommands share."""

from __future__ import annotations

from typing import Annotated

import typer

from iepile_cli.cli import complete

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="IEPILE_MODEL",
        autocompletion=complete.complete_model,
        help="A name from `iepile list models`, a path or a hub id. Default: the embedded model.",
    ),
]
Adapter = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        "-a",
        autocompletion=complete.complete_adapter,
        help="An adapter to lay over the model; may be repeated.",
    ),
]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        "-b",
        envvar="IEPILE_BACKEND",
        autocompletion=complete.complete_backend,
        help="What runs the model: see `iepile list backends`. Default: what fits the model.",
    ),
]
TemplateName = Annotated[
    str | None,
    typer.Option(
        "--template",
        envvar="IEPILE_TEMPLATE",
        autocompletion=complete.complete_template,
        help="The chat template: see `iepile list templates`. Default: what fits the model.",
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        "-t",
        autocompletion=complete.complete_task,
        help="NER, RE, SPO, EE, EET, EEA or KG. Default: by the schema's form.",
    ),
]
Schemas = Annotated[
    list[str] | None,
    typer.Option(
        "--schema",
        "-s",
        help="What to extract: an expression, or a JSON or YAML file; may be repeated.",
    ),
]
SplitNum = Annotated[
    int | None,
    typer.Option(help="How many types to ask for at once; -1: all. Default: the task's own."),
]
Context = Annotated[
    int, typer.Option(min=0, help="Tokens of context, all parallel answers together; 0: enough.")
]
Parallel = Annotated[int, typer.Option(min=0, help="Answers computed at once; 0: as fits.")]
Threads = Annotated[int, typer.Option(min=0, help="Processor threads; 0: one for each core.")]

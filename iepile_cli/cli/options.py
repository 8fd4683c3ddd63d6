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
Device = Annotated[
    str, typer.Option(help="transformers: cuda, cuda:1, mps or cpu. Default: the best there is.")
]
Bits = Annotated[
    int,
    typer.Option(min=0, help="transformers: 4, 8, 16 or 32 bits a weight. 0: 16, on the CPU 32."),
]
MaxMemory = Annotated[
    list[str] | None,
    typer.Option(
        help="transformers: memory of each GPU to use (20GiB), or of one place (0=20GiB, "
        "cpu=64GiB); may be repeated."
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="transformers: run code that comes with a model."),
]
BaseUrl = Annotated[
    str,
    typer.Option(
        envvar="IEPILE_BASE_URL", help="openai: the server, e.g. http://localhost:8000/v1."
    ),
]
ApiKeyEnv = Annotated[
    str, typer.Option(help="openai: the environment variable that holds the API key.")
]
Server = Annotated[
    str,
    typer.Option(
        help="openai: vllm, llama-server, llama-cpp-python, ollama or openai. Default: it is asked."
    ),
]
TokenizerName = Annotated[
    str,
    typer.Option(
        help="openai: a model on this machine whose tokenizer and template make the prompts. "
        "Default: the server's chat endpoint."
    ),
]
Concurrency = Annotated[int, typer.Option(min=0, help="openai: requests at once; 0: 16.")]
Timeout = Annotated[
    float, typer.Option(min=0, help="openai: seconds to wait for an answer to go on; 0: 120.")
]

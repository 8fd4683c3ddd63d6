"""``iepile export``."""

from __future__ import annotations

from typing import Annotated

import typer

from iepile_cli.cli import console, options
from iepile_cli.training.export_options import FORMS, ExportOptions

EXAMPLES = """
Examples:

\b
  iepile export --adapter my-adapter --to gguf-adapter -o my-adapter.gguf
  iepile export --adapter my-adapter --to merged -o my-model
  iepile export --adapter my-adapter --to gguf --quantise q8_0 -o my-model.gguf
  iepile export --adapter my-adapter --to ollama --quantise q4_k_m -o my-ollama
"""


def export(
    to: Annotated[str, typer.Option(metavar="|".join(FORMS), help="What to make.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Where to write it.")],
    model: options.Model = None,
    adapter: options.Adapter = None,
    quantise: Annotated[
        str,
        typer.Option(
            "--quantise",
            "--quantize",
            help="Type of the weights of a GGUF model: f16, q8_0, f32, or one of llama.cpp's, "
            "such as q4_k_m.",
        ),
    ] = ExportOptions.quantise,
    template: options.TemplateName = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is at --output.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
) -> None:
    """Bring a trained model into the form that another program opens."""
    from iepile_cli.training.exporting import export as export_model

    made = export_model(
        ExportOptions(
            model=model or "",
            adapter=tuple(adapter or ()),
            to=to,
            output=output,
            quantise=quantise,
            template=template or "",
            overwrite=overwrite,
            trust_remote_code=trust_remote_code,
        ),
        note=console.note,
    )
    console.note(f"{made} is written")

"""``iepile export``."""

from __future__ import annotations

from iepile_cli.cli import console
from iepile_cli.cli.options import command
from iepile_cli.training.options import ExportOptions

EXAMPLES = """
Examples:

\b
  iepile export --adapter my-adapter --to gguf-adapter -o my-adapter.gguf
  iepile export --adapter my-adapter --to merged -o my-model
  iepile export --adapter my-adapter --to gguf --quantise q8_0 -o my-model.gguf
  iepile export --adapter my-adapter --to ollama --quantise q4_k_m -o my-ollama
"""


@command()
def export(options: ExportOptions) -> None:
    """Convert a trained model to a format that other programs open."""
    from iepile_cli.training.export import export as export_model

    made = export_model(options, note=console.note)
    console.note(f"written: {made}")

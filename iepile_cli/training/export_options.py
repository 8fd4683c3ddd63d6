"""What an export can be told: the one place where its defaults are written."""

from __future__ import annotations

from dataclasses import dataclass

FORMS = ("merged", "gguf-adapter", "gguf", "ollama")


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, to which form and where; ``quantise`` is a type of llama.cpp's."""

    model: str = ""
    adapter: tuple[str, ...] = ()
    to: str = "gguf-adapter"
    output: str = ""
    quantise: str = "f16"
    template: str = ""
    overwrite: bool = False
    trust_remote_code: bool = False

"""What comes with the package, registered by the door that plugins use."""

from __future__ import annotations

from iepile_cli import models
from iepile_cli.registry import Registry


def register(registry: Registry) -> None:
    """Register the built-in templates, backends and models."""
    from iepile_cli.templates import AUTO
    from iepile_cli.templates.rows import TEMPLATES

    for template in (AUTO, *TEMPLATES):
        registry.add("template", template.name, template, summary=template.summary)
    registry.add(
        "backend",
        "llama-cpp",
        "iepile_cli.backends.llamacpp:LLAMA_CPP",
        summary="GGUF models through llama.cpp",
    )
    models.register(registry)

"""What comes with the package, registered by the door that plugins use."""

from __future__ import annotations

from iepile_cli import models
from iepile_cli.registry import Registry


def register_templates(registry: Registry) -> None:
    """Register the built-in templates."""
    from iepile_cli.templates import AUTO
    from iepile_cli.templates.builtin import TEMPLATES

    for template in (AUTO, *TEMPLATES):
        registry.add("template", template.name, template, summary=template.summary)


def register(registry: Registry, *, templates: bool = True) -> None:
    """Register the built-in backends and models, and the templates, which take the longest."""
    if templates:
        register_templates(registry)
    registry.add(
        "backend",
        "llama-cpp",
        "iepile_cli.backends.llamacpp:LLAMA_CPP",
        summary="GGUF models through llama.cpp",
    )
    registry.add(
        "backend",
        "transformers",
        "iepile_cli.backends.transformers:TRANSFORMERS",
        summary="models through transformers, on CUDA, MPS or the CPU",
    )
    registry.add(
        "backend",
        "openai",
        "iepile_cli.backends.openai:OPENAI",
        summary="a server that speaks OpenAI's protocol: vLLM, llama-server, Ollama",
    )
    models.register(registry)

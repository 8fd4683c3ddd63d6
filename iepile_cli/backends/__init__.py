"""What runs a model: llama.cpp, transformers or a server, and the protocol that all keep."""

from __future__ import annotations

from iepile_cli.backends.protocol import (
    Answer,
    Backend,
    ConstrainingTokenizer,
    Options,
    Probe,
    Request,
    Runner,
    ServerModel,
)

__all__ = [
    "Answer",
    "Backend",
    "ConstrainingTokenizer",
    "Options",
    "Probe",
    "Request",
    "Runner",
    "ServerModel",
]

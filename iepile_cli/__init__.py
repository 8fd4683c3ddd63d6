"""Schema-based information extraction with language models."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public names, loaded on first use so that importing the package stays cheap.
_PUBLIC: dict[str, str] = {
    "IEPileError": "iepile_cli.errors",
    "Registry": "iepile_cli.registry",
    "registry": "iepile_cli.registry",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

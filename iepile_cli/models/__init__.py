"""Models, adapters and corpora by name: the catalogue, what is installed, and how a name is found.

Standard library only, and cheap: nothing is opened before a name is looked up.
"""

from __future__ import annotations

from iepile_cli.models.catalogue import ModelEntry, Split
from iepile_cli.models.local import Manifest, installed
from iepile_cli.models.resolve import (
    DEFAULT_MODEL,
    NO_ADAPTER,
    NotInstalled,
    Resolved,
    catalogue_entry,
    resolve_data,
    resolve_model,
)

__all__ = [
    "DEFAULT_MODEL",
    "NO_ADAPTER",
    "Manifest",
    "ModelEntry",
    "NotInstalled",
    "Resolved",
    "Split",
    "catalogue_entry",
    "installed",
    "resolve_data",
    "resolve_model",
]

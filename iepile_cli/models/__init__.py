"""Models, adapters and corpora by name: the catalogue, what is installed, and how a name is found.

Standard library only, and cheap: nothing is opened before a name is looked up.
"""

from __future__ import annotations

from iepile_cli.models.catalogue import register
from iepile_cli.models.entry import ModelEntry, Split, readable_size
from iepile_cli.models.places import Manifest, installed, models_folder
from iepile_cli.models.resolving import (
    BARE,
    DEFAULT_MODEL,
    NotInstalled,
    Resolved,
    catalogue_entry,
    resolve,
)

__all__ = [
    "BARE",
    "DEFAULT_MODEL",
    "Manifest",
    "ModelEntry",
    "NotInstalled",
    "Resolved",
    "Split",
    "catalogue_entry",
    "installed",
    "models_folder",
    "readable_size",
    "register",
    "resolve",
]

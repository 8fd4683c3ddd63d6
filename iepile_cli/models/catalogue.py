"""The catalogue: the built-in rows, and the user's own from ``models.toml``.

The user's file lies beside ``config.toml`` and has the same form as ``catalogue.toml``; a name in
it takes the place of a built-in one. Third parties add entries with
``registry.add("model", name, ModelEntry(...))``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import DataError, UsageError
from iepile_cli.models.entry import ModelEntry, entry_from_table

if TYPE_CHECKING:
    from iepile_cli.registry import Registry

BUILT_IN = Path(__file__).with_name("catalogue.toml")


def user_catalogue() -> Path:
    """Where the user's own entries are looked for: ``models.toml`` beside the configuration."""
    config = os.environ.get("IEPILE_CONFIG")
    if config:
        return Path(config).with_name("models.toml")
    import typer

    return Path(typer.get_app_dir("iepile")) / "models.toml"


def read_catalogue(path: Path) -> dict[str, ModelEntry]:
    """Read the entries of a catalogue file.

    Raises ``DataError`` that names the file when it is not TOML or a field is wrong.
    """
    from iepile_cli.config import read_toml

    try:
        return {name: _entry(name, table) for name, table in read_toml(path).items()}
    except UsageError as error:
        raise DataError(error.message, path=path, hint=error.hint) from None


def _entry(name: str, table: Any) -> ModelEntry:
    if not isinstance(table, dict):
        raise UsageError(f"{name!r} is not a table")
    return entry_from_table(name, table)


def register(registry: Registry) -> None:
    """Add the built-in entries and the user's own to a registry.

    Raises ``DataError`` when the user's file cannot be read.
    """
    path = user_catalogue()
    own = read_catalogue(path) if path.is_file() else {}
    for name, entry in (read_catalogue(BUILT_IN) | own).items():
        origin = str(path) if name in own else ""
        registry.add("model", name, entry, summary=entry.summary, origin=origin)

"""Defaults from a configuration file.

``IEPILE_CONFIG``, else ``config.toml`` in the user's configuration folder. Top-level keys are
defaults for every subcommand that has the option; a table named after a subcommand is for that one
alone. Keys are option names without dashes in front, ``-`` or ``_`` alike::

    model = "smollm2"

    [extract]
    format = "json"

Precedence: command line, then ``IEPILE_*`` environment variables, then this file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from iepile_cli.errors import UsageError


def config_path() -> Path:
    """Where the configuration file is looked for."""
    named = os.environ.get("IEPILE_CONFIG")
    if named:
        return Path(named)
    import typer

    return Path(typer.get_app_dir("iepile")) / "config.toml"


def read_config() -> dict[str, Any]:
    """Read the configuration file; empty when there is none.

    Raises ``DataError`` for a file that is not TOML, ``UsageError`` for a named one that is absent.
    """
    path = config_path()
    if not path.is_file():
        if os.environ.get("IEPILE_CONFIG"):
            raise UsageError(f"IEPILE_CONFIG names {path}, which is not there")
        return {}
    from iepile_cli.toml import read_toml

    return read_toml(path)


def defaults_by_command(
    config: dict[str, Any], options: dict[str, set[str]]
) -> dict[str, dict[str, Any]]:
    """Arrange a configuration as defaults for each subcommand.

    ``options`` maps each subcommand to the names of its options. Raises ``UsageError`` for a key
    that no subcommand knows.
    """
    defaults: dict[str, dict[str, Any]] = {command: {} for command in options}
    for key, value in config.items():
        name = key.replace("-", "_")
        if key in options and isinstance(value, dict):
            for inner, setting in value.items():
                option = inner.replace("-", "_")
                if option not in options[key]:
                    raise _unknown(f"{key}.{inner}")
                defaults[key][option] = setting
            continue
        knowing = [command for command, names in options.items() if name in names]
        if not knowing:
            raise _unknown(key)
        for command in knowing:
            defaults[command].setdefault(name, value)
    return defaults


def _unknown(key: str) -> UsageError:
    return UsageError(f"{config_path()}: no option is called {key!r}", hint="see iepile --help")

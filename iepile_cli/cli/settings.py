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
    from iepile_cli.config import read_toml

    return read_toml(path)


def settable(command: Any) -> dict[str, Any]:
    """The options of a Typer command by the names that they have in a configuration."""
    return {
        name[2:].replace("-", "_"): option
        for option in command.params
        if option.param_type_name == "option" and not option.is_eager
        for name in option.opts
        if name.startswith("--")
    }


def defaults_by_command(config: dict[str, Any], group: Any) -> dict[str, dict[str, Any]]:
    """Arrange a configuration as defaults for each subcommand of ``group``, by parameter name.

    The group's own defaults stand under ``""``. Raises ``UsageError`` for a key that no command
    knows, or a table where a value belongs.
    """
    commands = {"": group, **group.commands}
    options = {name: settable(command) for name, command in commands.items()}
    defaults: dict[str, dict[str, Any]] = {name: {} for name in commands}
    # What is said for one command is laid over what is said for all.
    tables = {key: value for key, value in config.items() if key in group.commands}
    for key, value in config.items():
        if key not in tables:
            name = key.replace("-", "_")
            knowing = [command for command in commands if name in options[command]]
            if not knowing:
                raise _unknown(key)
            for command in knowing:
                _set(defaults[command], options[command][name], key, value)
    for command, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{config_path()}: {command} must be a table", hint=f"[{command}]")
        for key, value in table.items():
            name = key.replace("-", "_")
            if name not in options[command]:
                raise _unknown(f"{command}.{key}")
            _set(defaults[command], options[command][name], f"{command}.{key}", value)
    return defaults


def _set(defaults: dict[str, Any], option: Any, key: str, value: Any) -> None:
    if isinstance(value, dict) or (isinstance(value, list) and not option.multiple):
        form = "a table" if isinstance(value, dict) else "a list"
        raise UsageError(f"{config_path()}: {key} is {form}, not a value")
    defaults[option.name] = [value] if option.multiple and not isinstance(value, list) else value


def _unknown(key: str) -> UsageError:
    return UsageError(f"{config_path()}: no option is called {key!r}", hint="see iepile --help")

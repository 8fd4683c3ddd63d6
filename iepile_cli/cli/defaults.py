"""Defaults of options from the configuration file, for each subcommand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from iepile_cli.config import as_bool, config_file
from iepile_cli.errors import UsageError


def defaults_by_command(config: Mapping[str, Any], group: Any) -> dict[str, dict[str, Any]]:
    """Arrange a configuration as defaults for each subcommand of ``group``, by parameter name.

    The group's own defaults stand under ``""``. A subcommand's own table comes before what is for
    all. Raises ``UsageError`` for a key that no command has, or a table where a value belongs.
    """
    commands = {"": group, **group.commands}
    settable = {name: dict(_settable(command)) for name, command in commands.items()}
    defaults: dict[str, dict[str, Any]] = {name: {} for name in commands}
    tables = {key: value for key, value in config.items() if key in group.commands}
    for key, value in config.items():
        if key not in tables:
            name = key.replace("-", "_")
            having = [command for command in commands if name in settable[command]]
            if not having:
                raise _unknown(key)
            # A list is for the commands whose option may be repeated, if there are any.
            many = [command for command in having if settable[command][name].multiple]
            for command in many if isinstance(value, list) and many else having:
                _set(defaults[command], settable[command][name], key, value)
    for command, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{config_file()}: {command} must be a table", hint=f"[{command}]")
        for key, value in table.items():
            name = key.replace("-", "_")
            if name not in settable[command]:
                raise _unknown(f"{command}.{key}")
            _set(defaults[command], settable[command][name], f"{command}.{key}", value)
    return defaults


def _settable(command: Any) -> Iterator[tuple[str, Any]]:
    """The options of a subcommand by the names that they have in a configuration."""
    for option in command.params:
        if option.param_type_name == "option" and not option.is_eager:
            for name in option.opts:
                if name.startswith("--"):
                    yield name[2:].replace("-", "_"), option


def _set(defaults: dict[str, Any], option: Any, key: str, value: Any) -> None:
    if isinstance(value, dict) or (isinstance(value, list) and not option.multiple):
        form = "a table" if isinstance(value, dict) else "a list"
        raise UsageError(f"{config_file()}: {key} is {form}, not a value")
    if option.is_flag:
        value = as_bool(value, key)
    defaults[option.name] = [value] if option.multiple and not isinstance(value, list) else value


def _unknown(key: str) -> UsageError:
    return UsageError(f"{config_file()}: no option is called {key!r}", hint="see iepile --help")

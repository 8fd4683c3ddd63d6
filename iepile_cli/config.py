"""Where the user's configuration, data and cache are, and the configuration file itself.

``IEPILE_CONFIG``, else ``config.toml`` in the user's configuration folder. Top-level keys are
defaults for every subcommand that has the option; a table named after a subcommand is for that one
alone::

    model = "smollm2"

    [extract]
    format = "json"

Precedence: command line, then ``IEPILE_*`` environment variables, then this file. How keys become
an option's default is decided in ``cli/options.py``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from iepile_cli.errors import DataError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def expand(path: str | os.PathLike[str]) -> Path:
    """A path as a user wrote it, ``~`` expanded; one whose user is unknown stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _home() -> Path:
    return expand("~")


def config_file() -> Path:
    """The configuration file: ``IEPILE_CONFIG``, else ``config.toml`` in the user's folder."""
    named = os.environ.get("IEPILE_CONFIG")
    if named:
        return expand(named)
    if sys.platform == "win32":
        folder = Path(os.environ.get("APPDATA") or _home()) / "iepile"
    elif sys.platform == "darwin":
        folder = _home() / "Library" / "Application Support" / "iepile"
    else:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or _home() / ".config") / "iepile"
    return folder / "config.toml"


def user_catalogue_file() -> Path:
    """The user's own models: ``models.toml`` beside the configuration file."""
    return config_file().with_name("models.toml")


def models_folder() -> Path:
    """The folder of downloads: ``IEPILE_MODELS``, else ``models`` in the user's data folder."""
    named = os.environ.get("IEPILE_MODELS")
    if named:
        return expand(named)
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = _home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or _home() / ".local" / "share")
    return data / "iepile" / "models"


def cache_folder() -> Path:
    """The folder of what can be made again: ``IEPILE_CACHE``, else the user's cache folder."""
    named = os.environ.get("IEPILE_CACHE")
    if named:
        return expand(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache", "iepile")


def hub_cache_folder() -> Path:
    """The Hugging Face cache of models, by its documented variables."""
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or _home() / ".cache", "huggingface"
    )
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return expand(named or Path(home, "hub"))


def as_bool(value: Any, name: str) -> bool:
    """The truth value of a setting; raises ``UsageError`` naming it for anything else.

    A string is read as Typer reads an environment variable: ``"false"`` is false.
    """
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise UsageError(f"{config_file()}: {name} is {value!r}", hint="write true or false")


def read_config() -> dict[str, Any]:
    """Read the configuration file; empty when there is none.

    Raises ``DataError`` for a file that is not TOML, ``UsageError`` for a named one that is absent.
    """
    path = config_file()
    if not path.is_file():
        if os.environ.get("IEPILE_CONFIG"):
            raise UsageError(f"IEPILE_CONFIG names {path}, which is not there")
        return {}
    return read_toml(path)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises ``DataError`` for one that cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not TOML: {error}", path=path) from None

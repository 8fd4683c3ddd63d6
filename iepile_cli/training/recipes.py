"""Recipes: the published pairs of model and settings, as configuration files in the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from iepile_cli.errors import UnknownName
from iepile_cli.training.options import read_table

_FOLDER = Path(__file__).with_name("recipes")


class Recipe(NamedTuple):
    """A recipe's name, what it is for (its file's first comment) and its fields."""

    name: str
    summary: str
    table: dict[str, Any]


def recipes() -> list[Recipe]:
    """All recipes that come with the package, sorted by name."""
    return [_read(path) for path in sorted(_FOLDER.glob("*.toml"))]


def recipe(name: str) -> Recipe:
    """The recipe of that name; raises ``UnknownName``."""
    known = {path.stem: path for path in _FOLDER.glob("*.toml")}
    if name not in known:
        raise UnknownName(
            f"no recipe is called {name!r}", hint=f"recipes: {', '.join(sorted(known))}"
        )
    return _read(known[name])


def _read(path: Path) -> Recipe:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return Recipe(path.stem, first.removeprefix("#").strip(), read_table(path))

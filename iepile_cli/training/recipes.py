"""Recipes: the published pairs of model and settings, as configuration files in the package.

Plugins add theirs with ``registry.add("recipe", name, Recipe(name, path))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.training.options import read_table

if TYPE_CHECKING:
    from iepile_cli.registry import Registry

_FOLDER = Path(__file__).with_name("recipes")


@dataclass(frozen=True)
class Recipe:
    """A recipe's name, and the TOML file of its training options."""

    name: str
    path: Path

    @property
    def summary(self) -> str:
        """What it is for: its file's first comment."""
        first = self.path.read_text(encoding="utf-8").partition("\n")[0]
        return first.removeprefix("#").strip()

    @property
    def table(self) -> dict[str, Any]:
        """Its training options; raises ``DataError``."""
        return read_table(self.path)


def register(registry: Registry) -> None:
    """Register the built-in recipes."""
    for path in sorted(_FOLDER.glob("*.toml")):
        recipe = Recipe(path.stem, path)
        registry.add("recipe", recipe.name, recipe, summary=recipe.summary)

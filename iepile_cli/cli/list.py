"""``iepile list``."""

from __future__ import annotations

import dataclasses
import json
import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from iepile_cli.cli import console
from iepile_cli.errors import UsageError

if TYPE_CHECKING:
    from iepile_cli.listing import Listed

EXAMPLES = """
When piped, each line holds name, origin, yes or no, reason and summary, with tabs between them;
of a backend also what it finds on this machine.

Examples:

\b
  iepile list models
  iepile list models --installed
  iepile list templates | cut -f1
  iepile list backends --json
  iepile list recipes
"""
# Below this width a table leaves no room for words.
_NARROW = 80


class Kind(str, Enum):
    """What can be listed."""

    templates = "templates"
    backends = "backends"
    models = "models"
    recipes = "recipes"


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON list.")] = False,
    installed: Annotated[
        bool, typer.Option("--installed", help="Only models and data that are on this machine.")
    ] = False,
) -> None:
    """Show templates, backends, models or training recipes, and whether they can run here."""
    from iepile_cli.listing import listed, listed_installed
    from iepile_cli.registry import registry

    if installed and kind is not Kind.models:
        raise UsageError("--installed is for models", hint="iepile list models --installed")
    if installed:
        rows = listed_installed(registry())
    else:
        rows = listed(kind.value.removesuffix("s"), registry())
    if as_json:
        records = [dataclasses.asdict(row) for row in rows]
        typer.echo(json.dumps(records, ensure_ascii=False, indent=2))
    elif sys.stdout.isatty():
        _show(rows, with_facts=kind is Kind.backends)
    else:
        for row in rows:
            fields = [row.name, row.origin, _yes(row), row.reason, row.summary]
            fields += ["; ".join(_facts(row))] if kind is Kind.backends else []
            typer.echo("\t".join(" ".join(field.split()) for field in fields))
    for failure in registry().failures:
        console.print_error(str(failure))


def _facts(row: Listed) -> list[str]:
    return [f"{name}: {fact}" for name, fact in row.details.items()]


def _yes(row: Listed) -> str:
    return "yes" if row.ready else "no"


def _show(rows: list[Listed], *, with_facts: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    screen = Console(highlight=False)
    if screen.width < _NARROW:
        for row in rows:
            screen.print(Text(row.name, "bold"), Text(f"({_yes(row)}, {row.origin})"))
            facts = _facts(row) if with_facts else []
            for line in filter(None, (row.summary, row.reason, *facts)):
                screen.print(Padding(Text(line, overflow="fold"), (0, 0, 0, 2)))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", overflow="fold")
    table.add_column("runs here", no_wrap=True)
    table.add_column("from", overflow="fold")
    table.add_column("about", overflow="fold")
    for row in rows:
        ready = Text(_yes(row), "green" if row.ready else "red")
        about = [Text(row.summary), Text(row.reason, "yellow")]
        about += [Text(fact, "dim") for fact in _facts(row)] if with_facts else []
        table.add_row(
            Text(row.name, "bold"),
            ready,
            row.origin,
            Text("\n").join(line for line in about if line),
        )
    screen.print(table)

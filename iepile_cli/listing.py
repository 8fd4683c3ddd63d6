"""What the registry holds, from where it is, and whether it can run on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.formatting import readable_size
from iepile_cli.models import Manifest, ModelEntry, installed
from iepile_cli.models.local import local_path, weights_format
from iepile_cli.registry import Entry, Registry
from iepile_cli.templates import AUTO

if TYPE_CHECKING:
    from iepile_cli.training.recipes import Recipe


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

    What a third party registered and what cannot be loaded or asked is listed as not ready.
    """
    return [_listed(entry, known) for entry in known.entries(kind)]


def listed_installed(known: Registry) -> list[Listed]:
    """The models and corpora on this machine: of the catalogue, and downloads by hub id."""
    rows = [row for row in listed("model", known) if "path" in row.details]
    names = {row.name for row in rows}
    return rows + [_stored(item, known) for item in installed() if item.name not in names]


def _stored(item: Manifest, known: Registry) -> Listed:
    ready, reason = True, ""
    if item.kind in {"gguf", "base"}:
        ready, reason = _runnable(item.folder, known)
    details = {"kind": item.kind, "size": readable_size(item.size), "path": str(item.folder)}
    return Listed(item.name, item.source, ready, reason, f"a {item.kind} download", details)


def _listed(entry: Entry, known: Registry) -> Listed:
    describe = _DESCRIBE[entry.kind]
    try:
        ready, reason, details = describe(known.load(entry), known)
    # Behind an entry may be foreign code, or a library that is broken here.
    except Exception as error:
        ready, reason, details = False, f"{type(error).__name__}: {error}", {}
    return Listed(entry.name, entry.origin, ready, reason, entry.summary, details)


_Facts = tuple[bool, str, dict[str, str]]


def _template(template: Any, known: Registry) -> _Facts:
    # The model's own template is another with every model.
    return True, "", {} if template is AUTO else {"hash": template.hash()}


def _backend(backend: Any, known: Registry) -> _Facts:
    probe = backend.probe()
    facts = dict(probe.details)
    if probe.ok and hasattr(backend, "describe"):
        facts |= backend.describe()
    return probe.ok, probe.reason, facts


def _model(entry: ModelEntry, known: Registry) -> _Facts:
    path = local_path(entry)
    facts = {
        "kind": entry.kind,
        "size": "" if entry.size is None else readable_size(entry.size),
        "base": entry.base,
        "template": entry.template,
        "licence": entry.licence,
        "languages": " ".join(entry.languages),
        "path": str(path or ""),
    }
    details = {key: value for key, value in facts.items() if value}
    if path is None and entry.embedded:
        return False, f"{entry.file} is missing: install its package", details
    if path is None:
        return False, f"not here: iepile download {entry.name}", details
    if entry.kind in {"gguf", "base"}:
        return (*_runnable(path, known), details)
    return True, "", details


def _runnable(path: Path, known: Registry) -> tuple[bool, str]:
    """Whether there is a backend here that runs what lies at a path."""
    from iepile_cli.backends.opening import BY_FORMAT

    needed = BY_FORMAT.get(weights_format(path), "")
    if needed not in known.names("backend"):
        return False, f"{path} holds nothing that a backend runs"
    probe = known.get("backend", needed).probe()
    return probe.ok, "" if probe.ok else f"the backend {needed} cannot run: {probe.reason}"


def _recipe(recipe: Recipe, known: Registry) -> _Facts:
    return True, "", {key: str(value) for key, value in recipe.table.items()}


_DESCRIBE: dict[str, Callable[[Any, Registry], _Facts]] = {
    "template": _template,
    "backend": _backend,
    "model": _model,
    "recipe": _recipe,
}

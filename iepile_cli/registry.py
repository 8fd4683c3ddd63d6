"""The one registry: templates, backends and models by name, shared by every subcommand.

Built-ins and third parties enter by the same door, a function ``register(registry)`` that calls
``registry.add``. Third parties name theirs in the entry-point group ``iepile.plugins``; they are
imported only when a name is not built in or when everything is listed. A plugin that fails is
kept in ``failures`` with its name and reason, and the rest goes on. ``IEPILE_PLUGINS=off`` in the
environment switches third parties off.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from importlib import metadata

GROUP = "iepile.plugins"
BUILT_IN = "built-in"


@dataclass(frozen=True)
class Entry:
    """One registered name: its kind, the object or ``"module:attribute"`` behind it, its origin."""

    kind: str
    name: str
    target: Any
    origin: str
    summary: str = ""

    def load(self) -> Any:
        """Give the object itself, importing it when it is named as ``"module:attribute"``."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that could not be used: its entry-point name, its distribution and the reason."""

    name: str
    distribution: str
    reason: str


class Registry:
    """Names of three kinds (``template``, ``backend``, ``model``), each with what stands behind it.

    ``kinds`` maps a kind to a check that raises ``TypeError`` for an object of the wrong type; a
    lazily named object is checked when it is first loaded.
    """

    def __init__(self, kinds: dict[str, Callable[[Any], None]] | None = None) -> None:
        self.kinds = kinds if kinds is not None else dict(KINDS)
        self.failures: list[PluginFailure] = []
        self._entries: dict[tuple[str, str], Entry] = {}
        self._origin = BUILT_IN
        self._plugins_loaded = False

    def add(
        self, kind: str, name: str, target: Any, *, summary: str = "", origin: str = ""
    ) -> None:
        """Register ``target`` (an object, or ``"module:attribute"``) under ``name``.

        ``origin`` is from where it is, when that is not the package or plugin that registers.
        Raises ``UsageError`` for an unknown kind or a name that is taken: a plugin cannot
        silently replace what is there.
        """
        if kind not in self.kinds:
            raise UsageError(
                f"a plugin registers {name!r} as {kind!r}", hint=f"kinds: {', '.join(self.kinds)}"
            )
        taken = self._entries.get((kind, name))
        if taken is not None:
            raise UsageError(f"{kind} {name!r} is already registered by {taken.origin}")
        if not isinstance(target, str):
            self.kinds[kind](target)
        self._entries[kind, name] = Entry(kind, name, target, origin or self._origin, summary)

    def get(self, kind: str, name: str) -> Any:
        """Give the object registered under ``name``.

        Raises ``UnknownName`` with close matches, after third-party plugins have been asked too.
        """
        return self.check(self.entry(kind, name))

    def check(self, entry: Entry) -> Any:
        """Load an entry's object and check its type (``TypeError`` if it is of another kind)."""
        target = entry.load()
        if isinstance(entry.target, str):
            self.kinds[entry.kind](target)
        return target

    def entry(self, kind: str, name: str) -> Entry:
        """Give the entry registered under ``name``; raises ``UnknownName``."""
        if (kind, name) not in self._entries:
            self.load_plugins()
        try:
            return self._entries[kind, name]
        except KeyError:
            raise UnknownName(
                f"no {kind} is called {name!r}", hint=self._suggestion(kind, name)
            ) from None

    def names(self, kind: str, *, plugins: bool = True) -> list[str]:
        """All names of a kind, sorted; with ``plugins=False`` only those already registered."""
        if plugins:
            self.load_plugins()
        return sorted(name for k, name in self._entries if k == kind)

    def entries(self, kind: str) -> Iterator[Entry]:
        """All entries of a kind, third parties' included, sorted by name."""
        for name in self.names(kind):
            yield self._entries[kind, name]

    def load_plugins(self) -> None:
        """Ask every third-party plugin to register; once, and never raising for a broken one."""
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        if os.environ.get("IEPILE_PLUGINS", "").lower() in {"off", "0", "no"}:
            return
        if not _any_plugin():
            return
        from importlib import metadata

        for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: p.name):
            self._load_plugin(point)

    def _load_plugin(self, point: metadata.EntryPoint) -> None:
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        before = dict(self._entries)
        self._origin = distribution
        try:
            point.load()(self)
        # A plugin is foreign code: whatever it raises must not stop the tool, nor may it end it.
        except (Exception, SystemExit) as error:
            self._entries = before
            reason = f"{type(error).__name__}: {error}"
            self.failures.append(PluginFailure(point.name, distribution, reason))
        finally:
            self._origin = BUILT_IN

    def _suggestion(self, kind: str, name: str) -> str:
        import difflib

        names = self.names(kind)
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if close:
            return f"did you mean {' or '.join(close)}?"
        return f"known: {', '.join(names)}" if names else f"no {kind} is registered"


def _any_plugin() -> bool:
    """Whether an installed distribution names the group: far quicker than reading them all.

    What is on the path and not a folder (a zip archive) is not looked into and counts as one.
    """
    wanted = GROUP.encode()
    for place in filter(os.path.exists, sys.path):
        if not os.path.isdir(place):
            return True
        for entry in os.scandir(place):
            if not entry.name.endswith((".dist-info", ".egg-info")):
                continue
            try:
                with open(os.path.join(entry.path, "entry_points.txt"), "rb") as named:
                    if wanted in named.read():
                        return True
            except OSError:
                continue
    return False


def _is_template(target: Any) -> None:
    from iepile_cli.templates import Template

    if not isinstance(target, Template):
        raise TypeError(f"a template must be a Template, not {type(target).__name__}")


def _is_backend(target: Any) -> None:
    for method in ("probe", "describe", "open"):
        if not callable(getattr(target, method, None)):
            raise TypeError(f"a backend must have a method {method}()")
    for attribute, kind in (("takes", frozenset), ("remote", bool)):
        if not isinstance(getattr(target, attribute, None), kind):
            raise TypeError(
                f"a backend must have {attribute!r}, a {kind.__name__}: "
                "inherit iepile_cli.backends.Backend"
            )


def _is_model(target: Any) -> None:
    from iepile_cli.models import ModelEntry

    if not isinstance(target, ModelEntry):
        raise TypeError(f"a model must be a ModelEntry, not {type(target).__name__}")


KINDS: dict[str, Callable[[Any], None]] = {
    "template": _is_template,
    "backend": _is_backend,
    "model": _is_model,
}


@functools.cache
def registry() -> Registry:
    """The registry of this process, with the built-ins in it."""
    from iepile_cli import builtins

    shared = Registry()
    builtins.register(shared)
    return shared

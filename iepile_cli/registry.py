"""The one registry: templates, backends, models and training recipes by name.

Built-ins and third parties enter by the same door, a function ``register(registry)`` that calls
``registry.add``. The functions of the package itself are in ``BUILT_INS``; those of third parties
are entry points of the group ``iepile.plugins``, loaded only when a name is not built in or when
everything is listed. A plugin that fails is kept in ``failures`` and stops nothing; whoever names
something that is not found is told of it. ``IEPILE_PLUGINS=off`` in the environment leaves third
parties out.

This module names the others as ``"module:attribute"`` and imports none of them: a kind's class and
its built-ins are loaded when the kind is first used.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import IEPileError, UnknownName, UsageError

if TYPE_CHECKING:
    from importlib import metadata

GROUP = "iepile.plugins"
BUILT_IN = "built-in"

# Each kind, and the class or protocol that its objects must be of.
KINDS = {
    "template": "iepile_cli.templates:Template",
    "backend": "iepile_cli.backends:Backend",
    "model": "iepile_cli.models:ModelEntry",
    "recipe": "iepile_cli.training.recipes:Recipe",
}


def _register_backends(registry: Registry) -> None:
    for name, target, summary in (
        ("llama-cpp", "iepile_cli.backends.llamacpp:LLAMA_CPP", "GGUF models through llama.cpp"),
        (
            "transformers",
            "iepile_cli.backends.transformers:TRANSFORMERS",
            "models through transformers, on CUDA, MPS or the CPU",
        ),
        (
            "openai",
            "iepile_cli.backends.openai:OPENAI",
            "a server that speaks OpenAI's protocol: vLLM, llama-server, Ollama",
        ),
    ):
        registry.add("backend", name, target, summary=summary)


# What registers the built-in names of each kind.
BUILT_INS: dict[str, str | Callable[[Registry], None]] = {
    "template": "iepile_cli.templates.builtin:register",
    "backend": _register_backends,
    "model": "iepile_cli.models.catalogue:register",
    "recipe": "iepile_cli.training.recipes:register",
}


@dataclass(frozen=True)
class Entry:
    """One registered name: its kind, its object or ``"module:attribute"``, and its origin."""

    kind: str
    name: str
    target: Any
    origin: str
    summary: str = ""


@dataclass(frozen=True)
class PluginFailure:
    """What could not be used: a plugin's entry point or one name of it, its distribution, why."""

    name: str
    distribution: str
    reason: str
    what: str = "plugin"

    def __str__(self) -> str:
        return f"the {self.what} {self.name} of {self.distribution} cannot be used: {self.reason}"


class Registry:
    """Names of the four kinds, each with its object; empty unless ``built_ins``.

    A lazily named object (``"module:attribute"``) is checked when it is first loaded.
    """

    def __init__(self, *, built_ins: bool = False) -> None:
        self.failures: list[PluginFailure] = []
        self._entries: dict[tuple[str, str], Entry] = {}
        self._built_ins = dict(BUILT_INS) if built_ins else {}
        self._origin = BUILT_IN
        self._added_by_plugin: list[tuple[str, str]] = []
        self._plugins_loaded = False

    def add(
        self, kind: str, name: str, target: Any, *, summary: str = "", origin: str = ""
    ) -> None:
        """Register ``target`` (an object, or ``"module:attribute"``) under ``name``.

        ``origin`` is where it comes from, if not from the package or plugin that registers it.
        Raises ``UsageError`` for an unknown kind or a name that is taken (a plugin cannot silently
        replace what is there), ``TypeError`` for an object of another kind.
        """
        if kind not in KINDS:
            raise UsageError(
                f"a plugin registers {name!r} as {kind!r}", hint=f"kinds: {', '.join(KINDS)}"
            )
        self._load_built_ins(kind)
        taken = self._entries.get((kind, name))
        if taken is not None:
            raise UsageError(f"{kind} {name!r} is already registered by {taken.origin}")
        if not isinstance(target, str):
            _check_type(kind, target)
        self._entries[kind, name] = Entry(kind, name, target, origin or self._origin, summary)
        if self._origin != BUILT_IN:
            self._added_by_plugin.append((kind, name))

    def get(self, kind: str, name: str) -> Any:
        """Give the object registered under ``name``.

        Raises ``UnknownName`` with close matches after third-party plugins have been loaded too,
        ``IEPileError`` for a third party's object that cannot be loaded or is of another kind.
        """
        return self.load(self.entry(kind, name))

    def load(self, entry: Entry) -> Any:
        """Give an entry's object, imported and checked; raises ``IEPileError`` as ``get`` does."""
        if not isinstance(entry.target, str):
            return entry.target
        try:
            target = _imported(entry.target)
            _check_type(entry.kind, target)
        # A plugin is foreign code: whatever it raises must not end the program.
        except (Exception, SystemExit) as error:
            if entry.origin == BUILT_IN:
                raise
            raise IEPileError(
                f"{entry.kind} {entry.name!r} of {entry.origin} cannot be loaded: {_reason(error)}"
            ) from error
        return target

    def entry(self, kind: str, name: str) -> Entry:
        """Give the entry registered under ``name``; raises ``UnknownName``."""
        self._load_built_ins(kind)
        if (kind, name) not in self._entries:
            self.load_plugins()
        found = self._entries.get((kind, name))
        if found is None:
            raise self.unknown(kind, name)
        return found

    def names(self, kind: str, *, plugins: bool = True) -> list[str]:
        """All names of a kind, sorted; with ``plugins=False`` only those already registered."""
        self._load_built_ins(kind)
        if plugins:
            self.load_plugins()
        return sorted(name for k, name in self._entries if k == kind)

    def entries(self, kind: str) -> Iterator[Entry]:
        """All entries of a kind, third parties' included, sorted by name."""
        for name in self.names(kind):
            yield self._entries[kind, name]

    def objects(self, kind: str) -> Iterator[Any]:
        """All objects of a kind, sorted by name; what cannot be loaded goes to ``failures``."""
        for entry in self.entries(kind):
            try:
                yield self.load(entry)
            except IEPileError as error:
                reason = _reason(error.__cause__ or error)
                failure = PluginFailure(entry.name, entry.origin, reason, what=kind)
                if failure not in self.failures:
                    self.failures.append(failure)

    def unknown(
        self, kind: str, name: str, called: str = "", *, names: Sequence[str] | None = None
    ) -> UnknownName:
        """The error for a name that is not there: close matches, and the plugins that failed.

        ``called`` is the word for the kind in the message. Only ``names`` are offered, by default
        all of the kind.
        """
        import difflib

        names = self.names(kind) if names is None else names
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if close:
            hint = f"did you mean {' or '.join(close)}?"
        else:
            hint = f"known: {', '.join(names)}" if names else f"no {kind} is registered"
        hint = "; ".join(filter(None, (hint, self.failure_hint())))
        return UnknownName(f"no {called or kind} is called {name!r}", hint=hint)

    def failure_hint(self) -> str:
        """The plugins that failed, for the hint of a name that is not found; often empty."""
        return "; ".join(map(str, self.failures))

    def load_plugins(self) -> None:
        """Let every third-party plugin register; once, and never raising for a broken one."""
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
        self._added_by_plugin.clear()
        try:
            with self._registering_as(distribution):
                point.load()(self)
        # A plugin is foreign code: whatever it raises must not end the program.
        except (Exception, SystemExit) as error:
            for key in self._added_by_plugin:
                del self._entries[key]
            self.failures.append(PluginFailure(point.name, distribution, _reason(error)))

    def _load_built_ins(self, kind: str) -> None:
        register = self._built_ins.pop(kind, None)
        if register is None:
            return
        try:
            with self._registering_as(BUILT_IN):
                (_imported(register) if isinstance(register, str) else register)(self)
        except IEPileError:
            # The user's own file is broken: say so again whenever the kind is needed.
            self._built_ins[kind] = register
            raise

    @contextmanager
    def _registering_as(self, origin: str) -> Iterator[None]:
        before, self._origin = self._origin, origin
        try:
            yield
        finally:
            self._origin = before


def _imported(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _check_type(kind: str, target: Any) -> None:
    """Raise ``TypeError`` for an object that is not of a kind's class or lacks its methods."""
    expected = _imported(KINDS[kind])
    if not getattr(expected, "_is_protocol", False):
        if not isinstance(target, expected):
            found = type(target).__name__
            raise TypeError(f"a {kind} must be a {expected.__name__}, not {found}")
        return
    members = {name for name in (*vars(expected), *expected.__annotations__) if name[0] != "_"}
    missing = [
        name
        for name in sorted(members)
        if not hasattr(target, name)
        or (callable(getattr(expected, name, None)) and not callable(getattr(target, name)))
    ]
    if missing:
        raise TypeError(f"a {kind} must have {', '.join(missing)} (see {KINDS[kind]})")


def _any_plugin() -> bool:
    """Whether an installed distribution names the group: far quicker than reading them all.

    What is on the path and not a folder (a zip archive) is not looked into and counts as one; a
    folder that cannot be read holds nothing that could be imported.
    """
    wanted = GROUP.encode()
    for folder in filter(os.path.exists, sys.path):
        if not os.path.isdir(folder):
            return True
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            if not entry.name.endswith((".dist-info", ".egg-info")):
                continue
            try:
                with open(os.path.join(entry.path, "entry_points.txt"), "rb") as named:
                    if wanted in named.read():
                        return True
            except OSError:
                continue
    return False


@functools.cache
def registry() -> Registry:
    """The registry of this process, with the built-ins in it."""
    return Registry(built_ins=True)

"""From the names that a user gives to a model that answers: model, backend and template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from iepile_cli.backends.gguf_merging import has_merged_form
from iepile_cli.backends.protocol import Answer, Backend, Options, Request, Runner, ServerModel
from iepile_cli.errors import IEPileError, ModelError, UsageError
from iepile_cli.models import Resolved, resolve_model
from iepile_cli.models.adapter_settings import read_adapter_settings
from iepile_cli.registry import BUILT_IN, Registry, registry
from iepile_cli.templates import AUTO, Template, Tokenizer, closest_template

if TYPE_CHECKING:
    from iepile_cli.backends.tokenizers import HFTokenizer, LlamaCppTokenizer

# For servers that put questions into a template themselves.
_AS_IT_IS = Template("as it is", question=("{{query}}",))
# What every backend is given.
_ALL_TAKE = frozenset({"adapters", "verbose", "merge", "on_note"})
# What opens a model's files when no backend is named.
BY_FORMAT = {"gguf": "llama-cpp", "safetensors": "transformers"}


@dataclass(frozen=True)
class Opened:
    """A model ready to answer, with the template that fits it; close the runner when done."""

    runner: Runner
    template: Template
    model: Resolved | None
    """None for a model behind a server of which nothing is on this machine."""
    backend: str
    remote: bool = False
    """Whether a server chooses the tokens of answers."""


def open_model(
    name: str | None = None,
    *,
    adapters: Sequence[str] = (),
    backend: str | None = None,
    template: str | None = None,
    language: str | None = None,
    options: Options | None = None,
) -> Opened:
    """Open a model by its catalogue name, path or hub id.

    Without ``backend`` the model's format decides; without ``template`` the catalogue, else the
    model's own, else its name. Of a model's own adapters, that for the ``language`` is taken.
    Raises ``UnknownName``, ``UsageError`` or ``ModelError``.
    """
    known = registry()
    asked = known.get("template", template) if template else None
    if backend:
        known.entry("backend", backend)
    given = options or Options()
    backend = backend or ("openai" if given.base_url else None)
    if backend and known.get("backend", backend).remote:
        return _open_remote(name, adapters, backend, asked, given)
    found = resolve_model(name, adapters, language=language)
    chosen = backend or BY_FORMAT.get(found.format, found.format)
    engine = _usable(chosen, given)
    merge = has_merged_form(found, adapters)
    settings = replace(given, adapters=tuple(map(str, found.adapters)), merge=merge)
    runner = _opened(chosen, engine, found.path, settings)
    try:
        form = (asked or fitting_template(found, runner.tokenizer, known)).bind(runner.tokenizer)
        if not asked:
            check_adapters(found, form)
        return Opened(runner, form, found, chosen)
    except ModelError:
        runner.close()
        raise


def _usable(backend: str, options: Options) -> Backend:
    """A backend that can run here; raises ``UsageError`` for options that it does not know."""
    engine: Backend = registry().get("backend", backend)
    probe = engine.probe()
    if not probe.ok:
        raise ModelError(f"the backend {backend} cannot run here: {probe.reason}")
    for field in fields(options):
        unknown = field.name not in engine.takes | _ALL_TAKE
        if unknown and getattr(options, field.name) != field.default:
            raise UsageError(
                f"--{field.name.replace('_', '-')} is not an option of the backend {backend}",
                hint="see iepile extract --help",
            )
    return engine


def _opened(name: str, engine: Backend, model: Path | ServerModel, options: Options) -> Runner:
    """A backend's runner; what a plugin raises becomes a ``ModelError`` that names it."""
    origin = registry().entry("backend", name).origin
    if origin == BUILT_IN:
        return engine.open(model, options)
    plugin = f"the backend {name} of {origin}"
    with _failures_of(plugin):
        return cast(Runner, _PluginRunner(engine.open(model, options), plugin))


@contextmanager
def _failures_of(plugin: str) -> Iterator[None]:
    try:
        yield
    except IEPileError:
        raise
    except Exception as error:
        raise ModelError(f"{plugin} failed: {type(error).__name__}: {error}") from error


class _PluginRunner:
    """A plugin's runner; what it raises in the middle of a run names the plugin too."""

    def __init__(self, runner: Runner, plugin: str) -> None:
        self._runner, self._plugin = runner, plugin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def generate(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """The answers to the requests; what goes wrong in making these is not the plugin's."""
        ours: list[Exception] = []

        def made() -> Iterator[Request]:
            try:
                yield from requests
            except Exception as error:
                ours.append(error)
                raise

        try:
            with _failures_of(self._plugin):
                yield from self._runner.generate(made())
        except ModelError:
            if ours:
                raise ours[0] from None
            raise


def _open_remote(
    name: str | None,
    adapters: Sequence[str],
    backend: str,
    asked: Template | None,
    options: Options,
) -> Opened:
    """Open a model behind a server: by its name there, with the tokenizer that is named for it.

    Without a tokenizer, and without a template, the server puts questions into its own.
    """
    if adapters:
        raise UsageError(
            "--adapter: a server has the adapters that it was started with",
            hint="name its adapter with --model; see iepile serve",
        )
    known = registry()
    engine = _usable(backend, options)
    found = resolve_model(options.tokenizer) if options.tokenizer else None
    try:
        tokenizer = tokenizer_of(found) if found else None
    except ModelError as error:
        # Unless something better is known to do.
        way = "with --template and without --tokenizer, prompts are sent as text"
        raise ModelError(error.message, hint=error.hint or way) from None
    form = asked
    if found and tokenizer and not form:
        form = fitting_template(found, tokenizer, known)
    model = ServerModel(name or "", tokenizer, form is not None)
    runner = _opened(backend, engine, model, options)
    try:
        bound = (form or _AS_IT_IS).bind(runner.tokenizer)
        return Opened(runner, bound, found, backend, remote=True)
    except ModelError:
        runner.close()
        raise


def tokenizer_of(found: Resolved) -> LlamaCppTokenizer | HFTokenizer:
    """The tokenizer of a model on this machine, without its weights; raises ``ModelError``."""
    from iepile_cli.backends.tokenizers import open_tokenizer

    if found.format != "gguf":
        with suppress(ImportError):
            from iepile_cli.backends.transformers_loading import quiet_libraries

            quiet_libraries()
    return open_tokenizer(found.path)


def check_adapters(found: Resolved, form: Template) -> None:
    """Raise ``ModelError`` when the adapter, or a trained model, records another template.

    Of several adapters the last one counts: it was trained over those before it.
    """
    path = (found.path, *found.adapters)[-1]
    recorded = read_adapter_settings(path)
    if recorded:
        recorded.check_template(form.name, form.hash(), path)


def fitting_template(found: Resolved, tokenizer: Tokenizer, known: Registry) -> Template:
    """The template of a model: as the catalogue says, else its own, else by the model's name.

    The last is for older files that bring no chat template. Raises ``UnknownName`` for a
    catalogue entry whose template nobody registers.
    """
    if found.template:
        template: Template = known.get("template", found.template)
        return template
    if tokenizer.chat_template:
        return AUTO
    rows = [known.get("template", name) for name in known.names("template", plugins=False)]
    named = (closest_template(name, rows) for name in (found.name, found.path.name))
    return next(filter(None, named), AUTO)

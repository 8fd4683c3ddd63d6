"""From the names that a user gives to a model that answers: model, backend and template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from iepile_cli.backends import Options, Runner
from iepile_cli.errors import ModelError
from iepile_cli.models import Resolved, resolve
from iepile_cli.models.adapter_settings import read_adapter_settings
from iepile_cli.registry import Registry, registry
from iepile_cli.templates import AUTO, Template, Tokenizer, closest_template

# What opens a model's files when no backend is named.
BY_FORMAT = {"gguf": "llama-cpp", "safetensors": "transformers"}


@dataclass(frozen=True)
class Opened:
    """A model ready to answer, with the template that fits it; close the runner when done."""

    runner: Runner
    template: Template
    model: Resolved
    backend: str


def open_model(
    name: str | None = None,
    *,
    adapters: Sequence[str] = (),
    backend: str | None = None,
    template: str | None = None,
    options: Options | None = None,
) -> Opened:
    """Open a model by its catalogue name, path or hub id.

    Without ``backend`` the model's format decides; without ``template`` the catalogue, else the
    model's own, else its name. Raises ``UnknownName``, ``UsageError`` or ``ModelError``.
    """
    known = registry()
    asked = known.get("template", template) if template else None
    if backend:
        known.entry("backend", backend)
    found = resolve(name, adapters)
    chosen = backend or BY_FORMAT.get(found.format, found.format)
    engine = known.get("backend", chosen)
    probe = engine.probe()
    if not probe.ok:
        raise ModelError(f"the backend {chosen} cannot run here: {probe.reason}")
    settings = replace(options or Options(), adapters=tuple(map(str, found.adapters)))
    runner = engine.open(found.path, settings)
    try:
        form = (asked or fitting_template(found, runner.tokenizer, known)).bind(runner.tokenizer)
        if not asked:
            check_adapters(found, form)
        return Opened(runner, form, found, chosen)
    except ModelError:
        runner.close()
        raise


def check_adapters(found: Resolved, form: Template) -> None:
    """Raise ``ModelError`` when an adapter, or a trained model, records another template."""
    for path in (found.path, *found.adapters):
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

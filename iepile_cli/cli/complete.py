"""Completers: names that may stand as an option's value, for ``autocompletion=``.

Each gives (name, description) pairs. They load nothing heavy and never fail: a shell that is
completing is no place for an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

Pairs = list[tuple[str, str]]


def complete_task(incomplete: str) -> Pairs:
    """Names of tasks, in the case in which they are being typed."""
    from iepile_cli.task.table import TASKS

    names = [task.name for task in TASKS.values()]
    return [(name.lower() if incomplete.islower() else name, "") for name in names]


def complete_template(incomplete: str) -> Pairs:
    """Names of templates, third parties' included."""
    return list(_registered("template"))


def complete_backend(incomplete: str) -> Pairs:
    """Names of backends, third parties' included."""
    return list(_registered("backend"))


def complete_model(incomplete: str) -> Pairs:
    """Names of models that answer; not adapters, not corpora."""
    return list(_registered("model", lambda kind: kind not in {"adapter", "data"}))


def complete_adapter(incomplete: str) -> Pairs:
    """Names of adapters."""
    return list(_registered("model", lambda kind: kind == "adapter"))


def complete_download(incomplete: str) -> Pairs:
    """Names of all that the catalogue knows: models, adapters and corpora."""
    return list(_registered("model"))


def complete_recipe(incomplete: str) -> Pairs:
    """Names of training recipes."""
    return list(_registered("recipe"))


def _registered(
    kind: str, wanted: Callable[[str], bool] = lambda kind: True
) -> Iterator[tuple[str, str]]:
    from iepile_cli.registry import registry

    try:
        entries = list(registry().entries(kind))
    # The user's own catalogue may be broken, and plugins are foreign code.
    except Exception:
        return
    for entry in entries:
        if wanted(getattr(entry.target, "kind", "")):
            yield entry.name, entry.summary


# What an option's field can name in ``completes``.
BY_KIND: dict[str, Callable[[str], Pairs]] = {
    "task": complete_task,
    "template": complete_template,
    "backend": complete_backend,
    "model": complete_model,
    "adapter": complete_adapter,
    "download": complete_download,
    "recipe": complete_recipe,
}

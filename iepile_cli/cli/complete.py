"""Completers: names that may stand as an option's value, for ``autocompletion=``.

Each gives (name, description) pairs. They load nothing heavy and never fail: a shell that is
completing is no place for an error.
"""

from __future__ import annotations

from collections.abc import Callable

Pairs = list[tuple[str, str]]


def complete_task(incomplete: str) -> Pairs:
    """Names of tasks, in the case in which they are being typed."""
    from iepile_cli.task.table import TASKS

    names = [task.name for task in TASKS.values()]
    return [(name.lower() if incomplete.islower() else name, "") for name in names]


def _registered(
    kind: str, wanted: Callable[[str], bool] = lambda kind: True
) -> Callable[[str], Pairs]:
    def complete(incomplete: str) -> Pairs:
        from iepile_cli.registry import registry

        try:
            entries = list(registry().entries(kind))
        # The user's own catalogue may be broken, and plugins are foreign code.
        except Exception:
            return []
        return [(e.name, e.summary) for e in entries if wanted(getattr(e.target, "kind", ""))]

    return complete


# What an option's field can name in ``completes``; third parties' names are included.
BY_KIND: dict[str, Callable[[str], Pairs]] = {
    "task": complete_task,
    "template": _registered("template"),
    "backend": _registered("backend"),
    # Models that answer; neither adapters nor corpora.
    "model": _registered("model", lambda kind: kind not in {"adapter", "data"}),
    "adapter": _registered("model", lambda kind: kind == "adapter"),
    "download": _registered("model"),
    "recipe": _registered("recipe"),
}

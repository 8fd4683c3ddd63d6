"""Scores that people can trust: predictions against gold, with intervals, errors and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iepile_cli.evaluation.options import EvalOptions

if TYPE_CHECKING:
    from iepile_cli.evaluation.run import Evaluation, evaluate

__all__ = ["EvalOptions", "Evaluation", "evaluate"]


def __getattr__(name: str) -> Any:
    # The options are needed for help, where the rest would take time to load.
    if name in __all__:
        from iepile_cli.evaluation import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

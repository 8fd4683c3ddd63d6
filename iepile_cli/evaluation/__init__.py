"""Predictions scored against gold, with intervals, errors and reports.

``run`` is the whole. In the order of the data:

- a file and its rows: ``predictions`` (counts it in parts), ``decoding`` (of records and answers),
  ``batches`` (which labels an instruction asks for), ``documents`` (rows put together),
  ``regroup`` (rows that do not stand together);
- gold in a file of its own: ``gold_file``, ``gold_index`` (finds the gold of a prediction);
- what is compared: ``facts`` (of answers and labels), ``normalise``, ``matching``, ``counts``;
- what is told: ``scores``, ``resampling``, ``upstream`` (the original script's numbers),
  ``report`` (JSON, tables, files), ``outcomes`` (of each fact), ``error_list``, ``html``.
"""

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

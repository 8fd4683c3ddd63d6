"""Scores that people can trust: predictions against gold, with intervals, errors and reports."""

from iepile_cli.evaluation.options import EvalOptions
from iepile_cli.evaluation.run import Evaluation, evaluate

__all__ = ["EvalOptions", "Evaluation", "evaluate"]

"""Scores that people can trust: predictions against gold, with intervals, errors and reports."""

from iepile_cli.evaluation.evaluate import Evaluation, evaluated
from iepile_cli.evaluation.plan import Plan

__all__ = ["Evaluation", "Plan", "evaluated"]

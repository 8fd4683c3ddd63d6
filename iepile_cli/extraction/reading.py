"""From a model's answer to the things extracted, each mention with a score.

A score is the probability of a mention's tokens, each renormalised over the tokens that the
grammar allowed, its quotes included: how sure the model was to list this mention here.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

from iepile_cli.backends import Answer
from iepile_cli.extraction.located import Located, loads
from iepile_cli.task.instruction import parse_answer
from iepile_cli.task.shape import Roles, SchemaItem
from iepile_cli.task.table import Task

Scores = tuple[float | None, ...]
Found = tuple[SchemaItem, list[tuple[Roles, Scores]]]


def read_answer(
    task: Task, items: Sequence[SchemaItem], answer: Answer, problems: list[str]
) -> list[Found]:
    """Read an answer; what is not of its form is repaired or left out, and told in ``problems``."""
    value = _decode(answer.text, problems)
    score = _Scorer(answer)
    return [
        (item, [(roles, tuple(score(text) for _, text in roles)) for roles in things])
        for item, things in parse_answer(task, items, value, problems)
    ]


def _decode(text: str, problems: list[str]) -> Any:
    try:
        return loads(text)
    except (json.JSONDecodeError, RecursionError):
        problems.append("the answer is not JSON")
    import json_repair

    try:
        return json_repair.loads(text)
    except (ValueError, RecursionError):
        return None


class _Scorer:
    """Scores mentions by the tokens that spell them."""

    def __init__(self, answer: Answer) -> None:
        self._text, self._ends = answer.text, answer.token_ends
        self._logs = [math.log(max(p, 1e-30)) for p in answer.token_probs]
        self._ascii = answer.text.isascii()

    def __call__(self, mention: str) -> float | None:
        if not self._logs or not isinstance(mention, Located):
            return None
        first = bisect_right(self._ends, self._byte(mention.start))
        last = bisect_left(self._ends, self._byte(mention.end))
        return min(1.0, math.exp(sum(self._logs[first : last + 1])))

    def _byte(self, at: int) -> int:
        return at if self._ascii else len(self._text[:at].encode("utf-8", errors="replace"))

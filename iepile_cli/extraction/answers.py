"""From a model's answer to the mentions extracted, each with a score.

A score is the probability of a mention's tokens, each renormalised over the tokens that the
grammar allowed, its quotes included: how sure the model was to list this mention here. So strings
are decoded together with where they stand in the answer.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

from iepile_cli.backends import Answer
from iepile_cli.extraction.grounding import Found
from iepile_cli.task.instruction import parse_answer
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def read_answer(
    task: Task, items: Sequence[SchemaItem], answer: Answer, problems: list[str]
) -> list[Found]:
    """Read an answer; what is not of its form is repaired or left out, and told in ``problems``."""
    value = _decode(answer.text, problems)
    score = _Scorer(answer)
    return [
        (item, [(roles, tuple(score(text) for _, text in roles)) for roles in found])
        for item, found in parse_answer(task, items, value, problems)
    ]


def _decode(text: str, problems: list[str]) -> Any:
    try:
        return located_json(text)
    except (ValueError, RecursionError):
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
        if not self._logs or not isinstance(mention, LocatedString):
            return None
        first = bisect_right(self._ends, self._byte(mention.start))
        last = bisect_left(self._ends, self._byte(mention.end))
        return min(1.0, math.exp(sum(self._logs[first : last + 1])))

    def _byte(self, at: int) -> int:
        return at if self._ascii else len(self._text[:at].encode("utf-8", errors="replace"))


# --------------------------------------------------------------------- JSON with places of strings


class LocatedString(str):
    """A decoded string with the half-open character range of its literal, quotes included."""

    start: int
    end: int
    __slots__ = ("end", "start")

    def __new__(cls, text: str, start: int, end: int) -> LocatedString:
        """A string that stands from ``start`` to ``end``."""
        located = super().__new__(cls, text)
        located.start, located.end = start, end
        return located


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object, in their order."""


def located_json(text: str) -> Any:
    """Decode JSON with ``LocatedString`` for every string, keys too.

    Under a key that comes twice stands what both hold, where both are objects or lists. Raises
    ``json.JSONDecodeError``, ``RecursionError`` for absurd nesting.
    """
    value = json.loads(text, object_pairs_hook=_Pairs)
    return _located(value, (match.span() for match in _STRING.finditer(text)))


def _located(value: Any, places: Iterator[tuple[int, int]]) -> Any:
    """The value with its strings located: literals and strings are in one order."""
    match value:
        case str():
            return LocatedString(value, *next(places))
        case _Pairs():
            found: dict[str, Any] = {}
            for name, inner in value:
                key = LocatedString(name, *next(places))
                part = _located(inner, places)
                found[key] = _joined(found[key], part) if key in found else part
            return found
        case list():
            return [_located(part, places) for part in value]
        case _:
            return value


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, list) and isinstance(second, list):
        return first + second
    if isinstance(first, dict) and isinstance(second, dict):
        both = dict(first)
        for key, value in second.items():
            held = both.get(key)
            if isinstance(held, str) and isinstance(value, str):
                both[key] = [held, value]
            else:
                both[key] = _joined(held, value) if key in both else value
        return both
    return second

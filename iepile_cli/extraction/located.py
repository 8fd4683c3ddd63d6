"""JSON whose strings know where they stand.

An answer's mentions are scored by the probabilities of their tokens, so the reader must know which
bytes of the answer a mention is. Python's own decoder does not tell.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_OTHER = re.compile(r"true|false|null|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


class Located(str):
    """A decoded string with the half-open character range of its literal, quotes included."""

    start: int
    end: int
    __slots__ = ("end", "start")

    def __new__(cls, text: str, start: int, end: int) -> Located:
        """A string that stands from ``start`` to ``end``."""
        located = super().__new__(cls, text)
        located.start, located.end = start, end
        return located


def loads(text: str) -> Any:
    """Decode JSON with ``Located`` for every string, keys too.

    Under a key that comes twice stands what both hold, where both are objects or lists. Raises
    ``json.JSONDecodeError``, ``RecursionError`` for absurd nesting.
    """
    value, end = _value(text, _skip(text, 0))
    if _skip(text, end) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _value(text: str, at: int) -> tuple[Any, int]:
    match text[at : at + 1]:
        case '"':
            return _string(text, at)
        case "[":
            return _array(text, at)
        case "{":
            return _object(text, at)
        case _:
            other = _OTHER.match(text, at)
            if not other:
                raise json.JSONDecodeError("Expecting value", text, at)
            return json.loads(other.group()), other.end()


def _string(text: str, at: int) -> tuple[Located, int]:
    string, end = scanstring(text, at + 1, True)
    return Located(string, at, end), end


def _array(text: str, at: int) -> tuple[list[Any], int]:
    values: list[Any] = []
    at = _skip(text, at + 1)
    if text[at : at + 1] == "]":
        return values, at + 1
    while True:
        value, at = _value(text, at)
        values.append(value)
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            return values, at + 1
        at = _expect(text, at, ",")


def _object(text: str, at: int) -> tuple[dict[str, Any], int]:
    pairs: dict[str, Any] = {}
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return pairs, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting a key", text, at)
        key, at = _string(text, at)
        value, at = _value(text, _expect(text, _skip(text, at), ":"))
        pairs[key] = _joined(pairs[key], value) if key in pairs else value
        at = _skip(text, at)
        if text[at : at + 1] == "}":
            return pairs, at + 1
        at = _expect(text, at, ",")


def _expect(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise json.JSONDecodeError(f"Expecting {mark!r}", text, at)
    return _skip(text, at + 1)


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

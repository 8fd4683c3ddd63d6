"""Texts escaped for the inside of a JSON string, once or twice."""

from __future__ import annotations

import functools

import orjson

_encode = orjson.dumps


def inner(text: str) -> bytes:
    """A text escaped for the inside of a JSON string."""
    return _encode(text)[1:-1]


def nested(text: str) -> bytes:
    """A text as a JSON string inside a JSON string, its own quotation marks escaped."""
    once = _encode(text)
    if b"\\" in once:
        return _encode(once.decode())[1:-1]
    # Without escapes, only its own quotation marks get any.
    return b'\\"' + once[1:-1] + b'\\"'


# Names of slots come again and again; mentions do not.
nested_name = functools.lru_cache(1 << 14)(nested)

"""Bytes and strings that came from outside, decoded without ever raising.

``orjson`` reads what is well-formed; what it refuses (NaN, lone surrogates, broken UTF-8) goes to
the standard library's more patient reader; ``mend`` is the lenient parsing behind ``--repair``.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

# json-repair takes quadratic time on some garbage; real answers are far below this.
MENDABLE = 200_000

# Stands for an answer that cannot be decoded: no JSON value is this object.
BROKEN = object()

# As a float, a number of any length is read in linear time.
_PATIENT = json.JSONDecoder(parse_int=float)

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def decode(text: str | bytes) -> Any:
    """The JSON value of ``text``, or ``BROKEN``; never raises.

    NaN and infinities are let through, of a repeated key the last value counts, both as Python's
    ``json`` has it.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return decode_patiently(text)


def decode_patiently(text: str | bytes) -> Any:
    """What ``decode`` does with text that ``orjson`` refuses."""
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig", errors="replace")
    try:
        return _PATIENT.decode(text)
    except (ValueError, RecursionError):
        return BROKEN


def decode_object(output: Any) -> Any:
    """The object that an output is which ``orjson`` refuses, or another value for none."""
    if type(output) is not str:
        return output
    # Most broken answers end too early; looking for what else they are is slow.
    return decode_patiently(output) if output.rstrip().endswith("}") else BROKEN


def mend(text: str) -> Any:
    """What can be saved of a broken answer: the first object in it, or ``BROKEN``.

    Leaves alone what is longer than ``MENDABLE`` characters.
    """
    if len(text) > MENDABLE or "{" not in text:
        return BROKEN
    import json_repair

    try:
        value = json_repair.loads(text[text.index("{") :], skip_json_loads=True)
    # Foreign code on hostile input: whatever it raises, the answer is broken.
    except Exception:
        return BROKEN
    if isinstance(value, list):
        value = next((part for part in value if isinstance(part, dict)), BROKEN)
    return value if isinstance(value, dict) and value else BROKEN


def is_cut(text: str) -> bool:
    """Whether a broken answer is an object that was begun and never closed."""
    if not text.lstrip().startswith("{"):
        return False
    bare = _STRING.sub("", text)
    if '"' in bare:
        return True
    return bare.count("{") + bare.count("[") > bare.count("}") + bare.count("]")

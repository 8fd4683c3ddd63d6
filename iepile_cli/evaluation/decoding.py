"""Records and answers decoded: the common case into typed structs, all else into any JSON value.

A typed decoder refuses whatever is not exactly as its type says (another kind of value, NaN, a
lone surrogate) with one of ``NOT_TYPED``; its caller then takes ``decode_record`` for a line of a
file, or ``decode`` for what a model wrote, and sorts out what there is; neither ever raises.
``repair`` is the lenient parsing behind ``--repair``.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from typing import Any

import msgspec

from iepile_cli.encodings import decode_json
from iepile_cli.errors import DataError
from iepile_cli.task.instruction import dumps
from iepile_cli.task.shape import Each, Keyed, Mention, Node, Record, Slots

# json-repair takes quadratic time on some garbage; real answers are far below this.
REPAIRABLE = 200_000

# Stands for text that cannot be decoded: no JSON value is this object.
BROKEN = object()

# What typed decoders raise for what is not of their type.
NOT_TYPED = (ValueError, TypeError, RecursionError)

# As a float, a number of any length is read in linear time.
_LINEAR = json.JSONDecoder(parse_int=float)

# A string, and its closing quote: an unclosed one matches to its end, so that no start is tried
# twice.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*("?)', re.DOTALL)

_decode_any = msgspec.json.Decoder().decode


class Row(msgspec.Struct, gc=False):
    """One record of a prediction file: a schema batch put to a text, its gold and its answer."""

    task: str | None = None
    source: str | None = None
    id: str | None = None
    instruction: str | None = None
    label: str | None = None
    output: str | None = None
    truncated: bool = False


class Instruction(msgspec.Struct, gc=False):
    """An instruction string: what is asked, as it is written, and the text."""

    schema: msgspec.Raw
    input: str


decode_row = msgspec.json.Decoder(Row).decode
decode_instruction = msgspec.json.Decoder(Instruction).decode


def row_of(value: dict[str, Any]) -> Row:
    """A row whose fields are of any kind; a gold list or an answer may be JSON instead of text."""
    get = value.get
    output = get("output")
    return Row(
        task=get("task"),
        source=_name(get("source")),
        id=_name(get("id")),
        instruction=_text(get("instruction")),
        label=_text(get("label")),
        output=dumps(output) if isinstance(output, dict) else output,
        truncated=get("truncated") is True,
    )


def _name(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else dumps(value)


def answer_type(node: Node) -> Any:
    """The type of the JSON value under one key of a task's answers.

    Records become structs whose fields are ``part0``, ``part1`` ..., in the node's order.
    """
    match node:
        case Mention():
            return str
        case Each(element):
            return list[answer_type(element)]  # type: ignore[misc]
        case Keyed(_, inner):
            return dict[str, answer_type(inner)]  # type: ignore[misc]
        case Slots():
            return dict[str, str | list[str]]
        case Record(fields):
            return msgspec.defstruct(
                "Answer",
                [
                    (f"part{number}", answer_type(inner), _missing(inner))
                    for number, (_, inner) in enumerate(fields)
                ],
                rename={f"part{number}": name for number, (name, _) in enumerate(fields)},
                gc=False,
            )


def _missing(node: Node) -> Any:
    return "" if isinstance(node, Mention) else msgspec.field(default_factory=dict)


def decode_record(line: bytes) -> Any:
    """The JSON value of a line of a file, or ``BROKEN``, by the package's one rule for records."""
    try:
        return decode_json(line.removeprefix(BOM_UTF8))
    except (DataError, RecursionError):
        return BROKEN


def decode(text: str) -> Any:
    """The JSON value of ``text``, or ``BROKEN``; never raises.

    NaN and infinities are let through, of a repeated key the last value counts, both as Python's
    ``json`` has it.
    """
    try:
        return _decode_any(text)
    except NOT_TYPED:
        return _decode_slowly(text)


def decode_answer(output: str) -> Any:
    """What an answer holds, or ``BROKEN``: looks no further at what does not end as an object."""
    try:
        return _decode_any(output)
    except NOT_TYPED:
        # Most broken answers end too early; looking for what else they are is slow.
        return _decode_slowly(output) if output.rstrip().endswith("}") else BROKEN


def _decode_slowly(text: str) -> Any:
    try:
        return _LINEAR.decode(text)
    except (ValueError, RecursionError):
        return BROKEN


def repair(text: str) -> Any:
    """What can be saved of a broken answer: the first object in it, or ``BROKEN``.

    Leaves alone what is longer than ``REPAIRABLE`` characters.
    """
    if len(text) > REPAIRABLE or "{" not in text:
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
    if not all(string[1] for string in _STRING.finditer(text)):
        return True
    bare = _STRING.sub("", text)
    return bare.count("{") + bare.count("[") > bare.count("}") + bare.count("]")

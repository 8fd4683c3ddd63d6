"""The form of an answer as a JSON schema, for servers that take nothing finer.

It says which keys an answer has and of what kind their values are. That mentions stand in the
text it cannot say: grounding sees to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iepile_cli.task.shape import Each, Keyed, Mention, Node, Record, SchemaItem, Slots
from iepile_cli.task.table import Task

_STRING: dict[str, Any] = {"type": "string"}


def json_schema(task: Task, items: Sequence[SchemaItem]) -> dict[str, Any]:
    """The schema of the answers to ``items``; every key is required."""
    return _object({item.type: _of(task.shape, item) for item in reversed(items)}, items)


def is_closed(task: Task) -> bool:
    """Whether all keys of an answer are known beforehand, as strict modes ask."""
    return not isinstance(task.shape, Keyed)


def _object(properties: dict[str, Any], items: Sequence[SchemaItem] = ()) -> dict[str, Any]:
    order = list(dict.fromkeys(item.type for item in items)) or list(properties)
    return {
        "type": "object",
        "properties": {key: properties[key] for key in order},
        "required": order,
        "additionalProperties": False,
    }


def _of(node: Node, item: SchemaItem) -> dict[str, Any]:
    match node:
        case Mention():
            return _STRING
        case Each(element):
            return {"type": "array", "items": _of(element, item)}
        case Record(fields):
            return _object({key: _of(part, item) for key, part in fields if not item.lacks(key)})
        case Keyed(_, inner):
            return {"type": "object", "additionalProperties": _of(inner, item)}
        case Slots(absent):
            filler = {"anyOf": [_STRING, {"type": "array", "items": _STRING}]}
            shown = _object(dict.fromkeys(item.slots, filler))
            if absent is None:
                return {**shown, "required": []}
            # All slots, those without a filler too, or none at all.
            return {"anyOf": [shown, _object({})]} if item.slots else shown
        case _:
            raise TypeError(f"{type(node).__name__} is no part of an answer")

"""The result of one document, and its JSON form.

The form follows from the task's shape and columns: a thing that is a single mention is flat, the
fixed parts of others stand under their names, and slots are a list under the task's own word.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from iepile_cli.extraction.grounding import Item, Span
from iepile_cli.extraction.inputs import Document
from iepile_cli.task import SchemaItem, Task
from iepile_cli.task.shape import fixed_roles, slot_name

# Control characters and line separators that JSON need not escape, but that terminals obey and
# that some readers of JSON Lines take for the end of a line.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Result:
    """What was found in one document.

    ``answer`` is in the wire format's form, ``items`` are in text order. ``truncated`` counts
    answers that were closed because their token budget ended, ``ungrounded`` mentions that were
    dropped because the text does not hold them, ``problems`` parts of answers that could not be
    used (the last two stay 0 with constrained decoding). ``tokens`` were generated.
    """

    document: Document
    task: Task
    language: str
    answer: dict[str, Any]
    items: tuple[Item, ...]
    passages: int = 1
    truncated: int = 0
    ungrounded: int = 0
    problems: int = 0
    tokens: int = 0


def is_single(task: Task) -> bool:
    """Whether an extracted thing of the task is one mention and nothing else."""
    return not task.slots and len(fixed_roles(task.shape)) == 1


def to_json(result: Result) -> dict[str, Any]:
    """The object that is written for a document; ``line``, ``id`` and counts only where they say
    something."""
    document = result.document
    shown: dict[str, Any] = {"source": document.source}
    if document.line is not None:
        shown["line"] = document.line
    if document.id:
        shown["id"] = document.id
    shown |= {"task": result.task.name, "lang": result.language, "answer": result.answer}
    shown["items"] = [item_json(result.task, item) for item in result.items]
    if result.truncated:
        shown["truncated"] = True
    shown |= {
        name: count for name in ("ungrounded", "problems") if (count := getattr(result, name))
    }
    return shown


def item_json(task: Task, found: Item) -> dict[str, Any]:
    """One item, e.g. ``{"type", "text", "start", "end", "score"}`` for a single mention."""
    shown: dict[str, Any] = {"type": found.item.type, **ends(task, found.item)}
    spans = dict(reversed(found.roles))
    fixed = fixed_roles(task.shape)
    if is_single(task):
        return shown | span_json(found.roles[0][1])
    for role in fixed:
        if not found.item.lacks(role):
            shown[role] = span_json(spans[role]) if role in spans else None
    if task.slots:
        shown[task.slots] = [
            {"role": role, **span_json(span)} for role, span in slots_of(task, found)
        ]
    shown["score"] = _rounded(found.score)
    return shown


def ends(task: Task, item: SchemaItem) -> dict[str, str]:
    """The types of a typed relation's two ends, for tasks whose schema items have them."""
    return {key: getattr(item, field) for key, field in task.item_keys if field.endswith("_type")}


def slots_of(task: Task, found: Item) -> list[tuple[str, Span]]:
    """An item's arguments or attributes, by the slots' names: its roles that are not fixed."""
    fixed = fixed_roles(task.shape)
    return [(slot_name(role), span) for role, span in found.roles if role not in fixed]


def span_json(span: Span) -> dict[str, Any]:
    """A mention and its place; ``occurrences`` only when they were asked for."""
    shown: dict[str, Any] = {
        "text": span.text,
        "start": span.start,
        "end": span.end,
        "score": _rounded(span.score),
    }
    if span.occurrences:
        shown["occurrences"] = [list(place) for place in span.occurrences]
    return shown


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


def to_line(shown: dict[str, Any]) -> bytes:
    """JSON on one line, in UTF-8 and without a line end; safe to show and to split at lines."""
    text = json.dumps(shown, ensure_ascii=False)
    escaped = _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
    return escaped.encode("utf-8", "replace")

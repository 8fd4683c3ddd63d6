"""Unified records in the forms of annotation tools: to be corrected there, or trained on.

``readers/`` reads each of them back. What a form cannot hold (relations in columns of tags, events
anywhere but in brat) is left out and noted.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from iepile_cli.conversion.offsets import Span, gold_items
from iepile_cli.conversion.readers.spans import LabelledSpan
from iepile_cli.task.instruction import dumps
from iepile_cli.task.records import Gold
from iepile_cli.task.shape import fixed_roles, slot_name
from iepile_cli.task.table import TASKS, Task

# Words, and Chinese characters and punctuation one by one.
_TOKEN = re.compile("[\u3400-\u9fff\uf900-\ufaff]|[^\\W\u3400-\u9fff\uf900-\ufaff]+|[^\\w\\s]")
_BLANK = re.compile(r"\s+")
# What a mention is called whose type the annotation does not name.
_UNTYPED = "mention"

# Notes what a form cannot hold.
Lost: TypeAlias = Callable[[str], None]
# Tools that take one JSON array and no lines.
JSON_ARRAYS = frozenset(("label-studio",))


class Relation(NamedTuple):
    """A relation between two labelled spans."""

    head: LabelledSpan
    label: str
    tail: LabelledSpan


class Event(NamedTuple):
    """An event: its trigger, labelled with its type, and its arguments, labelled with roles."""

    trigger: LabelledSpan
    arguments: tuple[LabelledSpan, ...]


class Annotation(NamedTuple):
    """A record's annotation in spans; ``spans`` are its entities and the ends of relations."""

    text: str
    spans: list[LabelledSpan]
    relations: list[Relation]
    events: list[Event]
    identity: dict[str, Any]


def annotation_of(record: Mapping[str, Any], lost: Lost) -> Annotation:
    """The spans of a unified record; mentions without offsets are looked for in the text."""
    text = record["text"]
    identity = {key: record[key] for key in ("id",) if record.get(key) is not None}
    made = Annotation(text, [], [], [], identity)
    places = _Places(text)
    for task in _SPANNED:
        problems: list[str] = []
        for gold, known in gold_items(task, record.get(task.layout.field, []), text, problems):
            found = [
                span or places.next(gold.type, mention)
                for span, (_, mention) in zip(known, gold.roles, strict=True)
            ]
            spans = [span for span in found if span]
            if len(spans) < len(found):
                lost(f"a {gold.type!r} that is not in the text")
            else:
                _add(made, task, gold, spans)
        for problem in problems:
            lost(problem)
    return made._replace(spans=sorted(set(made.spans)))


# The tasks whose layouts have all that an annotation of their field can hold.
_SPANNED = tuple(
    {
        task.layout.field: task
        for task in TASKS.values()
        if not task.layout.by_head and not task.gold_types_only
        if task.slots or task.layout.roles[0][0] != "trigger"
    }.values()
)


class _Places:
    """Where mentions stand whose offsets are not known: each time the next place of it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._after: dict[tuple[str, str], int] = {}

    def next(self, kind: str, mention: str) -> Span | None:
        at = self.text.find(mention, self._after.get((kind, mention), 0))
        if at < 0:
            at = self.text.find(mention)
        if at < 0:
            return None
        self._after[kind, mention] = at + len(mention)
        return at, at + len(mention)


def _add(made: Annotation, task: Task, gold: Gold, spans: list[Span]) -> None:
    fixed = fixed_roles(task.shape)
    if task.slots:
        if not gold.roles or gold.roles[0][0] not in fixed:
            return
        arguments = tuple(
            LabelledSpan(*span, slot_name(role))
            for span, (role, _) in zip(spans[1:], gold.roles[1:], strict=True)
        )
        made.events.append(Event(LabelledSpan(*spans[0], gold.type), arguments))
    elif len(fixed) == 1:
        made.spans.append(LabelledSpan(*spans[0], gold.type))
    else:
        head = LabelledSpan(*spans[0], gold.subject_type or _label_at(made, spans[0]))
        tail = LabelledSpan(*spans[1], gold.object_type or _label_at(made, spans[1]))
        made.spans.extend((head, tail))
        made.relations.append(Relation(head, gold.type, tail))


def _label_at(made: Annotation, span: Span) -> str:
    return next((one.label for one in made.spans if one[:2] == span), _UNTYPED)


# ------------------------------------------------------------------------------- one JSON object


def spacy_json(found: Annotation, lost: Lost) -> dict[str, Any]:
    """A document as spaCy's ``Doc.to_json()`` has it."""
    for relation in found.relations:
        lost(f"a relation {relation.label!r}")
    _without_events(found, lost)
    return {**found.identity, "text": found.text, "ents": [one._asdict() for one in found.spans]}


def prodigy_json(found: Annotation, lost: Lost) -> dict[str, Any]:
    """An example for Prodigy."""
    _without_events(found, lost)
    made = {**found.identity, "text": found.text, "spans": [one._asdict() for one in found.spans]}
    if found.relations:
        made["relations"] = [
            {
                "head_span": one.head._asdict(),
                "child_span": one.tail._asdict(),
                "label": one.label,
            }
            for one in found.relations
        ]
    return made


def doccano_json(found: Annotation, lost: Lost) -> dict[str, Any]:
    """A line for doccano: labelled spans, or entities and relations where there are any."""
    _without_events(found, lost)
    if not found.relations:
        label = [[*one] for one in found.spans]
        return {**found.identity, "text": found.text, "label": label}
    number = {span: at for at, span in enumerate(found.spans)}
    return {
        **found.identity,
        "text": found.text,
        "entities": [
            {"id": at, "label": one.label, "start_offset": one.start, "end_offset": one.end}
            for one, at in number.items()
        ],
        "relations": [
            {"id": at, "from_id": number[one.head], "to_id": number[one.tail], "type": one.label}
            for at, one in enumerate(found.relations)
        ],
    }


def label_studio_json(found: Annotation, lost: Lost) -> dict[str, Any]:
    """A task for Label Studio with its annotation as a prediction (``label`` on ``text``)."""
    _without_events(found, lost)
    names = {span: f"e{at}" for at, span in enumerate(found.spans)}
    result: list[dict[str, Any]] = [
        {
            "id": name,
            "from_name": "label",
            "to_name": "text",
            "type": "labels",
            "value": {
                "start": one.start,
                "end": one.end,
                "text": found.text[one.start : one.end],
                "labels": [one.label],
            },
        }
        for one, name in names.items()
    ]
    result += [
        {
            "type": "relation",
            "from_id": names[one.head],
            "to_id": names[one.tail],
            "direction": "right",
            "labels": [one.label],
        }
        for one in found.relations
    ]
    return {**found.identity, "data": {"text": found.text}, "predictions": [{"result": result}]}


def _without_events(found: Annotation, lost: Lost) -> None:
    for event in found.events:
        lost(f"an event {event.trigger.label!r}")


# ------------------------------------------------------------------------------ columns of tokens


def bio_lines(found: Annotation, lost: Lost) -> str:
    """A sentence as columns of tokens and tags, parted by tabs, and a blank line."""
    for relation in found.relations:
        lost(f"a relation {relation.label!r}")
    _without_events(found, lost)
    chosen: list[LabelledSpan] = []
    for span in sorted(found.spans, key=lambda one: (one.start - one.end, one.start)):
        if all(span.end <= one.start or span.start >= one.end for one in chosen):
            chosen.append(span)
        else:
            lost(f"{span.label!r} within or over another mention")
    cuts = sorted({0, len(found.text), *(at for one in chosen for at in one[:2])})
    lines = []
    for start, end in itertools.pairwise(cuts):
        label = next((one.label for one in chosen if one.start == start), "")
        mark = "B-"
        for token in _TOKEN.findall(found.text[start:end]):
            lines.append(f"{token}\t{mark + _BLANK.sub(' ', label) if label else 'O'}\n")
            mark = "I-"
    return "".join(lines) + "\n" if lines else ""


# ------------------------------------------------------------------------------------------- brat


def brat_lines(found: Annotation, lost: Lost) -> str:
    """A document's annotation in brat's standoff; blanks in labels become underscores."""
    lines: list[str] = []
    names: dict[LabelledSpan, str] = {}

    def mention(span: LabelledSpan) -> str:
        if span not in names:
            names[span] = f"T{len(names) + 1}"
            text = _BLANK.sub(" ", found.text[span.start : span.end])
            lines.append(f"{names[span]}\t{_name(span.label)} {span.start} {span.end}\t{text}\n")
        return names[span]

    for span in found.spans:
        mention(span)
    for number, relation in enumerate(found.relations, 1):
        ends = f"Arg1:{mention(relation.head)} Arg2:{mention(relation.tail)}"
        lines.append(f"R{number}\t{_name(relation.label)} {ends}\n")
    for number, event in enumerate(found.events, 1):
        by_place = {span[:2]: span for span in found.spans}
        parts = [f"{_name(event.trigger.label)}:{mention(event.trigger)}"]
        for one in event.arguments:
            filler = by_place.get(one[:2], LabelledSpan(one.start, one.end, _UNTYPED))
            parts.append(f"{_name(one.label)}:{mention(filler)}")
        lines.append(f"E{number}\t{' '.join(parts)}\n")
    return "".join(lines)


def _name(label: str) -> str:
    return _BLANK.sub("_", label.strip())


def write_brat(record: Mapping[str, Any], path: Path, lost: Lost) -> None:
    """Write a record as a ``.txt`` and an ``.ann`` file beside it."""
    found = annotation_of(record, lost)
    path.with_suffix(".txt").write_bytes(found.text.encode())
    path.with_suffix(".ann").write_bytes(brat_lines(found, lost).encode())


_JSON: Mapping[str, Callable[[Annotation, Lost], dict[str, Any]]] = {
    "spacy": spacy_json,
    "prodigy": prodigy_json,
    "doccano": doccano_json,
    "label-studio": label_studio_json,
}


def tool_form(record: Mapping[str, Any], to: str, lost: Lost) -> bytes:
    """A record in a tool's form, with a line end."""
    found = annotation_of(record, lost)
    if to in _JSON:
        return dumps(_JSON[to](found, lost)).encode() + b"\n"
    return bio_lines(found, lost).encode()

"""What a text is annotated with, as labelled spans, relations and events.

The writers of other programs' forms (``writers.py``, ``graphs.py``) take it. It is made of a
unified record, or of the items of a result of ``iepile extract``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from iepile_cli.conversion.readers.spans import LabelledSpan
from iepile_cli.conversion.record_gold import GoldItem, Span, gold_items
from iepile_cli.task.records import Gold
from iepile_cli.task.shape import fixed_roles, slot_name
from iepile_cli.task.table import TASKS, Task

# What a mention is called whose type the annotation does not name.
UNTYPED = "mention"
_TRIGGER = "trigger"

# Notes what a form cannot hold.
Lost: TypeAlias = Callable[[str], None]


class Relation(NamedTuple):
    """A relation between two labelled spans; an attribute is one from its entity to its value."""

    head: LabelledSpan
    label: str
    tail: LabelledSpan
    score: float | None = None


class Event(NamedTuple):
    """An event: its type, its trigger where it has one, and its arguments, labelled with roles."""

    label: str
    trigger: LabelledSpan | None
    arguments: tuple[LabelledSpan, ...]
    score: float | None = None


class Annotation(NamedTuple):
    """A text's annotation; ``spans`` are entities and the ends of relations, in text order.

    ``scores`` (0..1) are those of spans that have one; ``identity`` is what names the text: its
    ``id``, its ``source`` and its ``line`` there, as far as they are known.
    """

    text: str
    spans: list[LabelledSpan]
    relations: list[Relation]
    events: list[Event]
    identity: dict[str, Any]
    scores: dict[LabelledSpan, float]

    def labels(self) -> dict[Span, str]:
        """The label of the first entity at each place."""
        return {one[:2]: one.label for one in reversed(self.spans)}

    def in_order(self) -> Annotation:
        """The same with each span once, in text order."""
        return self._replace(spans=sorted(set(self.spans)))


def annotation_of(record: Mapping[str, Any], lost: Lost) -> Annotation:
    """The annotation of a unified record; mentions without offsets are looked for in the text."""
    text = record["text"]
    identity = {key: record[key] for key in ("id",) if record.get(key) is not None}
    made = Annotation(text, [], [], [], identity, {})
    places = _Places(text)
    for task in _SPANNED:
        problems: list[str] = []
        known_labels = made.labels()
        for gold, known in gold_items(task, record.get(task.layout.field, []), text, problems):
            found = [
                span or places.next(gold.type, mention)
                for span, (_, mention) in zip(known, gold.roles, strict=True)
            ]
            spans = [span for span in found if span]
            if len(spans) < len(found):
                lost(f"a {gold.type!r} that is not in the text")
            else:
                _add(made, task, gold, spans, None, known_labels)
        for problem in problems:
            lost(problem)
    return made.in_order()


def annotation_of_items(
    task: Task,
    items: Iterable[tuple[GoldItem, float | None]],
    text: str,
    identity: dict[str, Any],
) -> Annotation:
    """The annotation that a task's items make, each with its score; all their places are known."""
    made = Annotation(text, [], [], [], identity, {})
    for (gold, spans), score in items:
        _add(made, task, gold, [span for span in spans if span], score, {})
    return made.in_order()


# The tasks whose layouts have all that an annotation of their field can hold.
_SPANNED = tuple(
    {
        task.layout.field: task
        for task in TASKS.values()
        if not task.layout.by_head and not task.gold_types_only
        if task.slots or task.layout.roles[0][0] != _TRIGGER
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


def _add(
    made: Annotation,
    task: Task,
    gold: Gold,
    spans: list[Span],
    score: float | None,
    labels: Mapping[Span, str],
) -> None:
    """Add an item; ``labels`` are those of places whose entities relations may be between."""
    fixed = fixed_roles(task.shape)
    names = [role for role, _ in gold.roles]
    if task.layout.by_head:
        head = LabelledSpan(*spans[0], gold.type)
        made.spans.append(head)
        for span, role in zip(spans[1:], names[1:], strict=True):
            value = LabelledSpan(*span, slot_name(role))
            made.spans.append(value)
            made.relations.append(Relation(head, value.label, value, score))
    elif task.layout.roles[0][0] == _TRIGGER:
        placed = list(zip(names, spans, strict=True))
        trigger = None
        if placed and placed[0][0] == _TRIGGER:
            trigger = LabelledSpan(*placed.pop(0)[1], gold.type)
        arguments = tuple(LabelledSpan(*span, slot_name(role)) for role, span in placed)
        made.events.append(Event(gold.type, trigger, arguments, score))
    elif len(fixed) == 1:
        one = LabelledSpan(*spans[0], gold.type)
        made.spans.append(one)
        if score is not None:
            made.scores[one] = max(score, made.scores.get(one, 0.0))
    else:
        head = LabelledSpan(*spans[0], gold.subject_type or labels.get(spans[0], UNTYPED))
        tail = LabelledSpan(*spans[1], gold.object_type or labels.get(spans[1], UNTYPED))
        made.spans.extend((head, tail))
        made.relations.append(Relation(head, gold.type, tail, score))

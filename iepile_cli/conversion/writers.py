"""Annotation in the forms of annotation tools: to be corrected there, or trained on.

``readers/`` reads each of them back. What a form cannot hold (relations in columns of tags, events
anywhere but in brat) is left out and noted.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from iepile_cli.conversion.annotation import UNTYPED, Annotation, Lost
from iepile_cli.conversion.readers.spans import LabelledSpan
from iepile_cli.task.instruction import dumps
from iepile_cli.task.passages import SENTENCE, units

# Words, and Chinese characters and punctuation one by one.
_TOKEN = re.compile("[\u3400-\u9fff\uf900-\ufaff]|[^\\W\u3400-\u9fff\uf900-\ufaff]+|[^\\w\\s]")
_BLANK = re.compile(r"\s+")


def _without_relations(found: Annotation, lost: Lost) -> None:
    for relation in found.relations:
        lost(f"a relation {relation.label!r}")


def _without_events(found: Annotation, lost: Lost) -> None:
    for event in found.events:
        lost(f"an event {event.label!r}")


def _disjoint(spans: Iterable[LabelledSpan], lost: Lost) -> list[LabelledSpan]:
    """The longest of overlapping spans, in text order; the others are noted."""
    chosen: list[LabelledSpan] = []
    for span in sorted(spans, key=lambda one: (one.start - one.end, one.start)):
        at = bisect(chosen, span)
        if (at and chosen[at - 1].end > span.start) or (
            at < len(chosen) and chosen[at].start < span.end
        ):
            lost(f"{span.label!r} within or over another mention")
        else:
            chosen.insert(at, span)
    return chosen


def _tokens(text: str, spans: Iterable[LabelledSpan]) -> Iterator[tuple[int, int]]:
    """Where the tokens of a text are, in order; each span is made of whole ones."""
    cuts = sorted({0, len(text), *(at for span in spans for at in span[:2])})
    for start, end in itertools.pairwise(cuts):
        for token in _TOKEN.finditer(text, start, end):
            yield token.span()


# ------------------------------------------------------------------------------- one JSON object


def spacy_json(found: Annotation, lost: Lost) -> dict[str, Any]:
    """A document as spaCy's ``Doc.to_json()`` has it, with tokens, for ``Doc.from_json()``.

    Entities of spaCy do not overlap: where some do, all are in the span group ``sc`` too.
    """
    _without_relations(found, lost)
    _without_events(found, lost)
    entities = _disjoint(found.spans, lambda _: None)
    made = {**found.identity, "text": found.text, "ents": [one._asdict() for one in entities]}
    if len(entities) < len(found.spans):
        made["spans"] = {"sc": [{**one._asdict(), "kb_id": ""} for one in found.spans]}
    places = _with_blanks(found.text, _tokens(found.text, found.spans))
    made["tokens"] = [
        {"id": number, "start": start, "end": end} for number, (start, end) in enumerate(places)
    ]
    return made


def _with_blanks(text: str, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Tokens, and a token for each blank that is more than one space after a token."""
    at = 0
    for start, end in (*places, (len(text), len(text))):
        blank = at + (at > 0 and text[at : at + 1] == " ")
        if blank < start:
            yield blank, start
        if start < end:
            yield start, end
        at = end


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
            **({"score": found.scores[one]} if one in found.scores else {}),
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
    named = dict(found.identity)
    own = {"id": named.pop("id")} if "id" in named else {}
    data = {"text": found.text, **named}
    return {**own, "data": data, "predictions": [{"result": result}]}


# ------------------------------------------------------------------------------ columns of tokens


def bio_lines(found: Annotation, lost: Lost) -> str:
    """A sentence as columns of tokens and tags, separated by tabs, and a blank line."""
    lines = [f"{token}\t{tag}\n" for _, token, tag in _tagged(found, lost)]
    return "".join(lines) + "\n" if lines else ""


def conll_lines(found: Annotation, lost: Lost) -> str:
    """A document after ``-DOCSTART-``: as ``bio_lines``, with a blank line between sentences."""
    ends = [unit.end for unit in units(found.text) if unit.cut >= SENTENCE]
    made = ["-DOCSTART-\tO\n"]
    sentence = -1
    for start, token, tag in _tagged(found, lost):
        here = bisect_right(ends, start)
        # A mention goes on where a sentence seems to end within it.
        if here > sentence and not tag.startswith("I-"):
            made.append("\n")
            sentence = here
        made.append(f"{token}\t{tag}\n")
    return "".join([*made, "\n"])


def _tagged(found: Annotation, lost: Lost) -> Iterator[tuple[int, str, str]]:
    """The tokens of a text, each with its place and its tag."""
    _without_relations(found, lost)
    _without_events(found, lost)
    chosen = _disjoint(found.spans, lost)
    spans = iter(chosen)
    span = next(spans, None)
    for start, end in _tokens(found.text, chosen):
        while span is not None and span.end <= start:
            span = next(spans, None)
        tag = "O"
        if span is not None and span.start <= start:
            tag = f"{'B' if start == span.start else 'I'}-{_BLANK.sub(' ', span.label)}"
        yield start, found.text[start:end], tag


# ------------------------------------------------------------------------------------------- brat


def brat_lines(found: Annotation, lost: Lost) -> str:
    """A document's annotation in brat's standoff; blanks in labels become underscores."""
    lines: list[str] = []
    names: dict[LabelledSpan, str] = {}

    def mention(span: LabelledSpan) -> str:
        if span not in names:
            names[span] = f"T{len(names) + 1}"
            pieces = _pieces(found.text, span)
            places = ";".join(f"{start} {end}" for start, end in pieces)
            text = " ".join(_BLANK.sub(" ", found.text[start:end]) for start, end in pieces)
            lines.append(f"{names[span]}\t{_name(span.label)} {places}\t{text}\n")
        return names[span]

    for span in found.spans:
        mention(span)
    for number, relation in enumerate(found.relations, 1):
        ends = f"Arg1:{mention(relation.head)} Arg2:{mention(relation.tail)}"
        lines.append(f"R{number}\t{_name(relation.label)} {ends}\n")
    by_place = {span[:2]: span for span in found.spans}
    for number, event in enumerate(found.events, 1):
        if event.trigger is None:
            lost(f"an event {event.label!r} without a trigger")
            continue
        parts = [f"{_name(event.label)}:{mention(event.trigger)}"]
        for one in event.arguments:
            filler = by_place.get(one[:2], LabelledSpan(one.start, one.end, UNTYPED))
            parts.append(f"{_name(one.label)}:{mention(filler)}")
        lines.append(f"E{number}\t{' '.join(parts)}\n")
    return "".join(lines)


def _pieces(text: str, span: LabelledSpan) -> list[tuple[int, int]]:
    """The parts of a span that are on one line each: brat has no mention over several."""
    found = re.finditer(r"[^\r\n]+", text[span.start : span.end])
    pieces = [(span.start + one.start(), span.start + one.end()) for one in found]
    return pieces or [(span.start, span.end)]


def _name(label: str) -> str:
    return _BLANK.sub("_", label.strip())


class BratFolder:
    """A folder of brat's documents, and the settings with which brat shows them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Entity types, relations, and event types, these with their roles.
        self._entities: dict[str, None] = {}
        self._relations: dict[str, None] = {}
        self._events: dict[str, dict[str, None]] = {}

    def write(self, found: Annotation, name: str, lost: Lost) -> None:
        """Write a document as ``name.txt`` and ``name.ann``; raises ``OSError``."""
        (self.folder / f"{name}.txt").write_bytes(found.text.encode("utf-8", "replace"))
        lines = brat_lines(found, lost)
        (self.folder / f"{name}.ann").write_bytes(lines.encode("utf-8", "replace"))
        self._entities.update((_name(one.label), None) for one in found.spans)
        self._relations.update((_name(one.label), None) for one in found.relations)
        for event in found.events:
            roles = self._events.setdefault(_name(event.label), {})
            roles.update((_name(one.label), None) for one in event.arguments)
            if event.arguments:
                self._entities[UNTYPED] = None

    def close(self) -> None:
        """Write ``annotation.conf``, by which brat knows the labels."""
        lines = ["[entities]", *self._entities, "[relations]"]
        lines += [f"{name}\tArg1:<ENTITY>, Arg2:<ENTITY>" for name in self._relations]
        lines.append("[events]")
        for name, roles in self._events.items():
            taken = ", ".join(f"{role}*:<ENTITY>" for role in roles)
            lines.append(f"{name}\t{taken}" if roles else name)
        text = "\n".join([*lines, "[attributes]", ""])
        (self.folder / "annotation.conf").write_bytes(text.encode("utf-8", "replace"))


# ----------------------------------------------------------------------------------- by its name

_JSON: Mapping[str, Callable[[Annotation, Lost], dict[str, Any]]] = {
    "spacy": spacy_json,
    "prodigy": prodigy_json,
    "doccano": doccano_json,
    "label-studio": label_studio_json,
}


def tool_form(found: Annotation, to: str, lost: Lost) -> bytes:
    """A text's annotation in a tool's form, with a line end."""
    if to in _JSON:
        return dumps(_JSON[to](found, lost)).encode("utf-8", "replace") + b"\n"
    lines = conll_lines if to == "conll" else bio_lines
    return lines(found, lost).encode("utf-8", "replace")

"""Label Studio's exports: tasks with annotations (or predictions), and its short form JSON_MIN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from iepile_cli.conversion.readers.spans import LabelledSpan, Note, relation_entry, span_record
from iepile_cli.conversion.record_gold import NOT_ACCEPTED, PART_LOST, Unusable


def label_studio_records(value: Any, note: Note) -> Iterator[dict[str, Any]]:
    """The unified record of one task.

    Of several annotations the one marked as ground truth counts, else the first; cancelled ones
    do not. Where nobody has annotated, the first prediction counts.
    """
    if "data" not in value:
        spans = [
            LabelledSpan(one["start"], one["end"], str(label))
            for one in value["label"]
            for label in one["labels"]
        ]
        yield span_record(value["text"], spans, value)
        return
    text = _text(value["data"])
    results = _results(value, note)
    if results is None:
        yield {"text": text}
        return
    yield _record(text, results, value, note)


def _text(data: dict[str, Any]) -> str:
    if isinstance(data.get("text"), str):
        return str(data["text"])
    texts = [one for one in data.values() if isinstance(one, str)]
    if len(texts) != 1:
        raise KeyError("text")
    return texts[0]


def _results(value: dict[str, Any], note: Note) -> Sequence[dict[str, Any]] | None:
    given = value.get("annotations", value.get("completions")) or []
    annotations = [one for one in given if not one.get("was_cancelled")]
    if given and not annotations:
        raise Unusable(NOT_ACCEPTED, "cancelled")
    if len(annotations) > 1:
        note(PART_LOST, f"{len(annotations) - 1} further annotations of the same text")
    annotations.sort(key=lambda one: not one.get("ground_truth"))
    chosen = annotations or [one for one in value.get("predictions") or () if "result" in one]
    return chosen[0]["result"] if chosen else None


def _record(
    text: str, results: Sequence[dict[str, Any]], value: dict[str, Any], note: Note
) -> dict[str, Any]:
    spans: list[LabelledSpan] = []
    ends: dict[str, LabelledSpan] = {}
    for one in results:
        place = one.get("value") or {}
        labels = place.get("labels") or place.get("hypertextlabels")
        if labels and "start" in place:
            spans += [LabelledSpan(place["start"], place["end"], str(label)) for label in labels]
            ends[one["id"]] = spans[-1]
        elif one.get("type") != "relation":
            note(PART_LOST, f"a result of type {one.get('type')!r}")
    record = span_record(text, spans, value)
    relations = [one for one in results if one.get("type") == "relation"]
    if relations:
        record["relation"] = []
    for one in relations:
        pair = ends.get(one["from_id"]), ends.get(one["to_id"])
        head, tail = reversed(pair) if one.get("direction") == "left" else pair
        if head is None or tail is None or not one.get("labels"):
            note(PART_LOST, "a relation without a label or to a region without one")
            continue
        record["relation"] += [
            relation_entry(text, head, str(label), tail) for label in one["labels"]
        ]
    return record

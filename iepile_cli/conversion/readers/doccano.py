"""doccano's exports: JSON Lines of texts with labelled spans, and of relations between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from iepile_cli.conversion.readers.spans import LabelledSpan, Note, relation_entry, span_record
from iepile_cli.conversion.record_gold import PART_LOST


def doccano_records(value: Any, note: Note) -> Iterator[dict[str, Any]]:
    """The unified record of one line.

    ``{"text", "label": [[start, end, label]]}``, or with relations ``{"text", "entities": [{"id",
    "label", "start_offset", "end_offset"}], "relations": [{"from_id", "to_id", "type"}]}``.
    """
    text = value["text"]
    if "entities" not in value:
        spans = value["label"] if "label" in value else value["labels"]
        yield span_record(text, [LabelledSpan(*span) for span in spans], value)
        return
    ends = {
        one["id"]: LabelledSpan(one["start_offset"], one["end_offset"], str(one["label"]))
        for one in value["entities"]
    }
    record = span_record(text, ends.values(), value)
    relations = value.get("relations") or []
    known = [one for one in relations if one["from_id"] in ends and one["to_id"] in ends]
    if len(known) < len(relations):
        note(PART_LOST, "a relation to an entity that is not there")
    if relations:
        record["relation"] = [
            relation_entry(text, ends[one["from_id"]], str(one["type"]), ends[one["to_id"]])
            for one in known
        ]
    yield record

"""Results in the forms of other programs: annotation tools and graphs.

The writers are those of ``iepile convert``; here a result becomes the annotation that they take,
and what a form cannot hold is counted.
"""

from __future__ import annotations

from typing import Any

from iepile_cli.conversion.annotation import Annotation, annotation_of_items
from iepile_cli.conversion.graphs import GRAPHS, GraphFile
from iepile_cli.conversion.readers.results import result_item
from iepile_cli.conversion.writers import JSON_ARRAYS, tool_form
from iepile_cli.extraction.forms import Form, JsonArray, LeftOut, Lines
from iepile_cli.extraction.results import Result, to_json


def tool_form_of(format_: str) -> Form:
    """The form of a format; raises ``UsageError`` where its library is missing."""
    if format_ in GRAPHS:
        return GraphForm(format_)
    left_out = LeftOut(format_)

    def encode(result: Result) -> bytes:
        return tool_form(result_annotation(result), format_, left_out)

    return (JsonArray if format_ in JSON_ARRAYS else Lines)(encode, left_out)


def result_annotation(result: Result) -> Annotation:
    """The annotation that a result is."""
    document, shown = result.document, to_json(result)
    identity: dict[str, Any] = {key: shown[key] for key in ("id", "source", "line") if key in shown}
    items = ((result_item(result.task, one, document.text), one["score"]) for one in shown["items"])
    return annotation_of_items(result.task, items, document.text, identity)


class GraphForm(Form):
    """All results as one graph, which is written at the end."""

    def __init__(self, format_: str) -> None:
        self._graph = GraphFile(format_)

    def result(self, result: Result) -> bytes:
        """Nothing yet."""
        self._graph.add(result_annotation(result))
        return b""

    def end(self) -> bytes:
        """The graph."""
        return self._graph.written()

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
from iepile_cli.extraction.forms import Form
from iepile_cli.extraction.results import Result, to_json
from iepile_cli.formatting import plural


def tool_form_of(format_: str) -> Form:
    """The form of a format; raises ``UsageError`` where its library is missing."""
    return GraphForm(format_) if format_ in GRAPHS else ToolForm(format_)


def result_annotation(result: Result) -> Annotation:
    """The annotation that a result is."""
    document, shown = result.document, to_json(result)
    identity: dict[str, Any] = {key: shown[key] for key in ("id", "source", "line") if key in shown}
    items = ((result_item(result.task, one, document.text), one["score"]) for one in shown["items"])
    return annotation_of_items(result.task, items, document.text, identity)


class LeftOut:
    """What of the results a format could not hold."""

    def __init__(self, format_: str) -> None:
        self._format, self._count, self._first = format_, 0, ""

    def __call__(self, what: str) -> None:
        """Count one more."""
        self._first = self._first or what
        self._count += 1

    @property
    def notes(self) -> list[str]:
        """What to say at the end: a line, or none."""
        if not self._count:
            return []
        parts = plural(self._count, "part")
        return [f"{parts} of the results left out that {self._format} cannot hold: {self._first}"]


class ToolForm(Form):
    """Each document as a tool's record, one a line, or all in a JSON array."""

    def __init__(self, format_: str) -> None:
        self._format = format_
        self._array = format_ in JSON_ARRAYS
        self._separator = b""
        self._lost = LeftOut(format_)

    @property
    def notes(self) -> list[str]:
        """What was left out."""
        return self._lost.notes

    def begin(self, *, resumed: bool = False) -> bytes:
        """The bracket of an array."""
        return b"[\n" if self._array else b""

    def result(self, result: Result) -> bytes:
        """The record of a document."""
        separator, self._separator = self._separator, b"," if self._array else b""
        return separator + tool_form(result_annotation(result), self._format, self._lost)

    def end(self) -> bytes:
        """The bracket of an array."""
        return b"]\n" if self._array else b""


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

"""Results in the forms of other programs: annotation tools, a folder of files for brat, graphs.

The writers are those of ``iepile convert``; here a result becomes the annotation that they take,
and what a form cannot hold is counted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iepile_cli.conversion.annotation import Annotation, annotation_of_items
from iepile_cli.conversion.graphs import GRAPHS, GraphFile
from iepile_cli.conversion.options import JSON_ARRAYS
from iepile_cli.conversion.readers.results import result_item
from iepile_cli.conversion.writers import BratFolder, tool_form
from iepile_cli.errors import UsageError
from iepile_cli.extraction.forms import Form, JsonArray, LeftOut, Lines
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.results import Result, to_json
from iepile_cli.writing import naming_what_is_full

_NOT_IN_NAMES = re.compile(r"[^\w.-]+")
_LONGEST_NAME = 100


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


class FolderWriter:
    """Writes results into a new folder, each when it is done; a context manager.

    Raises ``UsageError`` for a folder in which there is something.
    """

    resumed = 0

    def __init__(self, target: str, format_: str) -> None:
        self.path: str | None = target
        self.written = 0
        self._new = not os.path.isdir(target)
        if not self._new and os.listdir(target):
            raise UsageError(f"{target} is there already", hint="name a new folder with -o")
        with naming_what_is_full(target):
            os.makedirs(target, exist_ok=True)
        self._folder = BratFolder(Path(target))
        self._names: set[str] = set()
        self._lost = LeftOut(format_)

    @property
    def notes(self) -> Sequence[str]:
        """What the files could not hold, in a line."""
        return self._lost.notes

    def done(self, document: Document) -> bool:
        """Whether a document's result is there already: never."""
        return False

    def check(self, **settings: Any) -> None:
        """What the results are made with is not noted, as they are not resumed."""

    def write(self, result: Result) -> None:
        """Write one document's files; raises ``DataError`` for a full disk."""
        name = self._name(result.document)
        with naming_what_is_full(os.path.join(self._folder.folder, name)):
            self._folder.write(result_annotation(result), name, self._lost)
        self.written += 1

    def _name(self, document: Document) -> str:
        """A name that no other document has, whether or not upper case counts."""
        parts = [os.path.splitext(os.path.basename(document.source))[0]]
        parts += [document.id or str(document.line)] if document.id or document.line else []
        whole = _NOT_IN_NAMES.sub("_", "-".join(parts))[:_LONGEST_NAME].strip(".") or "document"
        name, number = whole, 1
        while name.casefold() in self._names:
            number += 1
            name = f"{whole}-{number}"
        self._names.add(name.casefold())
        return name

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or self.written:
            with naming_what_is_full(self._folder.folder):
                self._folder.close()
        elif self._new and not os.listdir(self._folder.folder):
            os.rmdir(self._folder.folder)

"""Results as a page to look at: one HTML file that needs no network and no other file.

What the page shows is made ready here; how it looks and works are the files of ``pages``. The page
is written as results come: its head, each document, and at the end the names that they are
counted under (``summary.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from iepile_cli.extraction.forms import Form
from iepile_cli.extraction.results import Result, to_json
from iepile_cli.extraction.summary import Summary, SummaryOptions
from iepile_cli.formatting import one_line
from iepile_cli.pages import json_text, render
from iepile_cli.task.shape import fixed_roles
from iepile_cli.task.table import TASKS

TITLE = "Extraction results"

# Where the data goes; these stand in the rendered template once each, and in no data before it.
_DOCUMENTS = "\x00documents\x00"
_SUMMARY = "\x00summary\x00"


class Page(Form):
    """The ``html`` format: a form of results, as those in ``forms.py``."""

    def __init__(self, title: str = TITLE, options: SummaryOptions | None = None) -> None:
        self._title = one_line(title)
        self._summary = Summary(options)
        self._after = ("", "")
        self._tasks: dict[str, Any] = {}

    def begin(self, *, resumed: bool = False) -> bytes:
        """All that comes before the first document."""
        page = "".join(
            render(
                "results.html.jinja",
                styles=["page.css", "results.css"],
                scripts=["results.js"],
                title=self._title,
                documents=_DOCUMENTS,
                summary=_SUMMARY,
            )
        )
        head, _, rest = page.partition(_DOCUMENTS)
        between, _, end = rest.partition(_SUMMARY)
        self._after = (between, end)
        return f"{head}[".encode()

    def result(self, result: Result) -> bytes:
        """One document with its text."""
        return self.document(to_json(result), result.document.text)

    def document(self, result: dict[str, Any], text: str | None, remark: str = "") -> bytes:
        """One result, as ``iepile extract`` writes it, with its text, or why that is not there."""
        first = not self._summary.documents
        task = TASKS[result["task"]]
        self._tasks[task.name] = {
            "single": task.is_single,
            "fixed": fixed_roles(task.shape),
            "slots": task.slots,
        }
        kept = ("source", "line", "id", "task", "items", "truncated")
        shown = {key: result[key] for key in kept if key in result}
        shown |= {"text": text, "groups": self._summary.add(result)}
        if "id" in shown:
            shown["id"] = str(shown["id"])
        if remark:
            shown["remark"] = remark
        return f"{'' if first else ','}\n{json_text(shown)}".encode()

    def end(self) -> bytes:
        """The summary, and what makes the page work."""
        between, end = self._after
        entries, into = self._summary.merged()
        shown: list[dict[str, Any]] = []
        for number, entry in enumerate(entries):
            if number in into:
                shown.append({"same": into[number]})
                continue
            named = {"unit": entry.unit, "type": entry.type, "label": entry.label}
            shown.append(named | {"name": entry.name, "names": entry.others})
        summary = json_text({"entries": shown, "tasks": self._tasks})
        return f"\n]{between}{summary}{end}".encode()


def page_of(
    documents: Iterable[tuple[dict[str, Any], str | None, str]],
    *,
    title: str = TITLE,
    options: SummaryOptions | None = None,
) -> Iterable[bytes]:
    """The page in pieces: of results with their texts, or why these are not there."""
    page = Page(title, options)
    yield page.begin()
    for result, text, remark in documents:
        yield page.document(result, text, remark)
    yield page.end()

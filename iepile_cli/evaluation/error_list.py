"""Every error of an evaluation as JSON Lines: what is wrong, in which context, and how often."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from iepile_cli.evaluation.documents import Document
from iepile_cli.evaluation.outcomes import (
    CORRECT,
    MISSED,
    Outcome,
    label_of,
    mentions_of,
    outcomes,
    spans,
)

if TYPE_CHECKING:
    from iepile_cli.evaluation.run import Evaluation

# Characters of the text that are shown before and after a mention.
CONTEXT = 60


def error_lines(evaluation: Evaluation) -> Iterator[str]:
    """A line for each false positive and each false negative, the most frequent kinds first.

    Errors are of one kind when what is wrong, the labels and the mentions are the same; ``rank``
    numbers the kinds, ``times`` says how often each comes. Lines wait in a temporary file, so that
    any number of them takes little memory.
    """
    kinds: dict[tuple[Any, ...], int] = {}
    kind_of, starts = array("q"), array("q", [0])
    with tempfile.TemporaryFile() as waiting:
        for document in evaluation.wrong_documents():
            for error in _errors(document, outcomes(document, evaluation.options)):
                kind = (
                    error["error"],
                    error["label"],
                    error.get("gold_label"),
                    *error["mentions"],
                    error["unit"],
                    error["task"],
                )
                kind_of.append(kinds.setdefault(kind, len(kinds)))
                waiting.write(json.dumps(error).encode())
                starts.append(waiting.tell())
        yield from _ranked(waiting, kind_of, starts)


def _ranked(waiting: Any, kind_of: array[int], starts: array[int]) -> Iterator[str]:
    import numpy as np

    kinds = np.frombuffer(kind_of, dtype=np.int64)
    times = np.bincount(kinds) if len(kinds) else np.zeros(0, dtype=np.int64)
    rank = np.empty(len(times), dtype=np.int64)
    rank[np.argsort(-times, kind="stable")] = np.arange(1, len(times) + 1)
    for number in np.argsort(rank[kinds], kind="stable").tolist():
        waiting.seek(starts[number])
        error = json.loads(waiting.read(starts[number + 1] - starts[number]))
        kind = kind_of[number]
        error = {"rank": int(rank[kind]), "times": int(times[kind]), **error}
        yield json.dumps(error, ensure_ascii=False) + "\n"


def _errors(document: Document, entries: list[Outcome]) -> Iterator[dict[str, Any]]:
    task, source, name = document.key
    after: dict[tuple[str, str], int] = {}
    for entry in entries:
        side = "gold" if entry.kind == MISSED else "predicted"
        places = list(spans(document, entry.unit, entry.fact, after, side))
        if entry.kind == CORRECT:
            continue
        yield {
            "error": entry.kind,
            "task": task,
            "unit": document.reader.task.units[entry.unit].name,
            "label": label_of(document, entry.unit, entry.fact),
            **_gold(document, entry),
            "mentions": mentions_of(document, entry.unit, entry.fact),
            "spans": [list(place) if place else None for place in places],
            "context": _context(document.text, places),
            "source": source,
            "id": name,
        }


def _gold(document: Document, entry: Outcome) -> dict[str, Any]:
    if entry.other is None:
        return {}
    return {
        "gold_label": label_of(document, entry.unit, entry.other),
        "gold_mentions": mentions_of(document, entry.unit, entry.other),
    }


def _context(text: str | None, places: list[tuple[int, int] | None]) -> str:
    """The text around the mentions, cut at blanks; the beginning where none stands in it."""
    if text is None:
        return ""
    known = [place for place in places if place is not None]
    first = min((start for start, _ in known), default=0)
    last = max((end for _, end in known), default=first)
    start, end = max(0, first - CONTEXT), min(len(text), last + CONTEXT)
    if start:
        blank = text.find(" ", start, first)
        start = blank + 1 if blank >= 0 else start
    if end < len(text):
        blank = text.rfind(" ", last, end)
        end = blank if blank >= 0 else end
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"

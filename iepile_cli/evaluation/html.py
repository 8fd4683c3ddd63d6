"""The HTML report: one file that loads nothing, with no script in it.

What is shown is made ready here; how it looks are ``report.html.jinja`` and ``report.css`` in
``pages``. The filters are rules of the style sheet, made for the kinds and types of each report.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from iepile_cli.evaluation.outcomes import (
    BOUNDARY,
    CORRECT,
    MISSED,
    PARTIAL,
    SPURIOUS,
    WRONG_TYPE,
    Mark,
    Outcome,
    label_of,
    marks,
    mentions_of,
    outcomes,
)
from iepile_cli.evaluation.report import confusion_table, remarks, unshared_remarks
from iepile_cli.evaluation.scores import Score, TaskScores, UnitScores, macro
from iepile_cli.formatting import plural
from iepile_cli.pages import render as render_page

if TYPE_CHECKING:
    from iepile_cli.evaluation.documents import Document
    from iepile_cli.evaluation.run import Evaluation

TEMPLATE = "report.html.jinja"

# Bars and cells that are shown; the tables have the rest.
MAX_BARS = 60
MAX_MATRIX = 20
# Characters of a text, errors of a document, and characters of a broken answer that are shown.
MAX_TEXT = 6000
MAX_ERRORS = 200
MAX_BROKEN = 2000
_NAME_LENGTH = 26
# A difference to the baseline is shown in colour below this p.
SIGNIFICANT = 0.05

KINDS = (MISSED, SPURIOUS, WRONG_TYPE, BOUNDARY, PARTIAL)
# What kinds are called in the style sheet.
_CSS = {WRONG_TYPE: f"{MISSED} {SPURIOUS}"}
# Types and errors of a type that are shown; ``--errors`` has them all.
MAX_TYPES = 40
MAX_FREQUENT = 12
SHADES = 10


def render(evaluation: Evaluation, limit: int) -> Iterator[str]:
    """The report in pieces; at most ``limit`` documents with errors are shown."""
    confusions = _confusions(evaluation)
    groups = ErrorGroups()
    documents = [
        _document(document, evaluation, groups) for document in evaluation.wrong_documents(limit)
    ]
    for document in documents:
        document["classes"] = groups.classes(document["errors"])
    yield from render_page(
        TEMPLATE,
        styles=["page.css", "report.css"],
        more_style=groups.rules(),
        short=_short,
        name=evaluation.name,
        options=evaluation.options,
        remarks=list(remarks(evaluation, comparison=False)),
        baseline=_baseline(evaluation.comparison),
        tasks=[
            {
                "name": task,
                "units": [_unit(unit, scores) for unit in scores.units],
                "matrix": _matrix(confusions[task]) if task in confusions else None,
            }
            for task, scores in evaluation.scores.items()
        ],
        wrong=evaluation.wrong_count(),
        limit=limit,
        groups=groups.shown(),
        documents=documents,
        plural=plural,
    )


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


def _unit(unit: UnitScores, scores: TaskScores) -> dict[str, Any]:
    frequent = sorted(unit.types.items(), key=lambda pair: (-pair[1].gold, pair[0]))
    return {
        "name": unit.name,
        "summary": [_row(name, score) for name, score in _summary(unit, scores)],
        "bars": [(kind, score) for kind, score in frequent[:MAX_BARS]],
        "types": [_row(kind, score) for kind, score in frequent],
    }


def _summary(unit: UnitScores, scores: TaskScores) -> Iterator[tuple[str, Score | dict[str, Any]]]:
    yield "all (micro)", unit.micro
    yield "mean of types (macro)", unit.macro
    if len(scores.source_documents) > 1:
        for source, score in sorted(unit.sources.items()):
            yield source or "(no source)", score
            yield "— mean of its types", macro(unit.source_types.get(source, {}))


def _row(name: str, score: Score | dict[str, Any]) -> dict[str, Any]:
    as_json: dict[str, Any] = score.as_json() if isinstance(score, Score) else score
    return {
        "name": name,
        "shares": [as_json[key] for key in ("P", "R", "F1")],
        "interval": as_json.get("interval_95", {}).get("F1"),
        "counts": [as_json.get(key) for key in ("gold", "predicted", "correct", "hallucinated")],
    }


# ---------------------------------------------------------------------------------- confusions


def _confusions(evaluation: Evaluation) -> dict[str, dict[str, dict[str, int]]]:
    """For each task, gold type -> predicted type -> times; "" is nothing."""
    total: dict[str, dict[str, dict[str, int]]] = {}
    for (task, _), of_gold in confusion_table(evaluation.counts).items():
        for gold, predicted in of_gold.items():
            into = total.setdefault(task, {}).setdefault(gold, {})
            for kind, count in predicted.items():
                into[kind] = into.get(kind, 0) + count
    return total


def _matrix(times: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Gold types down, predicted types across; shades tell the share of all in the matrix."""
    totals = {gold: sum(of_gold.values()) for gold, of_gold in times.items() if gold}
    kinds = sorted(totals, key=lambda kind: (-totals[kind], kind))
    # Types that are predicted and never gold, whether where something else is gold or nothing.
    others: dict[str, int] = {}
    for of_gold in times.values():
        for kind, count in of_gold.items():
            if kind and kind not in totals:
                others[kind] = others.get(kind, 0) + count
    kinds += sorted(others, key=lambda kind: (-others[kind], kind))
    shown = kinds[:MAX_MATRIX]
    total = sum(count for of_gold in times.values() for count in of_gold.values())
    rows = []
    for gold in [*shown, ""]:
        of_gold = times.get(gold, {})
        cells = [
            {
                "count": count,
                "shade": shade(count, total),
                "title": f"{gold or 'nothing'} → {kind or 'nothing'}: {count / total:.1%} of all",
                "right": bool(gold) and kind == gold,
            }
            for kind in [*shown, ""]
            for count in [of_gold.get(kind, 0)]
        ]
        rows.append({"name": gold or "spurious", "cells": cells})
    return {
        "kinds": [*shown, "missed"],
        "rows": rows,
        "hidden": len(kinds) - len(shown),
        "total": total,
    }


# ------------------------------------------------------------------------------------ baseline


def _baseline(comparison: dict[str, Any]) -> dict[str, Any] | None:
    """The comparison as a table; differences that are unlikely to be chance are told apart."""
    if not comparison:
        return None
    rows = []
    for task, part in comparison["tasks"].items():
        for unit, result in part["units"].items():
            better = "better" if result["difference"] > 0 else "worse"
            verdict = better if result["p"] < SIGNIFICANT else ""
            rows.append({"name": f"{task} {unit}", "verdict": verdict, **part, **result})
    return {
        "name": comparison["predictions"],
        "rows": rows,
        "remarks": list(unshared_remarks(comparison)),
    }


# ----------------------------------------------------------------------------------- documents


def _document(document: Document, evaluation: Evaluation, groups: ErrorGroups) -> dict[str, Any]:
    entries = outcomes(document, evaluation.options)
    wrong = [entry for entry in entries if entry.kind != CORRECT]
    task, source, name = document.key
    return {
        "name": " · ".join(part for part in (task, source, name[:16]) if part),
        "pieces": _pieces(document.text, marks(document, entries)) if document.text else [],
        "errors": [_error(document, entry, groups) for entry in wrong[:MAX_ERRORS]],
        "broken": [answer[:MAX_BROKEN] for answer in document.broken],
    }


def _error(document: Document, entry: Outcome, groups: ErrorGroups) -> dict[str, Any]:
    """One line of the list of errors; it says what is right where that is near."""
    mentions = [one for one in mentions_of(document, entry.unit, entry.fact) if one]
    label, right, labels = label_of(document, entry.unit, entry.fact), "", []
    if entry.other is not None and entry.kind == WRONG_TYPE:
        right = label_of(document, entry.unit, entry.other)
        labels = [right]
    elif entry.other is not None and entry.kind == BOUNDARY:
        right = " → ".join(filter(None, mentions_of(document, entry.unit, entry.other)))
    shown = " → ".join(mentions)
    said = f"{shown} ({label})" if entry.kind == WRONG_TYPE else shown
    said = f"{shown}, should be {right}" if entry.kind == BOUNDARY else said
    return {
        "kind": entry.kind,
        "label": label,
        "classes": groups.add(entry.kind, labels or [label], said),
        "mentions": shown,
        "right": right,
        "absent": bool(document.text) and any(one not in (document.text or "") for one in mentions),
    }


def _pieces(text: str, found: list[Mark]) -> list[dict[str, Any]]:
    """The text cut where marks begin and end; marks may overlap.

    Each piece has the kinds of its marks, a title, and the labels to show after it: of wrong
    mentions, where they end. Right ones have theirs in the title only.
    """
    errors = [mark.start for mark in found if mark.kind != CORRECT]
    first = 0
    if len(text) > MAX_TEXT and errors:
        first = max(0, min(errors) - 300)
    last = min(len(text), first + MAX_TEXT)
    found = sorted({m for m in found if m.end > first and m.start < last})[:MAX_ERRORS]
    bounds = sorted(
        {first, last, *(min(max(place, first), last) for m in found for place in (m.start, m.end))}
    )
    pieces = [_piece("… ", [], -1)] if first else []
    for start, end in pairwise(bounds):
        here = [mark for mark in found if mark.start <= start and mark.end >= end]
        pieces.append(_piece(text[start:end], here, end))
    return [*pieces, *([_piece(" …", [], -1)] if last < len(text) else [])]


def _piece(text: str, here: Iterable[Mark], end: int) -> dict[str, Any]:
    here = list(here)
    ending = dict.fromkeys((mark.kind, mark.label) for mark in here if mark.end == end)
    return {
        "text": text,
        "kinds": " ".join(sorted({mark.kind for mark in here})),
        "title": "; ".join(f"{mark.kind}: {mark.label}" for mark in here),
        "labels": [(kind, label) for kind, label in ending if kind != CORRECT],
    }


# ------------------------------------------------------------------------- errors by type and kind


class ErrorGroups:
    """Counts errors by their kind and type.

    Each error and each document gets classes: of its kinds (``k0``), its types (``t0``), and of
    the two together (``k0t0``), by which ``rules`` hide it when another is chosen.
    """

    def __init__(self) -> None:
        self._types: dict[str, int] = {}
        self._times: Counter[tuple[str, str]] = Counter()
        self._of_type: Counter[str] = Counter()
        self._of_kind: Counter[str] = Counter()
        self._mentions: dict[str, Counter[tuple[str, str]]] = {}

    def add(self, kind: str, labels: Iterable[str], mentions: str) -> str:
        """Count an error under its types; gives its classes."""
        number = KINDS.index(kind)
        classes = [_CSS.get(kind, kind), f"k{number}"]
        for label in labels:
            place = self._types.setdefault(label, len(self._types))
            self._times[label, kind] += 1
            self._of_type[label] += 1
            self._of_kind[kind] += 1
            self._mentions.setdefault(label, Counter())[kind, mentions] += 1
            classes += [f"t{place}", f"k{number}t{place}"]
        return " ".join(classes)

    def classes(self, errors: Iterable[dict[str, Any]]) -> str:
        """The classes of a document with these errors."""
        names = {name: None for error in errors for name in error["classes"].split()}
        groups = (name for name in names if name[0] in "kt" and name[1].isdigit())
        return " ".join(("document", *groups))

    def rules(self) -> str:
        """The rules that show what is chosen and hide the rest."""
        kinds = [f"k{KINDS.index(kind)}" for kind in self._kinds()]
        types = [f"t{self._types[label]}" for label in self._frequent_types()]
        made = []
        for name in (*kinds, *types):
            chosen = f"body:has(#{name}:checked)"
            made.append(f"{chosen} .document:not(.{name}),{chosen} article>ul>li:not(.{name})")
        for kind in kinds:
            made += [
                f"body:has(#{kind}:checked):has(#{one}:checked) .document:not(.{kind}{one})"
                for one in types
            ]
        return "\n".join(f"{rule}{{display:none}}" for rule in made)

    def shown(self) -> dict[str, Any]:
        """What the template shows: a row for each type, and the two filters."""
        kinds, types = self._kinds(), self._frequent_types()
        total = sum(self._of_kind.values())
        by_kind = [(kind, f"k{KINDS.index(kind)}", self._of_kind[kind]) for kind in kinds]
        by_type = [(one, f"t{self._types[one]}", self._of_type[one]) for one in types]
        rows = [
            (one, [self._times[one, kind] for kind in kinds], self._frequent(one)) for one in types
        ]
        rows.insert(0, ("all", [count for *_, count in by_kind], []))
        return {
            "kinds": kinds,
            "rows": [
                {"name": name, "cells": _cells([*counts, sum(counts)], total), "frequent": frequent}
                for name, counts, frequent in rows
            ],
            "hidden": len(self._types) - len(types),
            "filters": [
                {"name": name, "choices": [("all", name, total), *choices]}
                for name, choices in (("kind", by_kind), ("type", by_type))
            ],
        }

    def _kinds(self) -> list[str]:
        return [kind for kind in KINDS if self._of_kind[kind]]

    def _frequent_types(self) -> list[str]:
        return sorted(self._types, key=lambda one: (-self._of_type[one], one))[:MAX_TYPES]

    def _frequent(self, label: str) -> list[dict[str, Any]]:
        return [
            {"kind": kind, "css": _CSS.get(kind, kind), "mentions": said, "times": times}
            for (kind, said), times in self._mentions[label].most_common(MAX_FREQUENT)
        ]


def _cells(counts: list[int], total: int) -> list[dict[str, int]]:
    return [{"count": count, "shade": shade(count, total)} for count in counts]


def shade(count: int, total: int) -> int:
    """A shade from 1 to ``SHADES`` for a share of the whole, by its square root; 0 for nothing."""
    return math.ceil(SHADES * math.sqrt(count / total)) if count else 0

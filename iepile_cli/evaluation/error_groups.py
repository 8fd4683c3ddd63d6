"""Errors grouped by type and kind, and the filters of the report that follow from the groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from iepile_cli.evaluation.outcomes import BOUNDARY, MISSED, PARTIAL, SPURIOUS, WRONG_TYPE

KINDS = (MISSED, SPURIOUS, WRONG_TYPE, BOUNDARY, PARTIAL)
# What kinds are called in the style sheet.
_CSS = {WRONG_TYPE: f"{MISSED} {SPURIOUS}"}
# Types and errors of a type that are shown; more help nobody, and ``--errors`` has them all.
MAX_TYPES = 40
MAX_FREQUENT = 12
SHADES = 10


def shade(count: int, total: int) -> int:
    """A shade from 1 to ``SHADES`` for a share of the whole, by its square root; 0 for nothing."""
    return math.ceil(SHADES * math.sqrt(count / total)) if count else 0


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

"""How many cases were tried: what the table of docs/reliability.md is filled from."""

from __future__ import annotations

from collections import Counter

cases: Counter[str] = Counter()
measured: dict[str, str] = {}


def count(what: str, number: int = 1) -> None:
    """Count cases that held."""
    cases[what] += number


def measure(what: str, figure: str) -> None:
    """Keep a measured figure."""
    measured[what] = figure

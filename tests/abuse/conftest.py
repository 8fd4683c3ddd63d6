"""Attacks on the program. A small share is part of the default suite; the rest is marked abuse."""

from __future__ import annotations

from typing import Any

from abuse.counting import cases, measured


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show how many cases of each kind held, as Markdown."""
    if not cases and not measured:
        return
    terminalreporter.section("abuse")
    for what, number in sorted(cases.items()):
        terminalreporter.write_line(f"| {what} | {number:,} |")
    for what, figure in sorted(measured.items()):
        terminalreporter.write_line(f"| {what} | {figure} |")

"""What people see: messages and progress on stderr. Data goes to stdout and never through here."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Voice:
    """How much is said on stderr: ``quiet`` keeps errors only, ``verbose`` adds details."""

    quiet = False
    verbose = False


def stderr() -> Console:
    """A rich console on stderr; it honours ``NO_COLOR`` and the terminal's width."""
    from rich.console import Console

    return Console(stderr=True, quiet=Voice.quiet, highlight=False, soft_wrap=True)


def note(message: str) -> None:
    """Say something on stderr, unless ``--quiet``."""
    if not Voice.quiet:
        sys.stderr.write(f"{message}\n")


def detail(message: str) -> None:
    """Say something on stderr, only with ``--verbose``."""
    if Voice.verbose and not Voice.quiet:
        sys.stderr.write(f"{message}\n")


def complain(message: str, hint: str = "") -> None:
    """Say what went wrong on stderr, in one line, even with ``--quiet``."""
    line = " ".join(message.split())
    sys.stderr.write(f"iepile: {line}{f' ({hint})' if hint else ''}\n")


def may_ask() -> bool:
    """Whether a person is there to answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty() and not Voice.quiet


def progress(*columns: object) -> Progress:
    """A rich progress view on stderr, shown only when stderr is a terminal and not ``--quiet``."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr()
    shown = columns or (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeRemainingColumn(compact=True),
    )
    visible = console.is_terminal and not Voice.quiet and os.environ.get("TERM") != "dumb"
    return Progress(*shown, console=console, disable=not visible, transient=True)  # type: ignore[arg-type]

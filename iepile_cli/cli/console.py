"""What people see: messages, errors and progress on stderr, and tables.

Data goes to stdout and never through here, tables excepted. Nothing of a file's name, a server's
answer or a text reaches the terminal as it is: see ``formatting.safe``.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal

from iepile_cli.errors import IEPileError
from iepile_cli.formatting import one_line, safe, table_lines

# ---------------------------------------------------------------------------------- messages


class Verbosity:
    """How much goes to stderr: ``quiet`` keeps errors only, ``verbose`` adds details."""

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = False


verbosity = Verbosity()


def note(message: str) -> None:
    """Write a line on stderr, unless ``--quiet``."""
    if not verbosity.quiet:
        sys.stderr.write(f"{safe(message)}\n")


def detail(message: str) -> None:
    """Write a line on stderr, only with ``--verbose``."""
    if verbosity.verbose and not verbosity.quiet:
        sys.stderr.write(f"{safe(message)}\n")


def print_error(message: str, hint: str = "") -> None:
    """Write on stderr what went wrong and the way out, in one line, even with ``--quiet``."""
    line = " ".join(message.split()) + (f" ({' '.join(hint.split())})" if hint else "")
    sys.stderr.write(f"iepile: {one_line(line)}\n")


class Failures(list[IEPileError]):
    """What failed of a run that goes on, each shown as it happens."""

    def add(self, error: IEPileError) -> None:
        """Show an error and keep it."""
        self.append(error)
        print_error(error.message, error.hint)


def may_ask() -> bool:
    """Whether there is a person to answer a question."""
    streams = (sys.stdin, sys.stderr)
    return not verbosity.quiet and all(stream is not None and stream.isatty() for stream in streams)


# ------------------------------------------------------------------------------------ tables


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Collection[str] = (),
    optional: Sequence[str] = (),
    to: Literal["stdout", "stderr"] = "stdout",
    piped_header: bool = False,
) -> None:
    """Write a table: aligned for people, tab-separated when stdout is piped.

    Columns named in ``right`` are aligned to the right; those in ``optional`` are left out, the
    last first, where the terminal is too narrow. Cells may be ``formatting.Styled``. Piped, the
    header is written only with ``piped_header``. What goes to stderr is always aligned, and not
    written with ``--quiet``.
    """
    stream = getattr(sys, to)
    if to == "stderr" and verbosity.quiet:
        return
    if to == "stdout" and not stream.isatty():
        for row in chain([header] if piped_header else [], rows):
            put("\t".join(one_line(" ".join(cell.split())) for cell in row) + "\n")
        return
    lines = table_lines(
        header, list(rows), width(), right=right, optional=optional, colour=_has_colours(stream)
    )
    for line in lines:
        put(f"{line}\n", stream)


def put(text: str, stream: Any = None) -> None:
    """Write a text; characters that the stream's encoding lacks are escaped."""
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def width() -> int:
    """Columns of the terminal; ``COLUMNS`` overrides it, and without a terminal it is 80."""
    return shutil.get_terminal_size().columns


def _has_colours(stream: Any) -> bool:
    return (
        stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
        and (sys.platform != "win32" or "WT_SESSION" in os.environ)
    )


# ---------------------------------------------------------------------------------- progress


class Bar:
    """One row of a ``Progress``; it does nothing where progress is not shown."""

    def __init__(self, view: Any = None, row: Any = None) -> None:
        self._view, self._row = view, row

    def advance(self, count: float = 1) -> None:
        """Add to what is done."""
        if self._view is not None:
            self._view.advance(self._row, count)

    def update(
        self, text: str | None = None, *, done: float | None = None, total: float | None = None
    ) -> None:
        """Change what is given: the text, what is done in all, and the total."""
        if self._view is not None:
            shown = None if text is None else one_line(text)
            self._view.update(self._row, description=shown, completed=done, total=total)


class Progress:
    """Progress bars on stderr while inside; only on a terminal and without ``--quiet``.

    ``counts`` says what is written beside a bar: nothing, ``done/total``, or bytes with speed.
    """

    def __init__(self, counts: Literal["none", "items", "bytes"] = "none") -> None:
        self._counts = counts
        self._view: Any = None
        self.visible = (
            sys.stderr.isatty() and not verbosity.quiet and os.environ.get("TERM") != "dumb"
        )

    def __enter__(self) -> Progress:
        if self.visible:
            from rich.console import Console
            from rich.progress import Progress as View

            screen = Console(stderr=True, highlight=False)
            columns = _columns(self._counts, screen.width)
            self._view = View(*columns, console=screen, transient=True)
            self._view.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._view is not None:
            self._view.stop()

    def bar(self, text: str, total: float | None = None) -> Bar:
        """Add a bar; without ``total`` it only shows that something is under way."""
        if self._view is None:
            return Bar()
        return Bar(self._view, self._view.add_task(one_line(text), total=total))

    def note(self, message: str) -> None:
        """Write a line above the bars, unless ``--quiet``."""
        if self._view is None:
            note(message)
        else:
            self._view.console.print(safe(message), markup=False, soft_wrap=True)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bars off the terminal while results are written to the same one."""
        if not sys.stdout.isatty():
            yield
            return
        with self.hidden():
            yield

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bars off the terminal while something else is shown there."""
        if self._view is not None:
            self._view.stop()
        try:
            yield
        finally:
            if self._view is not None:
                self._view.start()


def _columns(counts: str, width: int) -> list[Any]:
    from rich import progress
    from rich.table import Column

    whole = Column(no_wrap=True)
    text = progress.TextColumn(
        "{task.description}",
        markup=False,
        table_column=Column(no_wrap=True, overflow="ellipsis"),
    )
    columns: list[Any] = [progress.SpinnerColumn(), text]
    if width >= 60:
        columns.append(progress.BarColumn(bar_width=20))
    if counts == "bytes":
        columns.append(progress.DownloadColumn(table_column=whole))
        columns += [progress.TransferSpeedColumn(table_column=whole)] if width >= 80 else []
    elif counts == "items":
        columns.append(progress.MofNCompleteColumn(table_column=whole))
    return [*columns, progress.TimeRemainingColumn(compact=True, table_column=whole)]

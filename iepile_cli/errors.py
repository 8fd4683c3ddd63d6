"""The errors that a user may see: one line each, with a way out and an exit code.

Tree (exit code in brackets)::

    IEPileError              [1]
    ├── UsageError           [2]  a wrong flag, schema or combination
    ├── UnknownName          [2]  a name that the registry does not hold
    ├── DataError            [1]  a file or record that cannot be used; names path and line
    │   └── NoSuchFile       [2]  an input that is not there
    ├── ModelError           [1]  a model, adapter or backend that cannot be opened or run
    │   └── NoAnswer         [1]  a text that a model gave no answer to; names source and line
    ├── DownloadError        [1]  a hub or file that cannot be fetched
    └── PartialFailure       [3]  some inputs failed and the rest was written

Library code raises these and never prints; ``iepile_cli.cli.app.run`` turns them into a line on
stderr and an exit code. Anything else that escapes is a bug; its traceback is shown with ``-v``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias


class IEPileError(Exception):
    """An error with a message for the user, a hint that names the way out, and an exit code."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(IEPileError):
    """The command line, a schema or a configuration asks for something that cannot be."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is not in the registry; the hint holds the nearest names."""


class DataError(IEPileError):
    """A file or a record that cannot be used.

    ``path`` and ``line`` (counted from 1) say where; both stand in the message.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        line: int | None = None,
        hint: str = "",
    ) -> None:
        self.path = None if path is None else os.fspath(path)
        self.line = line
        where = "" if self.path is None else self.path + (f":{line}" if line else "") + ": "
        super().__init__(where + message, hint=hint)
        self.reason = message

    def at(self, path: str | os.PathLike[str], line: int | None = None) -> DataError:
        """The same error, with the place that was not known where it was raised."""
        return DataError(self.reason, path=path, line=line or self.line, hint=self.hint)


class NoSuchFile(DataError):
    """An input that is not there: like a wrong flag, nothing was tried."""

    exit_code = 2

    def __init__(self, path: str | os.PathLike[str], *, hint: str = "") -> None:
        super().__init__("no such file or folder", path=path, hint=hint)


class ModelError(IEPileError):
    """A model, adapter, tokenizer or backend that cannot be opened or run."""


class NoAnswer(ModelError):
    """A text that the model could not answer; ``path`` is its source."""

    def __init__(self, reason: str, *, path: str, line: int | None = None) -> None:
        super().__init__(path + (f":{line}" if line else "") + f": no answer: {reason}")
        self.path, self.line, self.reason = path, line, f"no answer: {reason}"


class DownloadError(IEPileError):
    """Something that cannot be fetched or whose content is not what was promised."""


class PartialFailure(IEPileError):
    """Some inputs failed; what could be computed has been written."""

    exit_code = 3


# Told of an input that cannot be used, while the others go on.
OnError: TypeAlias = Callable[[IEPileError], None]


def raise_error(error: IEPileError) -> None:
    """The ``on_error`` of a caller that gives none."""
    raise error


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, without control characters."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def install_hint(extra: str) -> str:
    """How to install an extra of this program, in a line; it is not on a package index yet."""
    from iepile_cli.installation import install_lines, is_source_known

    where = "" if is_source_known() else "in the program's source folder: "
    *others, last = install_lines(extra).values()
    return f"{where}{', '.join(others)} or {last}"

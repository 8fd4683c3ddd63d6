"""Where results go: a file or standard output, written as they are produced, and resumed.

Each document's result is flushed, so that whatever ends a run, what it computed is there. A file
that was not there is written in place. One that was there is left alone until the run is done: the
new results grow in ``FILE.part`` beside it, which then takes its place. ``FILE.run`` tells what the
results of a file were made with (schema, task, model, template), so that resuming with something
else is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from iepile_cli.errors import DataError, IEPileError, UsageError
from iepile_cli.extraction.forms import (
    FOLDER,
    FORMATS,
    RESUMABLE,
    Form,
    Lines,
    form_of,
    record_line,
)
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.results import Result
from iepile_cli.extraction.resuming import (
    SETTINGS,
    LineKey,
    read_keys,
    read_settings,
    record_key,
    result_key,
)
from iepile_cli.extraction.summary import SummaryOptions
from iepile_cli.files import COMPRESSED_SUFFIXES
from iepile_cli.task import Task
from iepile_cli.writing import is_device, lock, naming_what_is_full, open_alone, write_atomic

if TYPE_CHECKING:
    from iepile_cli.extraction.tool_forms import FolderWriter

PART = ".part"
_SUFFIXES = {
    "": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".html": "html",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".conll": "conll",
    ".graphml": "graphml",
    ".cypher": "cypher",
    ".ttl": "turtle",
}

_SETTING_NAMES = {"types": "schema", "adapters": "adapter"}

# Where results are written to.
ResultWriter: TypeAlias = "Writer | FolderWriter"


def format_for(target: str | None, *, records: bool = False) -> str:
    """The format that a file's suffix names; on standard output a table for a terminal, else jsonl.

    Raises ``UsageError`` for a suffix that names none; ``records`` have JSON Lines alone.
    """
    if target is None or target == "-":
        return "table" if sys.stdout.isatty() and not records else "jsonl"
    if is_device(target):
        return "jsonl"
    suffix = os.path.splitext(target)[1].lower()
    if suffix in COMPRESSED_SUFFIXES:
        # Opening the writer says why not.
        return "jsonl"
    named = _SUFFIXES.get(suffix)
    if named is None or (records and named not in RESUMABLE):
        known = "jsonl" if records else ", ".join(FORMATS)
        hint = "name it .jsonl" if records else f"name it with --format: {known}"
        raise UsageError(f"{target}: {suffix} is no output format", hint=hint)
    return named


class Writer:
    """Writes results to a file or to standard output; a context manager.

    ``path`` is where the results now are. ``done`` says which documents an earlier run, which this
    one resumes, has already written; ``key_of`` finds their keys in its lines.
    """

    def __init__(
        self,
        form: Form,
        target: str | None,
        *,
        resume: bool,
        key_of: LineKey,
        resumable: bool,
        settings: Mapping[str, Any] | None = None,
        header: bool = True,
    ) -> None:
        self._form, self._key_of, self._resumable = form, key_of, resumable
        self._name = target
        self._finished: Collection[Hashable] = ()
        # The open file, and the one that it is going to replace: no other run writes to either.
        self._open_files = contextlib.ExitStack()
        self._settings: dict[str, Any] = {}
        self._new = False
        self.written = 0
        # A symbolic link stays one: what it leads to is written and replaced.
        self._target = target if target is None or is_device(target) else os.path.realpath(target)
        self.path: str | None = self._target
        if self._target is None:
            self._stream: IO[bytes] = sys.stdout.buffer
            self._put(form.begin(resumed=not header))
            return
        try:
            resumed = self._open(self._target, resume, settings or {})
        except IEPileError:
            self._open_files.close()
            raise
        except OSError as error:
            self._open_files.close()
            raise DataError(f"cannot be written: {error.strerror}", path=target) from None
        try:
            self._put(form.begin(resumed=resumed or not header))
        except DataError:
            self._close()
            raise
        self._note(settings or {})

    def _open(self, target: str, resume: bool, settings: Mapping[str, Any]) -> bool:
        """Open the file to write to; gives whether there are results in it already."""
        part = target + PART
        if resume:
            self.path = part if os.path.exists(part) else target
            if os.path.exists(self.path):
                self._begin(target, keep=True)
                self._finished, kept = read_keys(self.path, self._key_of)
                self._settings = read_settings(self.path)
                self._compare(settings)
                self._stream.truncate(kept)
                self._stream.seek(kept)
                return kept > 0
        elif os.path.isfile(part) and os.path.getsize(part):
            raise UsageError(
                f"{part} holds results of an interrupted run",
                hint="--resume goes on with them; to begin again, remove it"
                if self._resumable
                else "to begin again, move or remove it",
            )
        # A device or a pipe (/dev/null, >(...)) is written to as it is.
        elif os.path.isfile(target) and os.path.getsize(target):
            self.path = part
        self._new = True
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        self._begin(target)
        return False

    def _begin(self, target: str, *, keep: bool = False) -> None:
        """Open the file to write to; raises ``UsageError`` where another run writes to it."""
        if self.path != target and os.path.isfile(target):
            lock(self._open_files.enter_context(open(target, "rb")), target)  # noqa: SIM115
        self._stream = self._open_files.enter_context(open_alone(self.path or target, keep=keep))

    def check(self, **settings: Any) -> None:
        """Note what the results are made with, and compare it with the run that is resumed.

        Raises ``UsageError`` naming the first that differs. What no earlier run tells is taken on
        trust.
        """
        self._compare(settings)
        self._note(settings)

    def _compare(self, settings: Mapping[str, Any]) -> None:
        for name, value in settings.items():
            before = self._settings.get(name, value)
            if self._finished and before != value:
                raise UsageError(
                    f"{self._name} was written with another {_SETTING_NAMES.get(name, name)}: "
                    f"{_shown(before)}, not {_shown(value)}",
                    hint="resume with the same, or name another -o",
                )

    def _note(self, settings: Mapping[str, Any]) -> None:
        self._settings |= settings
        if not settings:
            return
        if self._resumable and self.path is not None and not is_device(self.path):
            # Results are worth more than the note: one that cannot be written stops nothing.
            with contextlib.suppress(DataError, OSError):
                write_atomic(
                    self.path + SETTINGS, json.dumps(self._settings, ensure_ascii=False) + "\n"
                )

    def done(self, document: Document) -> bool:
        """Whether the document's result is there already, from the run that this one resumes."""
        return document.key in self._finished

    @property
    def resumed(self) -> int:
        """How many documents were there already."""
        return len(self._finished)

    @property
    def notes(self) -> Sequence[str]:
        """What the format could not hold, in a line."""
        left_out = self._form.left_out
        return left_out.notes if left_out else ()

    def write(self, result: Result) -> None:
        """Write one result, whole or not at all.

        Raises ``BrokenPipeError`` when nobody reads any more, and ``DataError`` for a full disk.
        """
        self._put(self._form.result(result))
        self.written += 1

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            with naming_what_is_full(self._name or "stdout"):
                # A file is not buffered, and takes what it has room for.
                while left:
                    left = left[self._stream.write(left) :]
                self._stream.flush()
        except DataError:
            if self.path is not None and os.path.isfile(self.path):
                # A part of a result is none.
                self._stream.seek(len(left) - len(data), os.SEEK_CUR)
                self._stream.truncate()
            raise

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._open_files.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._put(self._form.end())
            self._open_files.close()
            if self._target is not None and self.path is not None and self.path != self._target:
                os.replace(self.path, self._target)
                with contextlib.suppress(OSError):
                    os.replace(self.path + SETTINGS, self._target + SETTINGS)
                self.path = self._target
            return
        if not issubclass(kind, BrokenPipeError):
            # Interrupted or failed: what there is becomes valid, and stays where it is. Where there
            # is no room for its end, the error that led here is the one to show.
            with contextlib.suppress(DataError):
                self._put(self._form.end())
        self._close()
        unused = self._new and not self.written and not issubclass(kind, BrokenPipeError)
        if unused and self.path and os.path.isfile(self.path):
            os.remove(self.path)
            with contextlib.suppress(OSError):
                os.remove(self.path + SETTINGS)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def open_writer(
    format_: str,
    target: str | None = None,
    *,
    task: Task | None = None,
    resume: bool = False,
    bom: bool = False,
    counting: SummaryOptions | None = None,
    settings: Mapping[str, Any] | None = None,
    header: bool = True,
) -> ResultWriter:
    """A writer of the named format to a file, or to standard output for None and ``-``.

    With ``resume``, results that the file (or its ``.part``) holds stay, a half last one is taken
    off, and ``writer.done`` names their documents; ``settings`` are as for ``Writer.check``,
    ``counting`` as for ``form_of``. Without ``header``, CSV has no names of its columns. Raises
    ``UsageError`` for what cannot be, and ``DataError`` for a file that cannot be written or
    resumed.
    """
    resumable = format_ in RESUMABLE
    if resume and not resumable:
        raise UsageError(f"{format_} cannot be resumed", hint=f"formats: {', '.join(RESUMABLE)}")
    if format_ == FOLDER:
        from iepile_cli.extraction.tool_forms import FolderWriter

        if target is None or target == "-" or is_device(target) or os.path.isfile(target):
            raise UsageError(f"{format_} is a folder of files", hint="name a new folder with -o")
        return FolderWriter(target, format_)
    target = _destination(target, resume=resume)
    form = form_of(format_, task, on_stdout=target is None, bom=bom, counting=counting)
    return Writer(
        form,
        target,
        resume=resume,
        key_of=result_key,
        resumable=resumable,
        settings=settings,
        header=header,
    )


def open_record_writer(
    target: str | None = None, *, resume: bool = False, settings: Mapping[str, Any] | None = None
) -> Writer:
    """A writer of instruction records with their answers; as ``open_writer`` otherwise."""
    return Writer(
        Lines(record_line),
        _destination(target, resume=resume),
        resume=resume,
        key_of=record_key(),
        resumable=True,
        settings=settings,
    )


def _destination(target: str | None, *, resume: bool) -> str | None:
    """The file to write to, None for standard output; raises ``UsageError`` for what cannot be."""
    target = None if target == "-" else target
    if resume and target is None:
        raise UsageError("only a file can be resumed", hint="name it with -o")
    if target is not None and os.path.isdir(target):
        raise UsageError(f"{target} is a folder, not a file to write to")
    if target is not None and target.lower().endswith(COMPRESSED_SUFFIXES):
        raise UsageError(
            f"{target}: results are not written compressed", hint="leave -o out and pipe into gzip"
        )
    return target

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
from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeAlias

from iepile_cli.errors import DataError, UsageError
from iepile_cli.extraction.forms import FORMATS, RESUMABLE, Form, InstructionLines, form_of
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.instructions import RecordNumbering
from iepile_cli.extraction.results import Result
from iepile_cli.files import COMPRESSED_SUFFIXES, is_device, naming_what_is_full, write_atomic
from iepile_cli.task import Task

PART = ".part"
SETTINGS = ".run"
_SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", "": "jsonl"}

_SETTING_NAMES = {"types": "schema", "adapters": "adapter"}

# Gives the key of an output's line, or None for a line that is none of ours; called in order.
LineKey: TypeAlias = Callable[[bytes], Hashable | None]


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
    if named is None or (records and named == "csv"):
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
    ) -> None:
        self._form, self._key_of, self._resumable = form, key_of, resumable
        self._name = target
        self._finished: Collection[Hashable] = ()
        self._settings: dict[str, Any] = {}
        self._new = False
        self.written = 0
        # A symbolic link stays one: what it leads to is written and replaced.
        self._target = target if target is None or is_device(target) else os.path.realpath(target)
        self.path: str | None = self._target
        if self._target is None:
            self._stream: BinaryIO = sys.stdout.buffer
            self._put(form.begin(resumed=False))
            return
        try:
            resumed = self._open(self._target, resume, settings or {})
        except OSError as error:
            raise DataError(f"cannot be written: {error.strerror}", path=target) from None
        try:
            self._put(form.begin(resumed=resumed))
        except DataError:
            self._abandon()
            raise
        self._note(settings or {})

    def _open(self, target: str, resume: bool, settings: Mapping[str, Any]) -> bool:
        """Open the file to write to; gives whether there are results in it already."""
        part = target + PART
        if resume:
            self.path = part if os.path.exists(part) else target
            if os.path.exists(self.path):
                self._finished, kept = read_keys(self.path, self._key_of)
                self._settings = _read_settings(self.path)
                self._compare(settings)
                self._stream = open(self.path, "r+b", buffering=0)  # noqa: SIM115
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
        self._stream = open(self.path or target, "wb", buffering=0)  # noqa: SIM115
        return False

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

    def close(self) -> None:
        """End the output and put it in its place."""
        self._end()
        if self._target is not None and self.path is not None and self.path != self._target:
            os.replace(self.path, self._target)
            with contextlib.suppress(OSError):
                os.replace(self.path + SETTINGS, self._target + SETTINGS)
            self.path = self._target

    def _end(self) -> None:
        self._put(self._form.end())
        if self._target is not None:
            self._stream.close()

    def _abandon(self) -> None:
        if self._target is not None:
            with contextlib.suppress(OSError):
                self._stream.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif issubclass(kind, BrokenPipeError):
            self._abandon()
        else:
            # Interrupted or failed: what there is becomes valid, and stays where it is.
            try:
                self._end()
            except DataError:
                # No room for its end: the error that led here is the one to show.
                self._abandon()
            if self._new and not self.written and self.path and os.path.isfile(self.path):
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
    settings: Mapping[str, Any] | None = None,
    header: bool = True,
) -> Writer:
    """A writer of the named format to a file, or to standard output for None and ``-``.

    Without ``header``, CSV has no row with the names of its columns.

    With ``resume``, results that the file (or its ``.part``) holds stay, a half last one is taken
    off, and ``writer.done`` names their documents; ``settings`` are as for ``Writer.check``. Raises
    ``UsageError`` for what cannot be, and ``DataError`` for a file that cannot be written or
    resumed.
    """
    target = _destination(target, resume=resume)
    form = form_of(format_, task, on_stdout=target is None, bom=bom, header=header)
    resumable = format_ in RESUMABLE
    if resume and not resumable:
        raise UsageError(f"{format_} cannot be resumed", hint=f"formats: {', '.join(RESUMABLE)}")
    return Writer(
        form, target, resume=resume, key_of=result_key, resumable=resumable, settings=settings
    )


def open_record_writer(
    target: str | None = None, *, resume: bool = False, settings: Mapping[str, Any] | None = None
) -> Writer:
    """A writer of instruction records with their answers; as ``open_writer`` otherwise."""
    return Writer(
        InstructionLines(),
        _destination(target, resume=resume),
        resume=resume,
        key_of=_record_key(),
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


# --------------------------------------------------------------------------------------- resuming


def read_keys(path: str, key_of: LineKey) -> tuple[set[Hashable], int]:
    """The keys of the lines that an output file holds, and its good length in bytes.

    The length ends with the last complete result; after it come at most half a line and the
    array's closing bracket. Reads line by line: a file of any size can be resumed. Raises
    ``DataError`` for a file that is something else, so that it is not written into.
    """
    done: set[Hashable] = set()
    kept = place = 0
    broken = 0
    with open(path, "rb") as file:
        array = file.peek(1)[:1] == b"["
        for number, line in enumerate(file, 1):
            place += len(line)
            body = line.strip()
            if not body or (array and body in (b"[", b"[]", b"]")):
                continue
            key = key_of(body.removesuffix(b",") if array else body)
            if key is None:
                broken = broken or number
                continue
            if broken:
                break
            done.add(key)
            kept = place - (len(line) - len(line.rstrip(b",\r\n")) if array else 0)
            if not array and not line.endswith(b"\n"):
                # Complete but for its line end: it is done again rather than glued to the next.
                done.discard(key)
                kept = place - len(line)
        else:
            # Only what stands at the very end may be a result cut short.
            if not broken or (broken == number and not line.endswith(b"\n")):
                return done, kept
    raise DataError(
        "is no output that can be resumed", path=path, line=broken, hint="choose another -o"
    )


def holds_results(path: str) -> bool:
    """Whether a file begins like results of this program, or is empty."""
    try:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return False
    line = head.removeprefix(b"[").strip().split(b"\n")[0].removesuffix(b",")
    columns = b"source,line,id,task,lang,"
    return (
        not line
        or columns in line[:40]
        or result_key(line) is not None
        or (
            # A long result: its beginning has to do.
            len(head) == 1 << 16 and line.startswith(b'{"source": "')
        )
    )


def result_key(line: bytes) -> Hashable | None:
    """The key of a result's line, or None when it is none."""
    result = _object(line)
    if result is None or not isinstance(result.get("source"), str):
        return None
    number = result.get("line")
    identity = str(result.get("id", ""))
    return (result["source"], identity, number if isinstance(number, int) else None)


def _record_key() -> LineKey:
    numbering = RecordNumbering()

    def key(line: bytes) -> Hashable | None:
        fields = _object(line)
        if fields is None or not isinstance(fields.get("output"), str):
            return None
        return numbering(fields)

    return key


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_settings(path: str) -> dict[str, Any]:
    """What the results of a file were made with: as its ``.run`` says, else as its results tell."""
    try:
        found: Mapping[str, Any] | None = _object(Path(path + SETTINGS).read_bytes())
    except OSError:
        found = None
    if found is not None:
        return dict(found)
    with open(path, "rb") as file:
        for line in file:
            first = _object(line.strip().removesuffix(b","))
            if first is not None and isinstance(first.get("answer"), dict):
                return {"task": first.get("task"), "types": list(first["answer"])}
    return {}

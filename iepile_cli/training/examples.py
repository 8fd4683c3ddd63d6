"""Training lines: what ``iepile convert --split train`` writes, read one by one.

A line is ``{"task", "source", "instruction", "output"}``, and may have ``input`` (put below the
instruction), ``system`` and ``history`` (earlier turns as pairs of question and answer), as
upstream's loader takes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import DataError

if TYPE_CHECKING:
    import io


@dataclass(frozen=True)
class Example:
    """One training example: what is asked and what is to be answered."""

    question: str
    answer: str
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    task: str = ""
    source: str = ""


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a JSON Lines file (also ``.gz`` or ``.zst``), in order.

    Lines whose question or answer is empty are left out: they teach nothing. Raises ``DataError``
    that names file and line.
    """
    import orjson

    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
        except orjson.JSONDecodeError as error:
            if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise DataError("is in UTF-16", path=path, hint="convert it to UTF-8") from None
            if b"\0" in line:
                raise DataError("is not a text file", path=path, line=number) from None
            raise DataError(f"not JSON: {error}", path=path, line=number) from None
        example = _example(record, path, number)
        if example:
            yield example


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a plain or compressed file; raises ``DataError`` for one that is damaged."""
    import gzip
    import zlib

    import zstandard

    try:
        with _opened(path) as file, _unpacked(file, path.suffix) as lines:
            yield from lines
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(f"broken compressed data: {error}", path=path) from None


def _unpacked(file: io.BufferedReader, suffix: str) -> Any:
    """What a file holds, unpacked; its first bytes count beside its name, as for convert."""
    import gzip
    import io

    import zstandard

    start = file.peek(4)[:4]
    if start[:2] == b"\x1f\x8b" or suffix == ".gz":
        return gzip.GzipFile(fileobj=file)
    if start == b"\x28\xb5\x2f\xfd" or suffix == ".zst":
        stream: Any = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return io.BufferedReader(stream)
    return file


def _opened(path: Path) -> io.BufferedReader:
    """The file itself; raises ``DataError`` for one that is not there or cannot be read."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(
            "no such file", path=path, hint="make training data with: iepile convert --split train"
        ) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None


def _example(record: Any, path: Path, line: int) -> Example | None:
    if not isinstance(record, dict):
        raise DataError("a line is not an object", path=path, line=line)
    if "output" not in record and "label" in record:
        raise DataError(
            "a test line, which has no answer to learn from",
            path=path,
            line=line,
            hint="convert with --split train",
        )
    question, answer = _text(record, "instruction"), _text(record, "output")
    if question is None or answer is None:
        missing = "instruction" if question is None else "output"
        raise DataError(
            f"no {missing!r} in it", path=path, line=line, hint="convert with --split train"
        )
    if not question or not answer:
        return None
    below = _text(record, "input")
    return Example(
        question=f"{question}\n{below}" if below else question,
        answer=answer,
        system=_text(record, "system"),
        history=_history(record.get("history"), path, line),
        task=_text(record, "task") or "",
        source=_text(record, "source") or "",
    )


def _text(record: dict[str, Any], key: str) -> str | None:
    value = record.get(key)
    return value if isinstance(value, str) else None


def _history(given: Any, path: Path, line: int) -> tuple[tuple[str, str], ...]:
    if not given:
        return ()
    try:
        turns = tuple((question, answer) for question, answer in given)
    except (TypeError, ValueError):
        turns = ((None, None),)
    if not all(isinstance(text, str) for turn in turns for text in turn):
        raise DataError("'history' is not a list of text pairs", path=path, line=line)
    return turns


def digest(paths: Sequence[Path]) -> str:
    """A hash (hex) of the contents of files, by which what was made of them is found again."""
    total = hashlib.sha256()
    for path in paths:
        with _opened(path) as file:
            while chunk := file.read(1 << 20):
                total.update(chunk)
        total.update(b"\x00")
    return total.hexdigest()

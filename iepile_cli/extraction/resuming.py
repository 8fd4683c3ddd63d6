"""What an earlier run left in its output: which inputs are done, and what they were done with."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from iepile_cli.errors import DataError
from iepile_cli.extraction.instruction_records import RecordNumbering
from iepile_cli.pages import is_page

# Beside the results: what they were made with.
SETTINGS = ".run"

# Gives the key of an output's line, or None for a line that is none of ours; called in order.
LineKey: TypeAlias = Callable[[bytes], Hashable | None]


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


_COLUMNS = (b"source,line,id,task,lang,", b"source\tline\tid\ttask\tlang\t")


def holds_results(path: str) -> bool:
    """Whether a file begins like results of this program, or is empty."""
    try:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return False
    line = head.removeprefix(b"[").strip().split(b"\n")[0].removesuffix(b",")
    return (
        not line
        or any(columns in line[:40] for columns in _COLUMNS)
        or is_page(head)
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


def record_key() -> LineKey:
    """Gives the keys of instruction records with their answers, line by line."""
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


def read_settings(path: str) -> dict[str, Any]:
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

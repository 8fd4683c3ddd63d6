"""What an earlier, interrupted run has left in its output file."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from typing import TypeAlias, TypeVar

from iepile_cli.errors import DataError

# A document's source, id and line: ``Document.key``.
Key: TypeAlias = tuple[str, str, int | None]
AnyKey = TypeVar("AnyKey", bound=Hashable)


def read_results(path: str) -> tuple[set[Key], int]:
    """The documents whose results a JSON Lines or JSON file of ours holds, and its good length."""
    return read(path, _key)


def read(path: str, key_of: Callable[[bytes], AnyKey | None]) -> tuple[set[AnyKey], int]:
    """The keys of the lines that an output file holds, and its good length.

    ``key_of`` gives a line's key, or None when it is none of ours; it is asked in their order.
    The length, in bytes, ends with the last complete result; behind it stand at most half a line
    and the array's closing bracket. Reads line by line: a file of any size can be resumed. Raises
    ``DataError`` for a file that is something else, so that it is not written into.
    """
    done: set[AnyKey] = set()
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


def _key(line: bytes) -> Key | None:
    """The key of a result's line, or None when it is none."""
    try:
        result = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(result, dict) or not isinstance(result.get("source"), str):
        return None
    number = result.get("line")
    return (
        result["source"],
        str(result.get("id", "")),
        number if isinstance(number, int) else None,
    )

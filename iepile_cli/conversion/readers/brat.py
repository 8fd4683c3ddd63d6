"""brat standoff: a ``.txt`` file and an ``.ann`` file beside it for each document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from iepile_cli.conversion.gold import UNFIT, Problem
from iepile_cli.errors import DataError
from iepile_cli.task.instruction import dumps

_NUMBER = re.compile(r"\d+$")


def brat_documents(path: Path | None) -> list[Path]:
    """The ``.ann`` files of a folder, or the one that is named; raises ``DataError``."""
    if path is None:
        raise DataError("brat documents are files", path="stdin", hint="name a folder")
    found = sorted(path.rglob("*.ann")) if path.is_dir() else [path.with_suffix(".ann")]
    if not found or not found[0].is_file():
        raise DataError("no .ann file", path=path)
    return found


def read_brat(documents: Sequence[Path]) -> Iterator[tuple[int, bytes] | Problem]:
    """One unified record for each document; its "line" is its number among the documents."""
    for number, path in enumerate(documents, 1):
        try:
            text = path.with_suffix(".txt").read_bytes().decode("utf-8-sig")
            lines = path.read_bytes().decode("utf-8-sig").splitlines()
            record = _record(text, lines)
        except OSError as error:
            yield Problem(number, UNFIT, f"{path.with_suffix('.txt')}: {error.strerror}")
        except UnicodeDecodeError:
            yield Problem(number, UNFIT, f"{path}: not UTF-8")
        except (ValueError, KeyError, IndexError) as error:
            yield Problem(number, UNFIT, f"{path}: {error}")
        else:
            yield number, dumps({"id": path.stem, **record}).encode()


def _record(text: str, lines: Sequence[str]) -> dict[str, Any]:
    """Entities (T), relations (R) and events (E) of a document; other annotation is passed over.

    A mention in several pieces becomes the text from its first to its last character. Entities
    that only serve as an event's trigger are no entities.
    """
    parts = [line.split("\t") for line in lines if line.strip()]
    spans = {part[0]: _span(text, part[1]) for part in parts if part[0][:1] == "T"}
    events = {part[0]: _arguments(part[1]) for part in parts if part[0][:1] == "E"}
    triggers = {words[0][1] for words in events.values()}
    relations = [_relation(part[1], spans) for part in parts if part[0][:1] == "R"]
    return {
        "text": text,
        "entity": [
            {"entity": mention, "entity_type": kind, "start": start, "end": end}
            for name, (mention, kind, start, end) in spans.items()
            if name not in triggers
        ],
        "relation": relations,
        "event": [_event(words, spans, events) for words in events.values()],
    }


def _span(text: str, place: str) -> tuple[str, str, int, int]:
    kind, _, offsets = place.partition(" ")
    numbers = [int(number) for number in re.split("[ ;]", offsets)]
    start, end = numbers[0], numbers[-1]
    if not 0 <= start < end <= len(text):
        raise ValueError(f"span {offsets} is not in the text")
    return text[start:end], kind, start, end


def _arguments(line: str) -> list[tuple[str, str]]:
    pairs = [part.partition(":") for part in line.split()]
    return [(_NUMBER.sub("", role), target) for role, _, target in pairs]


def _relation(line: str, spans: dict[str, tuple[str, str, int, int]]) -> dict[str, str]:
    kind, *ends = line.split()
    head, tail = (spans[end.partition(":")[2]] for end in ends[:2])
    return {
        "head": head[0],
        "head_type": head[1],
        "relation": kind,
        "tail": tail[0],
        "tail_type": tail[1],
    }


def _event(
    words: list[tuple[str, str]],
    spans: dict[str, tuple[str, str, int, int]],
    events: dict[str, list[tuple[str, str]]],
) -> dict[str, Any]:
    (kind, trigger), *arguments = words
    mention, _, start, end = spans[trigger]
    filled = []
    for role, target in arguments:
        # An event as argument stands in for its trigger.
        named = spans[events[target][0][1] if target in events else target]
        filled.append({"argument": named[0], "role": role, "start": named[2], "end": named[3]})
    return {
        "event_trigger": mention,
        "event_type": kind,
        "arguments": filled,
        "start": start,
        "end": end,
    }

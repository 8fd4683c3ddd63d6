"""brat standoff: a ``.txt`` file and an ``.ann`` file beside it for each document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from iepile_cli.conversion.readers.spans import LabelledSpan, entity_entry, relation_entry
from iepile_cli.conversion.record_gold import PART_LOST, UNFIT, Problem
from iepile_cli.errors import DataError
from iepile_cli.task.instruction import dumps

_NUMBER = re.compile(r"\d+$")

# The (role, target) pairs of an event; the first one is its type and its trigger.
_Arguments: TypeAlias = list[tuple[str, str]]


def brat_documents(path: Path | None) -> list[Path]:
    """The ``.ann`` files of a folder, or the one that is named; raises ``DataError``."""
    if path is None:
        raise DataError("brat documents are files", path="stdin", hint="name a folder")
    found = sorted(path.rglob("*.ann")) if path.is_dir() else [path.with_suffix(".ann")]
    if not found or not found[0].is_file():
        raise DataError("no .ann file", path=path)
    return found


def brat_files(path: Path) -> list[Path]:
    """Every file that the documents of a folder, or the one that is named, are read from."""
    documents = path.rglob("*.ann") if path.is_dir() else [path]
    return [one.with_suffix(ending) for one in documents for ending in (".ann", ".txt")]


def read_brat(documents: Sequence[Path]) -> Iterator[tuple[int, bytes] | Problem]:
    """One unified record for each document; its "line" is its number among the documents."""
    for number, path in enumerate(documents, 1):
        try:
            text = path.with_suffix(".txt").read_bytes().decode("utf-8-sig")
            # Only line feeds part lines: a mention may hold U+2028.
            lines = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
            lost: list[str] = []
            record = _record(text, lines, lost)
        except OSError as error:
            yield Problem(number, UNFIT, f"{path.with_suffix('.txt')}: {error.strerror}")
        except UnicodeDecodeError:
            yield Problem(number, UNFIT, f"{path}: not UTF-8")
        except (ValueError, KeyError, IndexError) as error:
            yield Problem(number, UNFIT, f"{path}: {error}")
        else:
            yield from (Problem(number, PART_LOST, f"{path}: {what}") for what in lost)
            yield number, dumps({"id": path.stem, **record}).encode()


def _record(text: str, lines: Sequence[str], lost: list[str]) -> dict[str, Any]:
    """Entities (T), relations (R) and events (E) of a document; other annotation is passed over.

    A mention in several pieces becomes the text from its first to its last character. Entities
    that only serve as an event's trigger are no entities. An event as a relation's end, or as
    another event's argument, stands for its trigger. What cannot be followed is put in ``lost``.
    """
    parts = [line.split("\t") for line in lines if line.strip()]
    spans = {part[0]: _span(text, part[1]) for part in parts if part[0][:1] == "T"}
    events = {part[0]: _arguments(part[1]) for part in parts if part[0][:1] == "E"}
    ends = dict(spans)
    for name, arguments in events.items():
        if arguments and arguments[0][1] in spans:
            start, end, _ = spans[arguments[0][1]]
            ends[name] = LabelledSpan(start, end, arguments[0][0])
        else:
            lost.append(f"event {name} without a trigger")
    triggers = {arguments[0][1] for name, arguments in events.items() if name in ends}
    relations = [
        relation
        for part in parts
        if part[0][:1] == "R" and (relation := _relation(text, part, ends, lost))
    ]
    return {
        "text": text,
        "entity": [entity_entry(text, spans[name]) for name in spans if name not in triggers],
        "relation": relations,
        "event": [
            _event(text, name, arguments, ends, lost)
            for name, arguments in events.items()
            if name in ends
        ],
    }


def _span(text: str, place: str) -> LabelledSpan:
    label, _, offsets = place.partition(" ")
    numbers = [int(number) for number in re.split("[ ;]", offsets)]
    start, end = numbers[0], numbers[-1]
    if not 0 <= start < end <= len(text):
        raise ValueError(f"span {offsets} is not in the text")
    return LabelledSpan(start, end, label)


def _arguments(line: str) -> _Arguments:
    pairs = [part.partition(":") for part in line.split()]
    return [(_NUMBER.sub("", role), target) for role, _, target in pairs]


def _relation(
    text: str, part: Sequence[str], ends: Mapping[str, LabelledSpan], lost: list[str]
) -> dict[str, Any] | None:
    label, *targets = part[1].split()
    found = [ends.get(target.partition(":")[2]) for target in targets[:2]]
    if len(found) < 2 or found[0] is None or found[1] is None:
        lost.append(f"relation {part[0]}: an end is not there")
        return None
    return relation_entry(text, found[0], label, found[1])


def _event(
    text: str,
    name: str,
    arguments: _Arguments,
    ends: Mapping[str, LabelledSpan],
    lost: list[str],
) -> dict[str, Any]:
    (label, _), *others = arguments
    start, end, _ = ends[name]
    filled = []
    for role, target in others:
        if target not in ends:
            lost.append(f"event {name}: {role} {target} is not there")
            continue
        first, last, _ = ends[target]
        filled.append({"argument": text[first:last], "role": role, "start": first, "end": last})
    return {
        "event_trigger": text[start:end],
        "event_type": label,
        "arguments": filled,
        "start": start,
        "end": end,
    }

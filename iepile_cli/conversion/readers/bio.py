"""Columns of tokens and tags (CoNLL, BIO, BIOES, BILOU, IOB1), a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from iepile_cli.conversion.gold import UNFIT, Problem
from iepile_cli.conversion.inputs import LONGEST, Source, check_text
from iepile_cli.errors import DataError
from iepile_cli.task.instruction import dumps

_TAG = re.compile(r"O|[BIESLUM]-\S+")
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"[A-Za-z0-9]")


def read_bio(source: Source, name: Path | str) -> Iterator[tuple[int, bytes] | Problem]:
    """Unified records, one for each sentence, with character offsets.

    Which columns hold tokens and tags is found out from the first sentence: tags are the last
    column of ``O`` and ``B-...``, tokens the first one that does not count them. Raises
    ``DataError`` when no column holds tags.
    """
    columns: tuple[int, int] | None = None
    for start, lines in _sentences(source, name):
        cells = [_cells(line) for line in lines]
        columns = columns or _columns(cells, start, name)
        token, tag = columns
        short = next((at for at, row in enumerate(cells) if len(row) <= max(columns)), None)
        if short is not None:
            yield Problem(start + short, UNFIT, f"no column {max(columns) + 1}")
            continue
        tags = [row[tag] for row in cells]
        wrong = next((at for at, one in enumerate(tags) if not _TAG.fullmatch(one)), None)
        if wrong is not None:
            yield Problem(start + wrong, UNFIT, f"{tags[wrong]!r} is no tag")
            continue
        record = tagged_record([row[token] for row in cells], tags)
        yield start, dumps(record).encode()


def _sentences(source: Source, name: Path | str) -> Iterator[tuple[int, list[str]]]:
    lines: list[str] = []
    start = 1
    for number, raw in enumerate(iter(lambda: source.file.readline(LONGEST), b""), 1):
        if number == 1:
            raw = check_text(raw, name)
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8: {error.reason}", path=name, line=number) from None
        if line.startswith("-DOCSTART-") or (line.startswith("# ") and " = " in line):
            continue
        if line.strip():
            start = start if lines else number
            lines.append(line)
        elif lines:
            yield start, lines
            lines = []
    if lines:
        yield start, lines


def _cells(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _columns(cells: Sequence[Sequence[str]], line: int, name: Path | str) -> tuple[int, int]:
    width = min(len(row) for row in cells)
    tags = [at for at in range(width) if all(_TAG.fullmatch(row[at]) for row in cells)]
    counts = [str(number) for number in range(1, len(cells) + 1)]
    tokens = [
        at for at in range(width) if at not in tags[-1:] and [row[at] for row in cells] != counts
    ]
    if not tags or not tokens:
        raise DataError(
            "no column of tags (O, B-..., I-...) beside one of tokens", path=name, line=line
        )
    return tokens[0], tags[-1]


def tagged_record(
    tokens: Sequence[str], tags: Sequence[str], text: str | None = None
) -> dict[str, Any]:
    """A unified record from tokens and their tags.

    ``text`` is the sentence when it is known and holds the tokens in order; else tokens are
    joined, with blanks except beside Chinese characters.
    """
    text, places = _placed(tokens, text)
    entities = [
        {
            "entity": text[places[first][0] : places[last][1]],
            "entity_type": kind,
            "start": places[first][0],
            "end": places[last][1],
        }
        for first, last, kind in spans(tags)
    ]
    return {"text": text, "entity": entities}


def _placed(tokens: Sequence[str], text: str | None) -> tuple[str, list[tuple[int, int]]]:
    places: list[tuple[int, int]] = []
    at = 0
    if text is not None:
        for token in tokens:
            start = text.find(token, at)
            if start < 0:
                return _placed(tokens, None)
            at = start + len(token)
            places.append((start, at))
        return text, places
    joined: list[str] = []
    for index, token in enumerate(tokens):
        if index and _apart(tokens[index - 1], token):
            joined.append(" ")
            at += 1
        joined.append(token)
        places.append((at, at + len(token)))
        at += len(token)
    return "".join(joined), places


def _apart(before: str, after: str) -> bool:
    """Whether a blank belongs between two tokens: not next to Chinese."""
    if _HAN.search(before) or _HAN.search(after):
        return False
    chinese = before[-1:] > "\u2fff" or after[:1] > "\u2fff"
    return not chinese


def spans(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """The spans of a tag sequence in any of the usual schemes: first token, last token, type."""
    start, kind = -1, ""
    for at, tag in enumerate(tags):
        mark, _, name = tag.partition("-")
        if start >= 0 and (mark in "OBSU" or name != kind):
            yield start, at - 1, kind
            start = -1
        if mark != "O" and start < 0:
            start, kind = at, name
        if start >= 0 and mark in "ESLU":
            yield start, at, kind
            start = -1
    if start >= 0:
        yield start, len(tags) - 1, kind

"""Tokens with tags (BIO, BIOES, BILOU, IOB1): columns of CoNLL files, and lists in records."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iepile_cli import arrow_files
from iepile_cli.conversion.chunks import LONGEST
from iepile_cli.conversion.readers.spans import LabelledSpan, Note, entity_entry
from iepile_cli.conversion.record_gold import UNFIT, Problem, Unusable
from iepile_cli.encodings import decode_json
from iepile_cli.errors import DataError
from iepile_cli.files import Input, read_text
from iepile_cli.task.instruction import dumps

_TAG = re.compile(r"O|[BIESLUM]-\S.*")
# Tabs or blanks separate columns; a no-break space belongs to its token.
_BLANKS = re.compile(r"[ \t]+")
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
# With the signs and kana beside them; blanks separate Hangul and emoji.
_CHINESE = re.compile("[\u3000-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")

TOKEN_KEYS = ("tokens", "words")
TAG_KEYS = ("ner_tags", "tags", "labels")
_INFO = "dataset_info.json"


class _Row(NamedTuple):
    line: int
    cells: list[str]


def is_tagged(head: bytes) -> bool:
    """Whether a file that begins so holds columns, one of them tags of the kind ``B-...``."""
    lines = head.decode("utf-8", "replace").splitlines()
    # The last line may be cut.
    whole = lines[:-1] if len(lines) > 1 and not head.endswith(b"\n") else lines
    cells = [
        _cells(line)
        for line in whole
        if line.strip() and not _is_comment(line, first=True) and line[:10] != "-DOCSTART-"
    ]
    tagged = [any(map(_TAG.fullmatch, row[1:])) for row in cells]
    return all(tagged) and any(cell[1:2] == "-" for row in cells for cell in row[1:])


def read_bio(source: Input, name: str) -> Iterator[tuple[int, bytes] | Problem]:
    """Unified records, one for each sentence, with character offsets.

    Which columns hold tokens and tags is found out from the first sentence: tags are the last
    column of ``O`` and ``B-...``, tokens the first one that does not count them. After a
    ``-DOCSTART-``, records have the document's number as ``doc_id``. Raises ``DataError`` when no
    column holds tags.
    """
    columns: tuple[int, int] | None = None
    for document, rows in _sentences(source, name):
        columns = columns or _columns(rows, name)
        token, tag = columns
        short = next((row for row in rows if len(row.cells) <= max(columns)), None)
        if short is not None:
            yield Problem(short.line, UNFIT, f"no column {max(columns) + 1}")
            continue
        broken = next((row for row in rows if "\r" in "".join(row.cells)), None)
        if broken is not None:
            yield Problem(broken.line, UNFIT, "a carriage return: lines end in LF or CRLF")
            continue
        wrong = next((row for row in rows if not _TAG.fullmatch(row.cells[tag])), None)
        if wrong is not None:
            yield Problem(wrong.line, UNFIT, f"{wrong.cells[tag]!r} is no tag")
            continue
        record = tagged_record([row.cells[token] for row in rows], [row.cells[tag] for row in rows])
        if document:
            record = {"doc_id": document, **record}
        yield rows[0].line, dumps(record).encode()


def _sentences(source: Input, name: str) -> Iterator[tuple[int, list[_Row]]]:
    """The rows of each sentence, and the number of its document (0: none is named)."""
    rows: list[_Row] = []
    document = 0
    for number, raw in enumerate(iter(lambda: source.stream.readline(LONGEST), b""), 1):
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8: {error.reason}", path=name, line=number) from None
        if _is_comment(line, first=not rows):
            continue
        starts_document = line.startswith("-DOCSTART-")
        if line.strip(" \t") and not starts_document:
            rows.append(_Row(number, _cells(line)))
            continue
        if rows:
            yield document, rows
            rows = []
        document += starts_document
    if rows:
        yield document, rows


def _is_comment(line: str, first: bool) -> bool:
    """CoNLL-U's ``# key = value``, and before a sentence any line with ``#`` and without a tag."""
    if not line.startswith("#"):
        return False
    if line.startswith("# ") and " = " in line:
        return True
    return first and not any(map(_TAG.fullmatch, _cells(line)))


def _cells(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else _BLANKS.split(line.strip(" "))


def _columns(rows: Sequence[_Row], name: str) -> tuple[int, int]:
    width = min(len(row.cells) for row in rows)
    tags = [at for at in range(width) if all(_TAG.fullmatch(row.cells[at]) for row in rows)]
    counts = [str(number) for number in range(1, len(rows) + 1)]
    tokens = [
        at
        for at in range(width)
        if at not in tags[-1:] and [row.cells[at] for row in rows] != counts
    ]
    if not tags or not tokens:
        raise DataError(
            "no column of tags (O, B-..., I-...) beside one of tokens",
            path=name,
            line=rows[0].line,
        )
    return tokens[0], tags[-1]


def token_reader(names: Sequence[str]) -> Callable[[Any, Note], Iterator[dict[str, Any]]]:
    """A reader of records with lists of tokens and of tags; ``names`` are those of numbered tags.

    ``{"tokens": ["Ann", "left"], "ner_tags": ["B-PER", "O"]}``, as Hugging Face datasets have.
    """

    def read(value: Any, note: Note) -> Iterator[dict[str, Any]]:
        tokens, tags = _columns_of(value)
        if tags and isinstance(tags[0], int):
            if not names:
                raise Unusable(UNFIT, "tags are numbers, and no dataset_info.json names them")
            tags = [
                names[tag] if isinstance(tag, int) and 0 <= tag < len(names) else tag
                for tag in tags
            ]
        for tag in tags:
            if not (isinstance(tag, str) and _TAG.fullmatch(tag)):
                raise Unusable(UNFIT, f"{tag!r} is no tag")
        if len(tags) != len(tokens):
            raise Unusable(UNFIT, "not as many tags as tokens")
        kept = {key: value[key] for key in ("id", "doc_id") if value.get(key) is not None}
        yield {**kept, **tagged_record(list(map(str, tokens)), tags, value.get("text"))}

    return read


def feature_names(path: Path | None) -> list[str]:
    """The names of numbered tags: in the file itself, or in ``dataset_info.json`` beside.

    Empty where nothing names them.
    """
    if path is None:
        return []
    info: Any = {}
    if path.suffix.lower() in arrow_files.SUFFIXES:
        with path.open("rb") as file:
            metadata = arrow_files.metadata(file)
        info = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})
    elif (beside := path.with_name(_INFO)).is_file():
        info = decode_json(read_text(beside))
    features = info.get("features", {}) if isinstance(info, dict) else {}
    for key in TAG_KEYS:
        feature = features.get(key) or {}
        # Written as {"feature": {"names": ...}}, in older files as [{"names": ...}].
        inner = feature[0] if isinstance(feature, list) and feature else feature
        inner = inner.get("feature", inner) if isinstance(inner, dict) else {}
        names = inner.get("names", inner.get("class_label", {}).get("names", []))
        if names:
            return [str(name) for name in (names.values() if isinstance(names, dict) else names)]
    return []


def _columns_of(value: Any) -> tuple[list[Any], list[Any]]:
    """A record's tokens and tags; raises ``Unusable`` where they are no lists."""
    held = value if isinstance(value, dict) else {}
    columns = [
        next((held[key] for key in keys if key in held), None) for keys in (TOKEN_KEYS, TAG_KEYS)
    ]
    tokens, tags = columns
    if not isinstance(tokens, list) or not isinstance(tags, list):
        raise Unusable(UNFIT, "not a list of tokens and one of tags")
    return tokens, tags


def tagged_record(
    tokens: Sequence[str], tags: Sequence[str], text: str | None = None
) -> dict[str, Any]:
    """A unified record from tokens and their tags.

    ``text`` is the sentence when it is known and holds the tokens in order; else tokens are
    joined, with blanks except beside Chinese characters.
    """
    text, places = _placed(tokens, text)
    entities = [
        entity_entry(text, LabelledSpan(places[first][0], places[last][1], kind))
        for first, last, kind in tag_spans(tags)
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
    return not _CHINESE.search(before[-1:] + after[:1])


def tag_spans(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
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

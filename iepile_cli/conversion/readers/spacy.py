"""spaCy's annotation: JSON with character spans, and ``DocBin`` files where spaCy is installed.

JSON comes as spaCy's own ``Doc.to_json()``, training pairs ``[text, {"entities": [...]}]``,
Prodigy's ``{"text", "spans", "relations"}``, or version 2's training documents with paragraphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from iepile_cli.conversion.converter import read_json
from iepile_cli.conversion.gold import UNFIT, Problem, Unusable
from iepile_cli.conversion.inputs import Chunk
from iepile_cli.conversion.readers.bio import tagged_record
from iepile_cli.errors import DataError
from iepile_cli.task.instruction import dumps


def read_spacy(chunks: Iterable[Chunk]) -> Iterator[tuple[int, bytes] | Problem]:
    """Unified records with offsets from spaCy JSON."""
    for chunk in chunks:
        yield from chunk.problems
        for index, raw in enumerate(chunk.data.split(b"\n")):
            if not raw.strip():
                continue
            line = chunk.line_of(index)
            try:
                records = list(_records(read_json(raw)))
            except Unusable as problem:
                yield Problem(line, problem.kind, problem.what)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError):
                yield Problem(line, UNFIT, "no spaCy annotation that is known here")
            else:
                for record in records:
                    yield line, dumps(record).encode()


def _records(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        text, annotation = value[0], value[1]
        yield _record(text, annotation["entities"])
    elif "paragraphs" in value:
        for paragraph in value["paragraphs"]:
            tokens = [token for sentence in paragraph["sentences"] for token in sentence["tokens"]]
            words = [str(token["orth"]) for token in tokens]
            tags = [_tag(token) for token in tokens]
            yield tagged_record(words, tags, paragraph.get("raw"))
    else:
        spans = next((value[key] for key in ("ents", "entities", "spans") if key in value), None)
        if spans is None:
            raise KeyError("ents")
        if isinstance(spans, dict):
            spans = [span for group in spans.values() for span in group]
        record = _record(value["text"], spans)
        if value.get("relations"):
            record["relation"] = [_relation(value["text"], one) for one in value["relations"]]
        yield record


def _tag(token: dict[str, Any]) -> str:
    tag = str(token.get("ner", "O"))
    # "-" is a token of which nothing is known.
    return "O" if tag in ("-", "") else tag


def _record(text: str, spans: Iterable[Any]) -> dict[str, Any]:
    entities = []
    for span in spans:
        start, end, label = (
            (span["start"], span["end"], span["label"]) if isinstance(span, dict) else span[:3]
        )
        if not 0 <= start < end <= len(text):
            raise Unusable(UNFIT, f"span {start} to {end} is not in the text")
        entities.append(
            {"entity": text[start:end], "entity_type": str(label), "start": start, "end": end}
        )
    return {"text": text, "entity": entities}


def _relation(text: str, relation: dict[str, Any]) -> dict[str, str]:
    head, tail = relation["head_span"], relation["child_span"]
    return {
        "head": text[head["start"] : head["end"]],
        "head_type": str(head.get("label") or ""),
        "relation": str(relation["label"]),
        "tail": text[tail["start"] : tail["end"]],
        "tail_type": str(tail.get("label") or ""),
    }


def read_doc_bin(path: Path) -> Iterator[tuple[int, bytes] | Problem]:
    """Unified records from a ``DocBin``; raises ``DataError`` where spaCy is not installed."""
    try:
        from spacy.tokens import DocBin
        from spacy.vocab import Vocab
    except ImportError:
        raise DataError(
            "a DocBin can be read only with spaCy",
            path=path,
            hint="pip install spacy, or write the documents as JSON with doc.to_json()",
        ) from None
    try:
        documents = DocBin().from_disk(path).get_docs(Vocab())
        for number, document in enumerate(documents, 1):
            spans = [(one.start_char, one.end_char, one.label_) for one in document.ents]
            yield number, dumps(_record(document.text, spans)).encode()
    except (OSError, ValueError) as error:
        raise DataError(f"is no DocBin: {error}", path=path) from None

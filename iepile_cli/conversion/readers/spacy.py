"""spaCy's annotation and Prodigy's: JSON with character spans, and ``DocBin`` files.

JSON comes as spaCy's own ``Doc.to_json()``, training pairs ``[text, {"entities": [...]}]``,
Prodigy's ``{"text", "spans", "relations", "answer"}``, or version 2's training documents with
paragraphs. A ``DocBin`` is read where spaCy is installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from iepile_cli.conversion.readers.bio import tagged_record
from iepile_cli.conversion.readers.spans import LabelledSpan, Note, relation_entry, span_record
from iepile_cli.conversion.record_gold import NOT_ACCEPTED, Problem, Unusable
from iepile_cli.errors import DataError
from iepile_cli.task.instruction import dumps

ACCEPT = "accept"


def spacy_records(value: Any, note: Note) -> Iterator[dict[str, Any]]:
    """Unified records of one JSON document of spaCy or example of Prodigy."""
    if isinstance(value, list):
        text, annotation = value[0], value[1]
        yield span_record(text, [_span(one) for one in annotation["entities"]])
    elif "paragraphs" in value:
        for paragraph in value["paragraphs"]:
            tokens = [token for sentence in paragraph["sentences"] for token in sentence["tokens"]]
            words = [str(token["orth"]) for token in tokens]
            tags = [_tag(token) for token in tokens]
            yield tagged_record(words, tags, paragraph.get("raw"))
    else:
        yield _document(value)


def _document(value: dict[str, Any]) -> dict[str, Any]:
    # Prodigy writes the annotator's answer; an example without one is accepted.
    answer = value.get("answer", ACCEPT)
    if answer != ACCEPT:
        raise Unusable(NOT_ACCEPTED, str(answer))
    named = [value[key] for key in ("ents", "entities", "spans") if key in value]
    if not named:
        raise KeyError("ents")
    # Span groups are lists by name.
    groups = [group for one in named for group in _groups(one)]
    spans = [_span(span) for group in groups for span in group or ()]
    text = value["text"]
    record = span_record(text, spans, value)
    if value.get("relations"):
        record["relation"] = [
            relation_entry(text, _end(one["head_span"]), str(one["label"]), _end(one["child_span"]))
            for one in value["relations"]
        ]
    return record


def _groups(spans: Any) -> Iterable[Any]:
    return spans.values() if isinstance(spans, dict) else (spans,)


def _span(span: Any) -> LabelledSpan:
    if isinstance(span, dict):
        return LabelledSpan(span["start"], span["end"], str(span["label"]))
    start, end, label = span[:3]
    return LabelledSpan(start, end, str(label))


def _end(span: dict[str, Any]) -> LabelledSpan:
    return LabelledSpan(span["start"], span["end"], str(span.get("label") or ""))


def _tag(token: dict[str, Any]) -> str:
    tag = str(token.get("ner", "O"))
    # "-" is a token of which nothing is known.
    return "O" if tag in ("-", "") else tag


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
            groups: Iterable[Any] = (document.ents, *document.spans.values())
            spans = [
                LabelledSpan(one.start_char, one.end_char, one.label_)
                for group in groups
                for one in group
            ]
            yield number, dumps(span_record(document.text, spans)).encode()
    except (OSError, ValueError) as error:
        raise DataError(f"is no DocBin: {error}", path=path) from None

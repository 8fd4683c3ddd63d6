"""Questions about some texts, put to a backend, and what its answers must hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from iepile_cli.backends import Answer, Options, Request, Runner
from iepile_cli.extraction.requests import ExtractOptions, RequestBuilder
from iepile_cli.registry import registry
from iepile_cli.task.instruction import Instruction
from iepile_cli.task.schema import read_schema
from iepile_cli.task.table import TASKS
from iepile_cli.templates import AUTO

TEXTS = (
    "Ann Smith met Bob in Rome.",
    "In 1904, A. P. Moller and his father founded a company in Svendborg, Denmark.",
    'He said: "Never\nagain", and left for 北京.',
    "Acme Corp. bought Widget Ltd for 3 million dollars on Monday, said its head, Carla Diaz, "
    "who was born in Lima and had worked for Acme in Paris before.",
    "None.",
)
SCHEMAS = (
    ("person,location,organization", "NER"),
    ("founder of,place of birth", "RE"),
    ("attack(attacker, target), meeting(place)", "EE"),
    ("person{born, job}", "KG"),
)


def start(backend: str, path: Path, **options: Any) -> Runner:
    runner: Runner = registry().get("backend", backend).open(path, Options(threads=1, **options))
    return runner


def asks(texts: Sequence[str] = TEXTS) -> list[Instruction]:
    """Every schema put to every text."""
    return [_ask(schema, text) for schema in SCHEMAS for text in texts]


def asks_in_turn(texts: Sequence[str]) -> list[Instruction]:
    """One schema put to each text."""
    return [_ask(SCHEMAS[n % len(SCHEMAS)], text) for n, text in enumerate(texts)]


def _ask(schema: tuple[str, str], text: str) -> Instruction:
    task, items = read_schema([schema[0]], TASKS[schema[1]])
    return Instruction(task, tuple(items), text)


def requests(runner: Runner, questions: list[Instruction], tokens: int = 40) -> list[Request]:
    builder = RequestBuilder(runner, AUTO, ExtractOptions(answer_tokens=tokens))
    return [builder.request(ask) for ask in questions]


def answers(runner: Runner, questions: list[Instruction], tokens: int = 40) -> list[Answer]:
    return list(runner.generate(requests(runner, questions, tokens)))


def agreement(one: list[Answer], other: list[Answer]) -> float:
    return sum(a.text == b.text for a, b in zip(one, other, strict=True)) / len(one)


def check(found: list[Answer], questions: list[Instruction]) -> None:
    for ask, answer in zip(questions, found, strict=True):
        assert not answer.failed, answer.failed
        value = json.loads(answer.text)
        assert list(value) == [item.type for item in ask.items]
        assert all(mention in ask.text for mention in _mentions(value, ask))


def _mentions(value: Any, ask: Instruction) -> list[str]:
    known = {"NAN", *(slot for item in ask.items for slot in item.slots)}
    known |= {"subject", "object", "trigger", "arguments", *(item.type for item in ask.items)}
    if isinstance(value, str):
        return [] if value in known else [value]
    keys = [key for key in value if key not in known] if isinstance(value, dict) else []
    parts = value.values() if isinstance(value, dict) else value
    return keys + [mention for part in parts for mention in _mentions(part, ask)]


def passages(shared: Path, count: int) -> list[str]:
    """Different texts of moderate length from all parts of a corpus in turn."""
    readers = [_texts(path) for path in sorted((shared / "data" / "IE-en").rglob("*.json*"))]
    found: dict[str, None] = {}
    while readers and len(found) < count:
        for reader in list(readers):
            text = next(reader, None)
            if text is None:
                readers.remove(reader)
            elif len(found) < count:
                found[text] = None
    return list(found)


def _texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            text = record.get("text") if isinstance(record, dict) else None
            if isinstance(text, str) and 40 < len(text) < 400:
                yield text

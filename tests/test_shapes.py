"""``docs/shapes.md``: what it shows of every task is what the program makes of such an answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.backends import Answer
from iepile_cli.extraction.grounding import ground, read_answer
from iepile_cli.extraction.results import item_json, merge
from iepile_cli.task import TASKS
from iepile_cli.task.grammar import lark_grammar
from iepile_cli.task.instruction import dumps, schema_json
from iepile_cli.task.passages import Passage
from iepile_cli.task.schema import read_schema

PAGE = (Path(__file__).parents[1] / "docs" / "shapes.md").read_text(encoding="utf-8")
TEXT = re.search(r"^The text: “(.*)”$", PAGE, re.MULTILINE)[1]  # type: ignore[index]
SECTIONS = re.findall(
    r'^## (\w+): .*?`--schema "(.*?)"(?: --task \w+)?`\n\n```json\n(.*?)```', PAGE, re.M | re.S
)


def test_every_task_has_a_section() -> None:
    assert [name for name, _, _ in SECTIONS] == list(TASKS)


@pytest.mark.parametrize(("name", "schema", "block"), SECTIONS)
def test_a_section_shows_what_its_task_gives(name: str, schema: str, block: str) -> None:
    shown = json.loads(block)
    task, items = read_schema([schema], TASKS[name])
    assert dumps(schema_json(task, items)) == dumps(shown["schema"])
    written = dumps(shown["answer"])
    problems: list[str] = []
    found = read_answer(task, items, Answer(written), problems)
    assert problems == []
    grounded = ground(found, Passage(TEXT, 0), task.shape)
    assert grounded.ungrounded == 0
    merged = merge(task, items, grounded.items, TEXT)
    assert dumps(merged.answer) == written
    ours = [dumps(without_scores(item_json(task, item))) for item in merged.items]
    assert ours == [dumps(without_scores(item)) for item in shown["items"]]


@pytest.mark.parametrize(("name", "schema", "block"), SECTIONS)
def test_a_grammar_allows_the_answer_of_its_section(name: str, schema: str, block: str) -> None:
    from llguidance import LLMatcher, LLTokenizer

    tokenizer = LLTokenizer("byte")
    task, items = read_schema([schema], TASKS[name])
    matcher = LLMatcher(tokenizer, lark_grammar(task, items, TEXT))
    tokens = tokenizer.tokenize_str(dumps(json.loads(block)["answer"]))
    assert matcher.try_consume_tokens(tokens) == len(tokens)
    assert matcher.is_accepting()


def without_scores(value: Any) -> Any:
    if isinstance(value, list):
        return [without_scores(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {key: None if key == "score" else without_scores(part) for key, part in value.items()}

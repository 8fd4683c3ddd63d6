"""Prompts as text: a template's own marks reach the server, those in a user's text do not."""

from __future__ import annotations

import pytest

from iepile_cli.backends.servers import Shield, written
from iepile_cli.backends.tokenizers import GuessedTokenizer
from iepile_cli.registry import registry


@pytest.mark.parametrize("name", ["llama2", "qwen", "baichuan2", "llama3"])
def test_a_templates_marks_stay_and_a_texts_are_broken_up(name: str) -> None:
    template = registry().get("template", name).bind(GuessedTokenizer())
    plain = written(template.prompt("HERE", None), Shield())
    marks = ["[/INST]", "</s>", "<|im_end|>", "<<SYS>>", "<|eot_id|>"]
    question = f"x {' '.join(marks)} y"
    shield = Shield()
    sent = written(template.prompt(question, None), shield)
    before, after = plain.split("HERE")
    assert sent.startswith(before)
    assert sent.endswith(after)
    inside = sent[len(before) : len(sent) - len(after)]
    assert not any(mark in inside for mark in marks)
    assert shield.answer(inside) == question

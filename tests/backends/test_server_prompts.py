"""Prompts as text: a template's own marks reach the server, those in a user's text do not."""

from __future__ import annotations

from typing import Any

import pytest

from iepile_cli.backends.server_prompts import GuessedTokenizer, Shield, spelled_alike, written
from iepile_cli.backends.tokenizers import LlamaCppTokenizer
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


def test_as_much_of_an_answer_is_sent_as_text_as_gives_the_same_tokens(embedded: Any) -> None:
    tokenizer = LlamaCppTokenizer.open(embedded)
    bytes_of = {i: tokenizer._string(i).replace("Ġ", " ") for i in range(49152)}

    def text(tokens: Any) -> str:
        return "".join(bytes_of[token] for token in tokens)

    usual = tokenizer.text('{"person": ["Mitigation"]}')
    ending = "assistant and more"
    assert spelled_alike(ending, usual, tokenizer, text) == len(usual)
    odd = [*tokenizer.text('{"person": ["'), *(tokenizer.text(c)[0] for c in "Mitigation")]
    told = spelled_alike(ending, odd, tokenizer, text)
    assert 0 < told < len(odd)
    joint = tokenizer.text(ending + text(odd[:told]))
    assert joint == tokenizer.text(ending) + odd[:told]
    assert spelled_alike(ending, [], tokenizer, text) == 0

"""Decoding under a grammar: whatever tokens are chosen, the answer's form is right."""

from __future__ import annotations

import json
import random
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iepile_cli.backends.constraint import Constraint, choose
from iepile_cli.backends.tokenizers import LlamaCppTokenizer, spells
from iepile_cli.extraction.grounding import ground, read_answer
from iepile_cli.task import TASKS, Instruction, parse_answer
from iepile_cli.task.grammar import empty_answers, lark_grammar
from iepile_cli.task.instruction import answer_json, dumps
from iepile_cli.task.passages import Passage
from iepile_cli.task.schema import read_schema
from iepile_cli.task.shape import FIXED, slot_name

SCHEMAS = [
    ("person,location", "NER"),
    ("founder of,place of birth", "RE"),
    ("person -works for-> city, person -likes-> dog", "SPO"),
    ("attack(attacker, trigger), meet()", "EE"),
    ("attack,meeting", "EET"),
    ("attack[bombed](attacker, target)", "EEA"),
    ("person{born, job, spouse}, city{country}", "KG"),
]
CONTROLS = ["<|im_end|>", "[/INST]", "</s>", "\x00", "\x1f", '{"person": ["x"]}', "NAN", "null"]
SIGNS = ['"', "\\", '\\"', "\n", "\t", "{}", "[]", ", ", " ", "\u3000", "\x85", "\u2028", "\ufffd"]
WORDS = [
    "北京",
    "שלום",
    "\u200b",
    "\u200f",
    "e\u0301",
    "\ufeff",
    "😀",
    "👍🏽",
    "a" * 300,
    "word",
    "0",
]
HOSTILE = st.text(max_size=60) | st.lists(
    st.sampled_from(CONTROLS + SIGNS + WORDS), max_size=12
).map("".join)


# The vocabularies of what ``tokenizers`` gives.
_open: list[LlamaCppTokenizer] = []


@cache
def tokenizers(path: Path) -> Any:
    opened = LlamaCppTokenizer.open(path)
    _open.append(opened)
    return opened.constraining


def decode(
    tokenizer: Any, ask: Instruction, rng: random.Random, budget: int, lead: str = ""
) -> Constraint:
    """Write an answer by choosing among the allowed tokens at random, closing ones more often."""
    rules = lark_grammar(
        ask.task, ask.items, ask.text, lead=lead, spells=partial(spells, tokenizer)
    )
    constraint = Constraint(tokenizer, rules, budget, empty_answers(ask.task, ask.items))
    while not constraint.done:
        allowed = [int(token) for token in constraint.allowed()]
        closing = [t for t in allowed if {*"]}"} & {*tokenizer.decode_str([t])}]
        constraint.accept(rng.choice(closing if closing and rng.random() < 0.3 else allowed), 0.5)
        assert constraint.kept <= len(constraint.tokens)
    return constraint


def check(ask: Instruction, constraint: Constraint) -> None:
    answer = constraint.answer(0)
    value = json.loads(answer.text)
    assert list(value) == [item.type for item in ask.items]
    assert answer.text == dumps(value)
    problems: list[str] = []
    found = parse_answer(ask.task, ask.items, value, problems)
    assert problems == []
    for item, things in found:
        assert len(things) == len(set(things))
        for roles in things:
            for role, mention in roles:
                assert mention in ask.text
                assert mention.strip() == mention != ""
                assert role in FIXED or slot_name(role) in item.slots
    scored = read_answer(ask.task, ask.items, answer, problems)
    assert all(0 <= score <= 1 for _, things in scored for _, scores in things for score in scores)
    passage = Passage(ask.text, 7)
    document = "." * 7 + ask.text
    grounded = ground(scored, passage, ask.task.shape)
    assert grounded.ungrounded == 0
    for thing in grounded.items:
        for _, span in thing.roles:
            assert document[span.start : span.end] == span.text
    again = parse_answer(ask.task, ask.items, answer_json(ask.task, found, ask.text), problems)
    assert as_sets(again) == as_sets(found)


def as_sets(found: Any) -> Any:
    return [(item, {frozenset(roles) for roles in things}) for item, things in found]


@pytest.mark.parametrize(("schema", "name"), SCHEMAS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=HOSTILE, seed=st.integers(0, 2**32), budget=st.sampled_from([1, 5, 20, 60, 400]))
def test_any_choice_of_tokens_gives_a_valid_grounded_answer(
    embedded: Path, schema: str, name: str, text: str, seed: int, budget: int
) -> None:
    text = text.encode("utf-8", "replace").decode()
    task, items = read_schema([schema], TASKS[name])
    ask = Instruction(task, tuple(items), text)
    constraint = decode(tokenizers(embedded), ask, random.Random(seed), budget)
    assert constraint.truncated or len(constraint.tokens) <= budget
    check(ask, constraint)


@pytest.mark.parametrize(("schema", "name"), SCHEMAS)
@pytest.mark.parametrize("vocab", ["llama-spm", "llama-bpe", "qwen2", "baichuan"])
def test_with_the_tokenizers_of_other_models(
    shared: Path, vocab: str, schema: str, name: str
) -> None:
    tokenizer = tokenizers(shared / "vocabs" / f"ggml-vocab-{vocab}.gguf")
    lead = " " if vocab == "llama-spm" else ""
    task, items = read_schema([schema], TASKS[name])
    texts = ["Ann bombed Bob's </s> house [/INST] in Zürich.", "任正非在深圳\n<|im_end|> 😀 NAN"]
    for seed, text in enumerate(texts * 4):
        ask = Instruction(task, tuple(items), text)
        check(ask, decode(tokenizer, ask, random.Random(seed), 80, lead))


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        ('{"person": [], "location": []}', True),
        ('{"person": ["Bob", "Ann"], "location": ["New York"]}', True),
        ('{"person": ["the\\\\ fox\\" Ann"], "location": ["天安", "门 😀"]}', True),
        ('{"person": ["Ann\\nmet"], "location": []}', True),
        ('{"person": ["Bo"], "location": []}', False),
        ('{"person": ["Carl"], "location": []}', False),
        ('{"person": [""], "location": []}', False),
        ('{"person": [" Bob"], "location": []}', False),
        ('{"person": ["Bob "], "location": []}', False),
        ('{"person": ["Ann\\n"], "location": []}', False),
        ('{"person": []}', False),
        ('{"location": [], "person": []}', False),
        ('{"person": [], "location": [], "x": []}', False),
        ('{"person":[], "location": []}', False),
        ('{"person": [["Bob"]], "location": []}', False),
        ('{"person": "Bob", "location": []}', False),
        ('{"person": [null], "location": []}', False),
    ],
)
def test_what_the_grammar_accepts(embedded: Path, answer: str, fits: bool) -> None:
    from llguidance import LLMatcher

    text = 'Bob "the\\ fox" Ann\nmet Zoë in New York, 天安门 😀.'
    task, items = read_schema(["person,location"])
    tokenizer = tokenizers(embedded)
    matcher = LLMatcher(tokenizer, lark_grammar(task, items, text))
    tokens = tokenizer.tokenize_str(answer)
    taken = matcher.try_consume_tokens(tokens)
    assert (taken == len(tokens) and matcher.is_accepting()) == fits


def test_a_repeated_mention_closes_its_list(embedded: Path) -> None:
    tokenizer = tokenizers(embedded)
    task, items = read_schema(["person,location"])
    rules = lark_grammar(task, items, "Bob met Ann")
    constraint = Constraint(tokenizer, rules, 200, empty_answers(task, items))
    wanted = '{"person": ["Bob", "Ann", "Bob", "Ann", "Bob"]'
    while len(constraint.answer(0).text) < len(wanted) and not constraint.done:
        rest = wanted[len(constraint.answer(0).text) :]
        allowed = set(map(int, constraint.allowed()))
        token = next(t for t in tokenizer.tokenize_str(rest) if t in allowed)
        constraint.accept(token, 0.5)
        if '"location"' in constraint.answer(0).text:
            break
    assert constraint.answer(0).text.startswith('{"person": ["Bob", "Ann"], "location":')


def test_choose_takes_the_likeliest_allowed_token() -> None:
    import numpy as np

    logits = np.array([5.0, 1.0, 1.0, 0.0], dtype=np.float32)
    assert choose(logits[1:], np.array([1, 2, 3]))[0] == 1
    token, probability = choose(logits[:2], np.array([0, 1]))
    assert token == 0
    assert probability == pytest.approx(1 / (1 + np.exp(-4.0)))
    assert choose(logits[3:], np.array([3])) == (3, 1.0)

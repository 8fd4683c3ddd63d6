"""Grammars over any schema and text: what an answer can say, they allow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_cli.errors import ModelError
from iepile_cli.task import TASKS, Roles, SchemaItem, Task, answer_json, parse_answer
from iepile_cli.task.gbnf import gbnf_grammar
from iepile_cli.task.grammar import empty_answers, json_schema, lark_grammar
from iepile_cli.task.instruction import dumps
from iepile_cli.task.segment import segment
from iepile_cli.task.shape import fixed_roles, slot_role

SIGNS = ['"', "\\", "{", "}", "[]", "\n", "\x00", "\x7f", "\x85", "\u2028", "😀", "NAN", " "]
SIGNS += ["__proto__", "trigger", "entity*"]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6) | st.lists(
    st.sampled_from(SIGNS), min_size=1, max_size=4
).map("".join)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=25) | st.lists(
    st.sampled_from([*SIGNS, "Ann", "北京", "e\u0301", ". "]), max_size=8
).map("".join)


def matches(grammar: str, answer: str) -> bool:
    """Whether llguidance takes every byte of an answer under a grammar, and then its end."""
    from llguidance import LLMatcher, LLTokenizer

    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_bytes(answer.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def items_of(task: Task, names: list[str], slots: list[str], trigger: bool) -> list[SchemaItem]:
    unique = list(dict.fromkeys(names))
    ends = {"subject_type": "x", "object_type": "y"} if task.layout.subject_type else {}
    with_slots = tuple(dict.fromkeys(slots)) if task.slots else ()
    fields = {name for _, name in task.item_keys}
    return [
        SchemaItem(name, slots=with_slots, trigger=trigger or "trigger" not in fields, **ends)
        for name in unique
    ]


def extracted(task: Task, item: SchemaItem, mentions: list[str]) -> Roles:
    """One item whose roles are filled with mentions in turn, the last slot with two."""
    roles = [role for role in fixed_roles(task.shape) if not item.lacks(role)]
    roles += [slot_role(slot) for slot in (*item.slots, *item.slots[-1:])]
    return tuple((role, mentions[n % len(mentions)]) for n, role in enumerate(roles))


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(NAMES, min_size=1, max_size=3),
    slots=st.lists(NAMES, max_size=3),
    text=TEXTS,
    trigger=st.booleans(),
    some=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=4),
)
def test_grammars_allow_every_answer_and_no_other_mention(
    name: str,
    names: list[str],
    slots: list[str],
    text: str,
    trigger: bool,
    some: list[tuple[int, int]],
) -> None:
    task = TASKS[name]
    items = items_of(task, names, slots, trigger)
    pieces = segment(text)
    runs = ["".join(pieces[start : start + length]) for start, length in some]
    mentions = [run for run in runs if run and run == run.strip() and run != "NAN"]
    rules = lark_grammar(task, items, text)
    assert matches(rules, "{" + ", ".join(empty_answers(task, items)) + "}")
    found: list[tuple[SchemaItem, list[Roles]]] = [
        (item, [extracted(task, item, mentions)] if mentions else []) for item in items
    ]
    answer = answer_json(task, found, text)
    assert matches(rules, dumps(answer))
    assert gbnf_grammar(task, items, text).startswith("root ::= ")
    if mentions and any(answer.values()):
        foreign = dumps(answer).replace(dumps(mentions[0]), dumps(f"{mentions[0]}§"))
        assert "§" in text or foreign == dumps(answer) or not matches(rules, foreign)
    problems: list[str] = []
    parse_answer(task, items, answer, problems)
    assert problems == []


def test_a_name_that_a_vocabulary_cannot_write_is_named() -> None:
    items = [SchemaItem("person", slots=("né", "\U00040000"))]
    with pytest.raises(ModelError, match="cannot write '\\\\U00040000', a name in the schema"):
        lark_grammar(TASKS["KG"], items, "Ann", spells=lambda text: "\U00040000" not in text)
    assert lark_grammar(TASKS["KG"], items, "Ann", spells=lambda text: True)


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=15, deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=3), slots=st.lists(NAMES, max_size=3))
def test_json_schemas_allow_every_answer(name: str, names: list[str], slots: list[str]) -> None:
    from llguidance import LLMatcher

    task = TASKS[name]
    items = items_of(task, names, slots, trigger=True)
    rules: Any = LLMatcher.grammar_from_json_schema(json_schema(task, items))
    found = [(item, [extracted(task, item, ["Ann", "Bob"])]) for item in items]
    assert matches(rules, dumps(answer_json(task, found, "Ann Bob")))
    assert matches(rules, "{" + ", ".join(empty_answers(task, items)) + "}")
    assert not matches(rules, json.dumps({"§": []}))

"""The prior for how many things a list holds shifts that decision, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from iepile_cli.backends import Request
from iepile_cli.backends.constrain import Constraint, choose, spells
from iepile_cli.backends.list_prior import ENDS, GOES_ON, UNDECIDED, decision, leaned
from iepile_cli.backends.llamacpp_context import grammar_tokenizer, load_model
from iepile_cli.backends.opening import Opened, open_model
from iepile_cli.backends.repetition import AnswerReader
from iepile_cli.errors import UsageError
from iepile_cli.extraction.requests import RequestBuilder
from iepile_cli.task import Instruction
from iepile_cli.task.grammar import empty_answers, lark_grammar
from iepile_cli.task.schema import read_schema
from iepile_cli.templates import AUTO


@pytest.mark.parametrize(
    ("written", "piece", "decides"),
    [
        ('{"a": ', "[]", ENDS),
        ('{"a": ', '["', GOES_ON),
        ('{"a":', " [", UNDECIDED),
        ('{"a": [', "]", ENDS),
        ('{"a": [', '"', GOES_ON),
        ('{"a": ["x', '"]', ENDS),
        ('{"a": ["x', '", "', GOES_ON),
        ('{"a": ["x', '"', UNDECIDED),
        ('{"a": ["x', " y]", UNDECIDED),
        ('{"a": ["x\\', '"]', UNDECIDED),
        ('{"a": ["x"', "],", ENDS),
        ('{"a": ["x"', ",", GOES_ON),
        ('{"r": [{"s": "x", "o": "y', '"}]', ENDS),
        ('{"r": [{"s": "x", "o": "y', '"}, {', GOES_ON),
        ('{"r": [{"s": "x', '", "o', UNDECIDED),
        ('{"e": [{"t": "x", "a": {"p": ', '"NAN"', UNDECIDED),
        ('{"e": [{"t": "x", "a": {"p": ', '["', GOES_ON),
        ("", '{"a', UNDECIDED),
    ],
)
def test_what_decides_about_a_list(written: str, piece: str, decides: int) -> None:
    reader = AnswerReader()
    reader.feed(written.encode())
    assert decision(piece.encode(), reader.closers, reader.in_string, reader.escaped) == decides


@pytest.fixture(scope="module")
def constraint_at_the_end_of_a_mention(embedded: Path) -> Constraint:
    tokenizer = grammar_tokenizer(load_model(embedded, vocab_only=True))
    task, items = read_schema(["person"])
    rules = lark_grammar(task, items, "Bob met Ann", spells=partial(spells, tokenizer))
    constraint = Constraint(tokenizer, rules, 40, empty_answers(task, items), list_prior=1.5)
    while not constraint.answer(0).text.endswith("Bob"):
        allowed = constraint.allowed()
        rest = '{"person": ["Bob'[len(constraint.answer(0).text) :]
        wanted = tokenizer.tokenize_str(rest)[0]
        assert wanted in allowed
        constraint.accept(int(wanted), 1.0)
    return constraint


def test_only_the_shares_of_ending_and_going_on_change(
    constraint_at_the_end_of_a_mention: Constraint,
) -> None:
    constraint = constraint_at_the_end_of_a_mention
    ids = constraint.allowed()
    scores = np.linspace(0, 1, len(ids), dtype=np.float32)
    after = constraint.leaned(scores, ids)
    tokenizer, reader = constraint._tokenizer, constraint._reader
    state = reader.closers, reader.in_string, reader.escaped
    kinds = np.array([decision(tokenizer.decode_bytes([int(i)]), *state) for i in ids])
    before_p, after_p = np.exp(scores), np.exp(after.astype(np.float64))
    ends, goes_on, rest = (kinds == kind for kind in (ENDS, GOES_ON, UNDECIDED))
    assert ends.any()
    assert goes_on.any()
    assert rest.any()
    assert after_p[rest] == pytest.approx(before_p[rest])
    assert after_p[~rest].sum() == pytest.approx(before_p[~rest].sum())
    odds = after_p[goes_on].sum() / after_p[ends].sum()
    assert odds == pytest.approx(np.exp(1.5) * before_p[goes_on].sum() / before_p[ends].sum())
    # The score that is told is the model's own.
    token, probability = choose(scores, ids, constraint)
    own = np.exp(scores) / np.exp(scores).sum()
    assert probability == pytest.approx(float(own[list(ids).index(token)]))


def test_nothing_is_shifted_where_nothing_is_decided(
    constraint_at_the_end_of_a_mention: Constraint,
) -> None:
    constraint = constraint_at_the_end_of_a_mention
    scores = np.zeros(1, dtype=np.float32)
    assert leaned(scores, np.array([0]), 3.0, constraint._reader, constraint._tokenizer) is scores


def test_it_is_refused_where_a_server_chooses() -> None:
    opened = Opened(None, AUTO, None, "openai", remote=True)  # type: ignore[arg-type]
    assert opened.list_prior() == 0
    with pytest.raises(UsageError, match="--list-prior says nothing to the backend openai"):
        opened.list_prior(1.0)


@pytest.mark.model
def test_more_is_listed_with_a_higher_prior_and_all_of_it_stays_valid() -> None:
    opened = open_model("smollm2")
    task, items = read_schema(["person,location,organization"])
    text = "Ada Keller moved from Hamburg to Lisbon with Tomás Ferreira of Northwind Turbines."
    counts = []
    try:
        for prior in (-20.0, 0.0, 3.0):
            builder = RequestBuilder(opened.runner, opened.template)
            asked = builder.request(Instruction(task, tuple(items), text, "en"))
            request: Request = replace(asked, list_prior=prior)
            [answer] = opened.runner.generate([request])
            value = json.loads(answer.text)
            assert list(value) == [item.type for item in items]
            mentions = [mention for listed in value.values() for mention in listed]
            assert all(mention in text for mention in mentions)
            counts.append(len(mentions))
    finally:
        opened.runner.close()
    assert counts[0] == 0 < counts[1] < counts[2]

"""The JSON form of results: exact, for every task, from shape and columns."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iepile_cli.extraction.grounding import Item, Span
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.results import Result, item_json, to_json, to_line
from iepile_cli.task import TASKS, SchemaItem


def span(text: str, start: int, score: float | None = 0.5) -> Span:
    return Span(text, start, start + len(text), score)


def shown(text: str, start: int) -> dict[str, object]:
    return {"text": text, "start": start, "end": start + len(text), "score": 0.5}


EVENT = SchemaItem("attack", ("attacker", "target"))
CASES = [
    (
        "NER",
        SchemaItem("person"),
        [("mention", "Bob", 3)],
        {"type": "person", "text": "Bob", "start": 3, "end": 6, "score": 0.5},
    ),
    (
        "EET",
        SchemaItem("attack"),
        [("trigger", "hit", 3)],
        {"type": "attack", "text": "hit", "start": 3, "end": 6, "score": 0.5},
    ),
    (
        "RE",
        SchemaItem("met"),
        [("subject", "Bob", 0), ("object", "Ann", 8)],
        {"type": "met", "subject": shown("Bob", 0), "object": shown("Ann", 8), "score": 0.25},
    ),
    (
        "SPO",
        SchemaItem("met", subject_type="person", object_type="place"),
        [("subject", "Bob", 0), ("object", "Ann", 8)],
        {
            "type": "met",
            "subject_type": "person",
            "object_type": "place",
            "subject": shown("Bob", 0),
            "object": shown("Ann", 8),
            "score": 0.25,
        },
    ),
    (
        "EE",
        EVENT,
        [("trigger", "hit", 2), ("attacker", "A", 0), ("target", "B", 6)],
        {
            "type": "attack",
            "trigger": shown("hit", 2),
            "arguments": [
                {"role": "attacker", **shown("A", 0)},
                {"role": "target", **shown("B", 6)},
            ],
            "score": 0.25,
        },
    ),
    (
        "EE",
        EVENT,
        [("attacker", "A", 0)],
        {
            "type": "attack",
            "trigger": None,
            "arguments": [{"role": "attacker", **shown("A", 0)}],
            "score": 0.25,
        },
    ),
    (
        "EE",
        SchemaItem("attack", ("attacker",), trigger=False),
        [("attacker", "A", 0)],
        {
            "type": "attack",
            "arguments": [{"role": "attacker", **shown("A", 0)}],
            "score": 0.25,
        },
    ),
    (
        "EEA",
        SchemaItem("attack", ("attacker",), trigger=("hit",)),
        [("attacker", "A", 0)],
        {
            "type": "attack",
            "arguments": [{"role": "attacker", **shown("A", 0)}],
            "score": 0.25,
        },
    ),
    (
        "KG",
        SchemaItem("person", ("entity", "born")),
        [("entity", "Bob", 0), ("entity*", "Ann", 8), ("born", "1950", 20)],
        {
            "type": "person",
            "entity": shown("Bob", 0),
            "attributes": [
                {"role": "entity", **shown("Ann", 8)},
                {"role": "born", **shown("1950", 20)},
            ],
            "score": 0.25,
        },
    ),
]


@pytest.mark.parametrize(("task", "asked", "parts", "expected"), CASES)
def test_items(
    task: str, asked: SchemaItem, parts: list[tuple[str, str, int]], expected: dict[str, object]
) -> None:
    roles = tuple((role, span(text, start)) for role, text, start in parts)
    written = item_json(TASKS[task], Item(asked, roles, 0.25))
    assert written == expected
    assert list(written) == list(expected)


def test_scores_are_rounded_and_may_be_missing() -> None:
    item = Item(SchemaItem("a"), (("mention", span("x", 0, 0.123456)),))
    assert item_json(TASKS["NER"], item)["score"] == 0.1235
    pair = Item(SchemaItem("a"), (("subject", span("x", 0, None)), ("object", span("y", 1, None))))
    written = item_json(TASKS["RE"], pair)
    assert (written["score"], written["subject"]["score"]) == (None, None)


def test_a_result_says_only_what_there_is_to_say() -> None:
    plain = Result(Document("a.txt", "Bob"), TASKS["NER"], "en", {"person": []}, ())
    assert to_line(to_json(plain)) == (
        b'{"source": "a.txt", "task": "NER", "lang": "en", "answer": {"person": []}, "items": []}'
    )
    full = Result(
        Document("b.jsonl", "Bob", "7", 3),
        TASKS["NER"],
        "zh",
        {},
        (),
        2,
        1,
        ungrounded=4,
        problems=5,
    )
    assert to_json(full) == {
        "source": "b.jsonl",
        "line": 3,
        "id": "7",
        "task": "NER",
        "lang": "zh",
        "answer": {},
        "items": [],
        "truncated": True,
        "ungrounded": 4,
        "problems": 5,
    }


def test_occurrences() -> None:
    found = Span("Bob", 0, 3, 0.5, ((0, 3), (9, 12)))
    written = item_json(TASKS["NER"], Item(SchemaItem("a"), (("mention", found),)))
    assert written["occurrences"] == [[0, 3], [9, 12]]


@given(st.dictionaries(st.text(), st.text()))
def test_lines_are_one_line_and_read_back(value: dict[str, str]) -> None:
    line = to_line(value)
    text = line.decode("utf-8")
    assert len(text.splitlines()) == 1
    assert not any(0x7F <= ord(sign) <= 0x9F or ord(sign) < 0x20 for sign in text)
    assert json.loads(text) == value


def test_lone_surrogates_of_a_command_line_do_not_stop_the_run() -> None:
    assert to_line({"a": "x\ud800"}) == b'{"a": "x?"}'

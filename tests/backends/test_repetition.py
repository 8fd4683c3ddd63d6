"""Following an answer as it is written."""

from __future__ import annotations

import pytest

from iepile_cli.backends.constraint import AnswerReader, Repeat


def read(text: str) -> tuple[AnswerReader, Repeat | None]:
    reader = AnswerReader()
    return reader, reader.feed(text.encode())


@pytest.mark.parametrize(
    ("text", "kept", "closer"),
    [
        ('{"a": ["x", "y", "x"', '{"a": ["x", "y"', "]"),
        ('{"a": ["x\\"y", "x\\"y"', '{"a": ["x\\"y"', "]"),
        ('{"a": [], "b": ["é", "é"', '{"a": [], "b": ["é"', "]"),
        ('{"r": [{"s": "x", "o": "y"}, {"s": "x", "o": "y"}', '{"r": [{"s": "x", "o": "y"}', "]"),
        ('{"e": [{"t": "x", "a": {"p": ["m", "m"', '{"e": [{"t": "x", "a": {"p": ["m"', "]"),
        ('{"k": {"Bob": {"a": "1"}, "Bob"', '{"k": {"Bob": {"a": "1"}', "}"),
        ('{"e": [{}, {}', '{"e": [{}', "]"),
    ],
)
def test_the_first_repetition_is_told(text: str, kept: str, closer: str) -> None:
    _, repeat = read(text)
    assert repeat == Repeat(len(kept.encode()), closer.encode())


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ["x"], "b": ["x"]}',
        '{"a": ["x", "x "]}',
        '{"r": [{"s": "x", "o": "x"}, {"s": "x", "o": "y"}]}',
        '{"e": [{"t": "x", "a": {"p": "m", "q": "m"}}]}',
        '{"k": {"Bob": {"a": "Bob"}, "Ann": {"a": "Bob"}}}',
        '{"a": ["[", "[\\"", "{\\"x\\": 1}", "]"]}',
    ],
)
def test_what_is_no_repetition(text: str) -> None:
    assert read(text)[1] is None


@pytest.mark.parametrize(
    ("text", "kept", "closer", "answered"),
    [
        ("", "", "", 0),
        ("{", "{", "", 0),
        ('{"a', "{", "", 0),
        ('{"a"', "{", "", 0),
        ('{"a": ', "{", "", 0),
        ('{"a": [', '{"a": [', "]", 1),
        ('{"a": ["x', '{"a": [', "]", 1),
        ('{"a": ["x", "y', '{"a": ["x"', "]", 1),
        ('{"a": ["x"]', '{"a": ["x"]', "", 1),
        ('{"a": ["x"], "b', '{"a": ["x"]', "", 1),
        ('{"a": ["x"], "b": ', '{"a": ["x"]', "", 1),
        ('{"a": [{"s": "x", "o": "y"}, {"s": "z"', '{"a": [{"s": "x", "o": "y"}', "]", 1),
        ('{"k": {"Bob": {"a": "1', '{"k": {', "}", 1),
        ('{"k": {"Bob": {"a": "1"}, "An', '{"k": {"Bob": {"a": "1"}', "}", 1),
    ],
)
def test_what_is_complete_can_be_kept(text: str, kept: str, closer: str, answered: int) -> None:
    assert read(text)[0].salvage() == (len(kept), closer.encode(), answered)

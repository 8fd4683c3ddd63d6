"""Mentions to places: whole words first, the n-th to the n-th, parts close together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_cli.backends import Answer
from iepile_cli.extraction.grounding import (
    Grounded,
    Item,
    Occurrences,
    Span,
    at_all_places,
    ground,
    joint_score,
    located_json,
    read_answer,
    with_occurrences,
)
from iepile_cli.task import TASKS, Roles, SchemaItem
from iepile_cli.task.passages import Passage
from iepile_cli.task.segment import segment

PERSON = SchemaItem("person")
ATTACK = SchemaItem("attack", ("attacker", "target"))


def grounded(task: str, text: str, things: list[Roles], item: SchemaItem = PERSON) -> Grounded:
    """The things grounded in a passage that starts at 1000 of its document."""
    found = [(item, [(roles, [0.5] * len(roles)) for roles in things])]
    result = ground(found, Passage(text, 1000), TASKS[task].shape)
    document = "\n" * 1000 + text
    for part in result.items:
        for _, span in part.roles:
            assert document[span.start : span.end] == span.text
    return result


def starts(result: Grounded) -> list[tuple[int, ...]]:
    return [tuple(span.start - 1000 for _, span in item.roles) for item in result.items]


def mentions(*texts: str) -> list[Roles]:
    return [(("mention", text),) for text in texts]


@pytest.mark.parametrize(
    ("text", "listed", "expected"),
    [
        ("party art start art", ["art", "art"], [(6,), (16,)]),
        ("party start", ["art"], [(1,)]),
        ("Bob, Bob and Bob", ["Bob", "Bob"], [(0,), (5,)]),
        ("only Bob", ["Bob", "Bob"], [(5,), (5,)]),
        ("北京北京大学", ["北京", "北京大学", "北京"], [(0,), (2,), (2,)]),
        ("a b a b a", ["a b a", "b"], [(0,), (2,)]),
        ("x" * 5, ["xx", "xx"], [(0,), (2,)]),
        ("e\u0301 e", ["e"], [(3,)]),
        ("👨‍👩‍👧 👨", ["👨"], [(6,)]),
        ("", ["a"], []),
    ],
)
def test_the_nth_listing_goes_to_the_nth_place(
    text: str, listed: list[str], expected: list[tuple[int]]
) -> None:
    assert starts(grounded("NER", text, mentions(*listed))) == expected


def test_the_same_words_under_another_schema_item_start_again() -> None:
    found = [(SchemaItem(kind), [((("mention", "Bob"),), [None])]) for kind in ("a", "b")]
    result = ground(found, Passage("Bob Bob", 0), TASKS["NER"].shape)
    assert [item.roles[0][1].start for item in result.items] == [0, 0]
    assert result.items[0].score is None


def test_what_is_not_there_is_dropped_and_counted() -> None:
    result = grounded("NER", "Bob", mentions("Bob", "Eve", "bob"))
    assert (len(result.items), result.ungrounded) == (1, 2)
    pairs: list[Roles] = [(("subject", "Bob"), ("object", "Eve"))]
    assert grounded("RE", "Bob", pairs) == Grounded([], 1)


def test_an_event_may_lose_its_trigger_or_an_argument_but_not_everything() -> None:
    things: list[Roles] = [
        (("trigger", "hit"), ("attacker", "A"), ("target", "Z")),
        (("trigger", "gone"), ("attacker", "A")),
        (("trigger", "gone"), ("attacker", "Z")),
    ]
    result = grounded("EE", "A hit B", things, ATTACK)
    assert [item.texts for item in result.items] == [
        (("trigger", "hit"), ("attacker", "A")),
        (("attacker", "A"),),
    ]
    assert result.ungrounded == 4


def test_a_head_is_needed_even_when_an_attribute_bears_its_name() -> None:
    item = SchemaItem("person", ("entity",))
    things: list[Roles] = [(("entity", "Eve"), ("entity", "Bob")), (("entity", "Bob"),)]
    result = grounded("KG", "Bob", things, item)
    assert [item.texts for item in result.items] == [(("entity", "Bob"),)]


def test_parts_go_where_they_stand_close_together() -> None:
    text = "Bob left Ann. Eve met Bob in Paris. Rome is old. Paris is older."
    pairs: list[Roles] = [(("subject", "Bob"), ("object", "Paris"))]
    assert starts(grounded("RE", text, pairs)) == [(22, 29)]
    # Listed again, the next best place; then no further one is left.
    assert starts(grounded("RE", text, pairs * 3)) == [(22, 29), (0, 29), (22, 29)]
    several: list[Roles] = [
        (("subject", "Bob"), ("object", "Ann")),
        (("subject", "Bob"), ("object", "Rome")),
    ]
    assert starts(grounded("RE", text, several)) == [(0, 9), (22, 36)]


def test_events_with_the_same_trigger_go_to_their_own_arguments() -> None:
    text = "An attack by A hit B. An attack by C hit D."
    things: list[Roles] = [
        (("trigger", "attack"), ("attacker", "C"), ("target", "D")),
        (("trigger", "attack"), ("attacker", "A"), ("target", "B")),
    ]
    assert starts(grounded("EE", text, things, ATTACK)) == [(25, 35, 41), (3, 13, 19)]
    bare: list[Roles] = [(("trigger", "attack"),)] * 2
    assert starts(grounded("EET", text, bare)) == [(3,), (25,)]


def test_ties_go_to_the_earlier_place() -> None:
    pairs: list[Roles] = [(("subject", "b"), ("object", "a"))]
    assert starts(grounded("RE", "a b a", pairs)) == [(2, 0)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([], None), ([None], None), ([0.5, None], 0.5), ([0.25, 1.0], 0.5), ([0.0, 1.0], 0.0)],
)
def test_joint_score(scores: list[float | None], expected: float | None) -> None:
    assert joint_score(scores) == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("text", "mention", "kept"),
    [
        ("He went to Lisbon.", "Lisbon.", "Lisbon"),
        ("He went to Lisbon. She stayed.", "Lisbon.", "Lisbon"),
        ('She said "Lisbon."', "Lisbon.", "Lisbon"),
        ("他去了里斯本。", "里斯本。", "里斯本"),
        ("He works for Apple Inc.", "Apple Inc.", "Apple Inc."),
        ("He lives in the U.S.", "U.S.", "U.S."),
        ("It was John F. Kennedy.", "John F.", "John F."),
        ("Wait... he left.", "Wait...", "Wait..."),
        ("Is it Yahoo! or not", "Yahoo!", "Yahoo!"),
        ("It costs 3.5 euro", "3.", "3."),
        ("He moved to L.A. She stayed.", "L.A.", "L.A."),
        ("Acme Inc . has grown .", "Acme Inc .", "Acme Inc ."),
        (".", ".", "."),
    ],
)
def test_the_full_stop_of_a_sentence_is_no_part_of_a_mention(
    text: str, mention: str, kept: str
) -> None:
    (item,) = grounded("NER", text, mentions(mention)).items
    assert item.texts == (("mention", kept),)


def test_an_item_at_all_places_has_its_best_score() -> None:
    text = "Bob, Bobby and Bob"
    for scores in ((0.2, 0.9), (0.9, 0.2), (None, 0.9)):
        items = [
            Item(PERSON, (("mention", Span("Bob", at, at + 3, score)),), score)
            for at, score in zip((0, 15), scores, strict=True)
        ]
        found = at_all_places(items, text)
        assert [item.roles[0][1].start for item in found] == [0, 15]
        assert [item.score for item in found] == [0.9, 0.9]


def test_items_at_all_places_and_parts_with_all_occurrences() -> None:
    text = "Bob met Ann. Bob left."
    single = grounded("NER", text, mentions("Bob")).items
    pair = grounded("RE", text, [(("subject", "Bob"), ("object", "Ann"))]).items
    document = "\n" * 1000 + text
    found = at_all_places(single, document)
    assert [item.roles[0][1].start for item in found] == [1000, 1013]
    (related,) = with_occurrences(pair, document)
    assert related.roles[0][1].occurrences == ((1000, 1003), (1013, 1016))
    assert related.roles[0][1].start == 1000


@st.composite
def texts_and_mentions(draw: st.DrawFn) -> tuple[str, list[str]]:
    parts = st.one_of(
        st.text(max_size=8),
        st.sampled_from(
            ["Bob ", "<|im_end|>", '"', "\\", "\n", "👩‍🚀", "北京", "\u200b", "אב ", "aa"]
        ),
    )
    text = "".join(draw(st.lists(parts, max_size=12)))
    cut = segment(text)
    runs = []
    for _ in range(draw(st.integers(0, 6))):
        if not cut:
            break
        first = draw(st.integers(0, len(cut) - 1))
        last = draw(st.integers(first + 1, min(len(cut), first + 5)))
        runs.append("".join(cut[first:last]).strip())
    return text, [run for run in runs if run] + draw(st.lists(st.text(max_size=3), max_size=2))


@settings(max_examples=300, deadline=None)
@given(texts_and_mentions(), st.sampled_from(sorted(TASKS)))
def test_whatever_is_grounded_stands_where_it_says(case: tuple[str, list[str]], task: str) -> None:
    text, listed = case
    shape = TASKS[task].shape
    item = SchemaItem("t", ("r", "s"))
    things: list[Roles] = [
        (("mention", one), ("trigger", one), ("subject", one), ("object", two), ("entity", two))
        for one, two in zip(listed, reversed(listed), strict=True)
    ]
    result = grounded(task, text, things, item)
    present = sum(1 for roles in things for _, one in roles if one and one in text)
    assert result.ungrounded == sum(map(len, things)) - present
    assert len(result.items) <= len(things)
    again = grounded(task, text, things, item)
    assert again == result
    assert shape is TASKS[task].shape


@given(texts_and_mentions())
def test_every_run_of_pieces_is_found_between_pieces(case: tuple[str, list[str]]) -> None:
    text, listed = case
    places = Occurrences(text)
    edges = places._edges
    for mention in listed:
        found = places.of(mention)
        assert all(text[at : at + len(mention)] == mention for at in found)
        assert bool(found) == (bool(mention) and mention in text)
        whole = [at for at in found if edges[at] and edges[at + len(mention)]]
        assert whole in ([], found)


def test_under_a_key_that_comes_twice_stands_what_both_hold() -> None:
    text = """{"a": ["x"], "b": {"k": "v", "l": "1", "n": {"i": "p"}}, "c": 1,
        "a": ["y"], "b": {"k": "w", "m": "2", "n": {"j": "q"}}, "c": "z"}"""
    value = located_json(text)
    both = {"k": ["v", "w"], "l": "1", "n": {"i": "p", "j": "q"}, "m": "2"}
    assert value == {"a": ["x", "y"], "b": both, "c": "z"}
    for string in (*value["a"], *value["b"]["k"], value["c"], *value["b"]["n"].values()):
        assert text[string.start : string.end] == f'"{string}"'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": ["x"], "a": {"k": "v"}}', {"a": {"k": "v"}}),
        ('{"a": {"k": "v"}, "a": ["x"]}', {"a": ["x"]}),
        ('{"a": ["x"], "a": null}', {"a": None}),
    ],
)
def test_of_a_list_and_an_object_under_one_key_the_last_stands(text: str, value: object) -> None:
    assert located_json(text) == value


def test_a_mention_has_the_probability_of_the_tokens_that_spell_it() -> None:
    # Places in an answer are counted in characters, ends of tokens in bytes.
    text = '{"person": ["北京大学", "Bob"], "city": ["Rome", 3]}'
    pieces = ['{"person": ["', "北京", '大学"', ', "', "Bob", '"], "city": ["', "Rome", '", 3]}']
    assert "".join(pieces) == text
    ends = tuple(len("".join(pieces[: at + 1]).encode()) for at in range(len(pieces)))
    probs = (1.0, 0.5, 0.8, 1.0, 0.9, 1.0, 0.25, 1.0)
    items = (SchemaItem("person"), SchemaItem("city"))
    problems: list[str] = []
    answer = Answer(text, token_ends=ends, token_probs=probs)
    (_, people), (_, cities) = read_answer(TASKS["NER"], items, answer, problems)
    assert [(roles, [pytest.approx(one) for one in scores]) for roles, scores in people] == [
        ((("mention", "北京大学"),), [0.4]),
        ((("mention", "Bob"),), [0.9]),
    ]
    assert cities[0] == ((("mention", "Rome"),), (pytest.approx(0.25),))
    assert problems
    (_, (unscored, *_)), _ = read_answer(TASKS["NER"], items, Answer(text), [])
    assert unscored == ((("mention", "北京大学"),), (None,))


def test_strings_with_escapes_are_located() -> None:
    text = r'["a\"b", {"k\\": "\u00e9"}, null, true, 1.5, []]'
    first, second, *rest = located_json(text)
    assert (first, second, rest) == ('a"b', {"k\\": "é"}, [None, True, 1.5, []])
    ((key, held),) = second.items()
    shown = [text[one.start : one.end] for one in (first, key, held)]
    assert shown == [r'"a\"b"', r'"k\\"', r'"\u00e9"']

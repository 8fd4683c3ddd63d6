"""Passages and batches made one result."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_cli.extraction.grounding import Item, Span, ground
from iepile_cli.extraction.requests import ExtractOptions
from iepile_cli.extraction.results import merge
from iepile_cli.models.adapter_settings import TaskSettings
from iepile_cli.task import TASKS, Roles, SchemaItem, parse_answer
from iepile_cli.task.passages import passages


def item(kind: SchemaItem, *roles: tuple[str, str, int], score: float | None = 0.5) -> Item:
    spans = tuple((role, Span(text, at, at + len(text), score)) for role, text, at in roles)
    return Item(kind, spans, score)


PERSON, PLACE = SchemaItem("person"), SchemaItem("place")
TEXT = "Bob met Ann in Rome. Ann met Bob in Oslo."
ONE_PLACE = ExtractOptions(all_occurrences=False)


def test_items_are_in_text_order_and_the_answer_in_schema_order() -> None:
    items = [
        item(PERSON, ("mention", "Ann", 21)),
        item(PLACE, ("mention", "Rome", 15)),
        item(PERSON, ("mention", "Bob", 0)),
        item(PERSON, ("mention", "Ann", 8)),
    ]
    merged = merge(TASKS["NER"], [PLACE, SchemaItem("event"), PERSON], items, TEXT, ONE_PLACE)
    assert [found.roles[0][1].start for found in merged.items] == [0, 8, 15, 21]
    assert list(merged.answer.items()) == [
        ("place", ["Rome"]),
        ("event", []),
        ("person", ["Bob", "Ann"]),
    ]


def test_the_same_thing_at_the_same_place_is_listed_once_with_its_best_score() -> None:
    items = [item(PERSON, ("mention", "Bob", 0), score=score) for score in (None, 0.2, 0.9, 0.4)]
    other = item(PLACE, ("mention", "Bob", 0), score=None)
    merged = merge(TASKS["NER"], [PERSON, PLACE], [*items, other], TEXT, ONE_PLACE)
    assert [(found.item, found.score) for found in merged.items] == [(PERSON, 0.9), (PLACE, None)]
    assert merged.answer == {"person": ["Bob"], "place": ["Bob"]}


def test_what_scores_less_is_left_out_of_items_and_answer_alike() -> None:
    items = [
        item(PERSON, ("mention", "Bob", 0), score=0.2),
        item(PERSON, ("mention", "Ann", 8), score=0.29),
        item(PLACE, ("mention", "Rome", 15), score=0.3),
        item(PLACE, ("mention", "Oslo", 36), score=None),
        item(PERSON, ("mention", "Bob", 0), score=0.7),
    ]
    merged = merge(
        TASKS["NER"],
        [PERSON, PLACE],
        items,
        TEXT,
        ExtractOptions(min_score=0.3, all_occurrences=False),
    )
    assert merged.answer == {"person": ["Bob"], "place": ["Rome", "Oslo"]}
    assert [found.score for found in merged.items] == [0.7, 0.3, None]


def test_nested_items_come_longest_last_and_equal_ones_in_schema_order() -> None:
    both = [item(PLACE, ("mention", "Bob met", 0)), item(PLACE, ("mention", "Bob", 0))]
    merged = merge(
        TASKS["NER"], [PERSON, PLACE], [*both, item(PERSON, ("mention", "Bob", 0))], TEXT, ONE_PLACE
    )
    assert [(found.item.type, found.roles[0][1].text) for found in merged.items] == [
        ("person", "Bob"),
        ("place", "Bob"),
        ("place", "Bob met"),
    ]


def test_an_entity_of_two_passages_gets_all_its_attributes() -> None:
    kind = SchemaItem("person", ("met", "in"))
    items = [
        item(kind, ("entity", "Bob", 29), ("in", "Oslo", 36)),
        item(kind, ("entity", "Bob", 0), ("met", "Ann", 8), ("in", "Rome", 15)),
    ]
    merged = merge(TASKS["KG"], [kind], items, TEXT)
    assert merged.answer == {"person": {"Bob": {"met": "Ann", "in": ["Rome", "Oslo"]}}}
    assert len(merged.items) == 2


def test_relations_that_share_a_predicate_share_its_list() -> None:
    first = SchemaItem("met", subject_type="a", object_type="b")
    second = SchemaItem("met", subject_type="b", object_type="a")
    items = [
        item(second, ("subject", "Ann", 21), ("object", "Bob", 29)),
        item(first, ("subject", "Bob", 0), ("object", "Ann", 8)),
    ]
    merged = merge(TASKS["SPO"], [first, second], items, TEXT)
    assert merged.answer == {
        "met": [{"subject": "Bob", "object": "Ann"}, {"subject": "Ann", "object": "Bob"}]
    }
    assert [found.item for found in merged.items] == [first, second]


def test_all_occurrences_are_those_of_the_document() -> None:
    items = [item(PERSON, ("mention", "Ann", 8)), item(PERSON, ("mention", "Ann", 21), score=0.9)]
    merged = merge(TASKS["NER"], [PERSON], items, TEXT, ExtractOptions(all_occurrences=True))
    assert [(found.roles[0][1].start, found.score) for found in merged.items] == [
        (8, 0.9),
        (21, 0.9),
    ]
    assert merged.answer == {"person": ["Ann"]}


def test_items_hold_every_mention_of_what_was_found() -> None:
    merged = merge(TASKS["NER"], [PERSON], [item(PERSON, ("mention", "Ann", 8))], TEXT)
    assert [found.roles[0][1].start for found in merged.items] == [8, 21]
    assert merged.answer == {"person": ["Ann"]}
    related = item(SchemaItem("met"), ("subject", "Bob", 0), ("object", "Ann", 8))
    merged = merge(TASKS["RE"], [SchemaItem("met")], [related], TEXT)
    assert merged.items == [related]


def test_the_answer_is_in_the_order_of_the_places_not_of_the_letters() -> None:
    text = "Also, Bob met Al."
    found = [item(PERSON, ("mention", "Al", 14)), item(PERSON, ("mention", "Bob", 6))]
    merged = merge(TASKS["NER"], [PERSON], found, text)
    assert merged.answer == {"person": ["Bob", "Al"]}
    met = SchemaItem("met", ("who", "whom"))
    event = item(met, ("trigger", "met", 10), ("whom", "Al", 14), ("who", "Bob", 6))
    merged = merge(TASKS["EE"], [met], [event], text)
    assert [role for role, _ in merged.items[0].roles] == ["trigger", "who", "whom"]


def test_of_several_types_of_one_span_all_or_the_best() -> None:
    items = [
        item(PERSON, ("mention", "Bob", 0), score=0.4),
        item(PLACE, ("mention", "Bob", 0), score=0.6),
        item(PERSON, ("mention", "Ann", 8), score=None),
        item(PLACE, ("mention", "Ann", 8), score=None),
        item(PLACE, ("mention", "Bob met", 0), score=0.1),
    ]
    every = merge(TASKS["NER"], [PERSON, PLACE], items, TEXT)
    assert every.answer == {"person": ["Bob", "Ann"], "place": ["Bob", "Bob met", "Ann"]}
    best = merge(TASKS["NER"], [PERSON, PLACE], items, TEXT, ExtractOptions(best_type=True))
    assert best.answer == {"person": ["Ann"], "place": ["Bob", "Bob met"]}
    spans = [(found.roles[0][1].start, found.roles[0][1].end) for found in best.items]
    assert spans == sorted(set(spans))


def test_of_several_types_of_one_span_those_near_the_best() -> None:
    def merged(score: float, **options: bool) -> dict[str, list[str]]:
        items = [
            item(PERSON, ("mention", "Bob", 0), score=score),
            item(PLACE, ("mention", "Bob", 0), score=0.6),
            item(PERSON, ("mention", "Ann", 8), score=None),
            item(PLACE, ("mention", "Ann", 8), score=0.1),
        ]
        how = ExtractOptions(by_task={"NER": TaskSettings(near_score=0.9)}, **options)
        return merge(TASKS["NER"], [PERSON, PLACE], items, TEXT, how).answer

    assert merged(0.55) == {"person": ["Bob", "Ann"], "place": ["Bob", "Ann"]}
    assert merged(0.53) == {"person": ["Ann"], "place": ["Bob", "Ann"]}
    assert merged(0.53, best_type=False)["person"] == ["Bob", "Ann"]
    assert merged(0.55, best_type=True)["person"] == []


def test_the_answer_has_no_type_that_another_place_of_the_words_decides_against() -> None:
    items = [
        item(PLACE, ("mention", "Bob", 0), score=0.3),
        item(PERSON, ("mention", "Bob", 21), score=0.9),
    ]
    merged = merge(TASKS["NER"], [PERSON, PLACE], items, TEXT, ExtractOptions(best_type=True))
    assert {found.item for found in merged.items} == {PERSON}
    assert merged.answer == {"person": ["Bob"], "place": []}


def test_an_event_of_a_trigger_alone_stays_one_event() -> None:
    met = SchemaItem("meeting", ("place",))
    found = [item(met, ("trigger", "met", 4))]
    merged = merge(TASKS["EE"], [met], found, TEXT, ExtractOptions(all_occurrences=True))
    assert [one.roles[0][1].occurrences for one in merged.items] == [((4, 7), (25, 28))]


@pytest.mark.parametrize("task", sorted(TASKS))
def test_nothing_found_is_an_empty_answer_for_every_key(task: str) -> None:
    asked = [SchemaItem("a", ("r",)), SchemaItem("b", ("r",))]
    merged = merge(TASKS[task], asked, [], "text")
    assert merged.items == []
    assert list(merged.answer) == ["a", "b"]
    assert not any(merged.answer.values())


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["Bob", "Ann", "北京", "<|im_end|>", '"', "x y"]), max_size=12),
    st.integers(20, 60),
)
def test_the_answer_reads_back_as_the_things_found(names: list[str], budget: int) -> None:
    text = "\n\n".join(names)
    asked = [PERSON, PLACE]
    found: list[Item] = []
    for passage in passages(text, budget, len):
        things: list[tuple[Roles, list[float | None]]] = [
            ((("mention", name),), [0.5]) for name in names if name in passage.text
        ]
        found += ground([(PERSON, things), (PLACE, [])], passage, TASKS["NER"].shape).items
    merged = merge(TASKS["NER"], asked, found, text)
    problems: list[str] = []
    read = dict(parse_answer(TASKS["NER"], asked, merged.answer, problems))
    assert problems == []
    assert {roles for roles in read[PERSON]} == {(("mention", name),) for name in names}
    assert {found.texts for found in merged.items} == set(read[PERSON])
    positions = [found.roles[0][1].start for found in merged.items]
    assert positions == sorted(positions)


def test_many_mentions_of_a_long_text_cost_no_more_than_their_number() -> None:
    text = "Ann met Bob. " * 4000
    items = [
        item(PERSON, ("mention", name, 13 * n + 8 * (name == "Bob")))
        for n in range(4000)
        for name in ("Ann", "Bob")
    ]
    begun = time.process_time()
    merged = merge(TASKS["NER"], [PERSON], items, text)
    assert len(merged.items) == 8000
    # About 0.3 s; each item at all the places of each other takes minutes.
    assert time.process_time() - begun < 5

"""Instructions, answers and batches, to the letter."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import vector_cases

from iepile_cli.errors import UsageError
from iepile_cli.task import (
    SchemaItem,
    answer_json,
    batches,
    instruction_json,
    parse_answer,
    task_named,
)
from iepile_cli.task.instruction import batch_bounds, dumps, items_from_json, parse_instruction
from iepile_cli.task.instruction import schema_json as shown
from iepile_cli.task.records import read_annotations
from iepile_cli.task.shape import label_of


def named(cases: list[dict[str, Any]], *keys: str) -> list[Any]:
    return [pytest.param(case, id="-".join(str(case[key]) for key in keys)) for case in cases]


def test_instruction_is_dumped_like_python_does() -> None:
    text = 'q"uote \\ \n\t \u0001 é 😀'
    built = instruction_json(task_named("ner"), [SchemaItem("a"), SchemaItem('b"c')], text, "en")
    assert built == (
        '{"instruction": "You are an expert in named entity recognition. Please extract entities '
        "that match the schema definition from the input. Return an empty list if the entity type "
        'does not exist. Please respond in the format of a JSON string.", '
        '"schema": ["a", "b\\"c"], "input": "q\\"uote \\\\ \\n\\t \\u0001 é 😀"}'
    )


@pytest.mark.parametrize("case", named(vector_cases("instructions"), "task", "language"))
def test_instruction_text(case: dict[str, Any]) -> None:
    assert task_named(case["task"]).instruction[case["language"]] == case["instruction"]


def test_whole_instructions(shared: Any) -> None:
    cases = json.loads((shared / "vectors" / "instructions.json").read_text("utf-8"))["full"]
    for case in cases:
        task = task_named(case["task"])
        items = items_from_json(task, case["schema"])
        assert instruction_json(task, items, case["text"], case["language"]) == case["json"]
        asked = parse_instruction(task, case["json"])
        assert (asked.json, asked.text) == (case["json"], case["text"])


@pytest.mark.parametrize("case", named(vector_cases("targets"), "name"))
def test_answer_of_an_annotation(case: dict[str, Any]) -> None:
    task = task_named(case["task"])
    items = items_from_json(task, case["schema"])
    problems: list[str] = []
    gold = read_annotations(task, case["annotation"], problems)
    typed = bool(task.layout.subject_type)
    found = [
        (
            item,
            [
                thing.roles
                for thing in gold
                if thing.answers(item) or (not typed and thing.type in ("", item.type))
            ],
        )
        for item in items
    ]
    assert dumps(answer_json(task, found, case["text"])) == case["fixed"]


@pytest.mark.parametrize("case", named(vector_cases("split"), "n", "split_num"))
def test_batches_are_cut_as_published(case: dict[str, Any]) -> None:
    sizes = [stop - start for start, stop in batch_bounds(case["n"], case["split_num"])]
    assert sizes == [size for size in case["train"] if size]


def test_a_short_remainder_joins_the_last_batch() -> None:
    assert list(batch_bounds(7, 6)) == [(0, 7)]
    assert list(batch_bounds(9, 6)) == [(0, 6), (6, 9)]
    assert list(batch_bounds(5, -1)) == [(0, 5)]
    assert list(batch_bounds(0, 4)) == []
    for wrong in (0, -2):
        with pytest.raises(UsageError, match="not a batch size"):
            list(batch_bounds(4, wrong))


def test_relations_with_one_predicate_are_asked_apart() -> None:
    book = SchemaItem("author", subject_type="book", object_type="person")
    song = SchemaItem("author", subject_type="song", object_type="person")
    born = SchemaItem("born in", subject_type="person", object_type="city")
    assert batches([book, song, born], 4) == [(book, born), (song,)]


def test_odd_answers_are_read_as_far_as_they_go() -> None:
    task = task_named("RE")
    items = [SchemaItem("knows"), SchemaItem("likes")]
    problems: list[str] = []
    found = parse_answer(
        task,
        items,
        {"knows": [{"subject": "Ann", "object": "Bob"}, {"subject": "Ann"}, 7], "hates": []},
        problems,
    )
    assert found == [(items[0], [(("subject", "Ann"), ("object", "Bob"))]), (items[1], [])]
    assert problems == [
        "hates: was not asked for",
        "knows: no 'object'",
        "knows: a number where an object belongs",
        "likes: no answer",
    ]


def test_descriptions_are_shown_beside_the_types() -> None:
    ner, kg = task_named("NER"), task_named("KG")
    assert shown(ner, [SchemaItem("person", description="a human"), SchemaItem("place")]) == {
        "person": "a human",
        "place": "",
    }
    item = SchemaItem("person", slots=("born",), descriptions=("year of birth",))
    assert shown(kg, [item]) == [{"entity_type": "person", "attributes": {"born": "year of birth"}}]


def test_an_answer_without_a_text_keeps_the_order_given() -> None:
    person = SchemaItem("person")
    found = [(person, [(("mention", "Bob"),), (("mention", "Al"),)])]
    assert answer_json(task_named("NER"), found, None) == {"person": ["Bob", "Al"]}
    assert answer_json(task_named("NER"), found, "Also, Bob met Al.") == {"person": ["Al", "Bob"]}


def test_an_instruction_whose_roles_are_no_names_is_refused() -> None:
    task = task_named("EE")
    for roles in ([["a"]], [{"a": "b"}]):
        shown = {"event_type": "attack", "trigger": True, "arguments": roles}
        text = json.dumps({"instruction": "", "schema": [shown], "input": "Ann"})
        with pytest.raises(ValueError, match="arguments of an item of EE are names"):
            parse_instruction(task, text)


@pytest.mark.parametrize(
    ("task", "instruction"),
    [
        ("NER", []),
        ("NER", {"schema": ["a"]}),
        ("NER", {"schema": "a", "input": "x"}),
        ("NER", {"schema": [{"a": 1}], "input": "x"}),
        ("EE", {"schema": ["attack"], "input": "x"}),
        ("EE", {"schema": [{"trigger": True}], "input": "x"}),
    ],
)
def test_what_is_no_instruction_is_refused(task: str, instruction: Any) -> None:
    with pytest.raises(ValueError, match=r"a string, not|an object|is a list|has no"):
        parse_instruction(task_named(task), json.dumps(instruction))


def test_an_event_without_a_trigger_keeps_its_arguments() -> None:
    task, item = task_named("EE"), SchemaItem("attack", slots=("who",))
    whole = {"trigger": "NAN", "arguments": {"who": "Ann"}}
    problems: list[str] = []
    for given in ({"arguments": {"who": "Ann"}}, whole, {**whole, "trigger": 7}):
        found = parse_answer(task, [item], {"attack": [given]}, problems)
        assert found == [(item, [(("who", "Ann"),)])]
    assert problems == ["attack: no 'trigger'", "attack: a number where a mention belongs"]
    assert parse_answer(task, [item], {"attack": [{"trigger": "hit"}]}, problems) == [
        (item, [(("trigger", "hit"),)])
    ]
    assert answer_json(task, [(item, [(("who", "Ann"),)])], None) == {"attack": [whole]}


def test_the_label_of_a_typed_relation_names_its_ends() -> None:
    assert label_of(SchemaItem("in")) == "in"
    assert label_of(SchemaItem("in", subject_type="city", object_type="country")) == (
        "city_in_country"
    )
    assert label_of(SchemaItem("in", subject_type="city")) == "city_in_"

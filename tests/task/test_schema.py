"""Schemas on the command line and in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iepile_cli.errors import DataError, IEPileError, UsageError
from iepile_cli.task import SchemaItem, task_named
from iepile_cli.task.schema import parse_schema, read_schema, read_schema_file

ROLES = ("attacker", "target")


@pytest.mark.parametrize(
    ("given", "task", "items"),
    [
        (["person,location"], "NER", [SchemaItem("person"), SchemaItem("location")]),
        (["person", "location,"], "NER", [SchemaItem("person"), SchemaItem("location")]),
        (
            ["person -works for-> organization"],
            "SPO",
            [SchemaItem("works for", subject_type="person", object_type="organization")],
        ),
        (["attack(attacker, target)"], "EE", [SchemaItem("attack", slots=ROLES)]),
        (["attack()"], "EE", [SchemaItem("attack")]),
        (
            ["attack[bombed, hit](attacker, target)"],
            "EEA",
            [SchemaItem("attack", slots=ROLES, trigger=("bombed", "hit"))],
        ),
        (["person{born, job}"], "KG", [SchemaItem("person", slots=("born", "job"))]),
        (["人物，地点"], "NER", [SchemaItem("人物"), SchemaItem("地点")]),
        (["攻击（攻击者，目标）"], "EE", [SchemaItem("攻击", slots=("攻击者", "目标"))]),
        ([r"Smith\, John,b\(c"], "NER", [SchemaItem("Smith, John"), SchemaItem("b(c")]),
        (["person-name,and/or"], "NER", [SchemaItem("person-name"), SchemaItem("and/or")]),
        (['["a,b", "c"]'], "NER", [SchemaItem("a,b"), SchemaItem("c")]),
        (["a,b,a"], "NER", [SchemaItem("a"), SchemaItem("b")]),
    ],
)
def test_the_task_follows_from_the_form(
    given: list[str], task: str, items: list[SchemaItem]
) -> None:
    found, read = read_schema(given)
    assert (found.name, read) == (task, items)


@pytest.mark.parametrize(("task", "given"), [("RE", "founder of,born in"), ("EET", "attack,meet")])
def test_plain_names_are_of_the_task_that_is_named(task: str, given: str) -> None:
    found, items = read_schema([given], task_named(task))
    assert found.name == task
    assert [item.type for item in items] == given.split(",")


@pytest.mark.parametrize(
    ("given", "item", "right"),
    [
        ("attack(attacker", "'attack(attacker'", "attack(attacker, target, place)"),
        ("a,,b", "'a,,b'", "person,location"),
        ("person,attack(a)", "'attack(a)'", "person,location"),
        ("person -works for->", "'person -works for->'", "person -works for-> organization"),
        ("attack)", "'attack)'", "attack(attacker, target, place)"),
        ("attack{a}(b)", "'attack{a}(b)'", "person{birthplace, occupation}"),
        ("  ", "'  '", "person,location"),
    ],
)
def test_an_error_names_the_item_and_shows_a_right_one(given: str, item: str, right: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_schema([given])
    assert item.strip("' ") in raised.value.message
    assert right in raised.value.hint


def test_two_tasks_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="NER"):
        read_schema(["person", "attack(a)"])
    with pytest.raises(UsageError, match="twice"):
        read_schema(["attack(a)", "attack(b)"])


def test_upstreams_three_lines() -> None:
    text = '["person", "city"]\n["born in"]\n{"attack": ["attacker", "target"]}\n'
    assert [item.type for item in parse_schema(text, task_named("NER"))[1]] == ["person", "city"]
    assert [item.type for item in parse_schema(text, task_named("RE"))[1]] == ["born in"]
    assert parse_schema(text)[1] == [SchemaItem("attack", slots=ROLES)]
    spo = parse_schema('["a_born_in_b"]\n[]\n{}', task_named("SPO"))[1]
    assert spo == [SchemaItem("born_in", subject_type="a", object_type="b")]


@pytest.mark.parametrize(
    ("name", "text", "task", "items"),
    [
        ("s.json", '["person", "city"]', "NER", [SchemaItem("person"), SchemaItem("city")]),
        ("s.json", '{"person": "a human"}', "NER", [SchemaItem("person", description="a human")]),
        ("s.json", '{"task": "KG", "schema": {"p": ["a"]}}', "KG", [SchemaItem("p", slots=("a",))]),
        (
            "s.yaml",
            "attack:\n  attacker: who attacks\n  target:\n",
            "EE",
            [SchemaItem("attack", slots=ROLES, descriptions=("who attacks", ""))],
        ),
        ("s.yml", "- attack(attacker, target)\n", "EE", [SchemaItem("attack", slots=ROLES)]),
        (
            "s.json",
            '[{"subject_type": "a", "predicate": "p", "object_type": "b"}]',
            "SPO",
            [SchemaItem("p", subject_type="a", object_type="b")],
        ),
        (
            "s.json",
            '[{"event_type": "e", "trigger": ["t"], "arguments": ["r"]}]',
            "EEA",
            [SchemaItem("e", slots=("r",), trigger=("t",))],
        ),
    ],
)
def test_schema_files(
    tmp_path: Path, name: str, text: str, task: str, items: list[SchemaItem]
) -> None:
    path = tmp_path / name
    path.write_text("\ufeff" + text, encoding="utf-8")
    found, read = read_schema([str(path)])
    assert (found.name, read) == (task, items)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.json", b'["a",\n "b"', "s.json:2: not JSON"),
        ("s.json", b"", "s.json: the schema is empty"),
        ("s.json", b"\xff\xfe\x00", "s.json: not UTF-8 at byte 0"),
        ("s.yaml", b"a: [1\nb: 2", "s.yaml:2: not YAML"),
        ("s.json", b"7", "s.json: a schema is a list or an object"),
        ("s.json", b'["a"]\n["b"\n{}', "s.json:2: not JSON"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_schema_file(path)
    assert said in raised.value.message


def test_a_missing_schema_file_is_no_label() -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_schema(["missing.json"])


@pytest.mark.parametrize(
    "value", ["[]", "{}", "null", "[1]", '{"a": 1}', '{"a": ["b", 1]}', "[[]]"]
)
def test_odd_json_never_escapes_as_another_error(value: str) -> None:
    try:
        parse_schema(value)
    except IEPileError:
        return
    assert json.loads(value) == {"a": ["b", 1]}

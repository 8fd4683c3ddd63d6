"""Schemas on the command line and in files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yaml import safe_dump as dump

from iepile_cli.errors import DataError, IEPileError, UsageError
from iepile_cli.task import TASKS, SchemaItem, Task, task_named
from iepile_cli.task.gbnf import gbnf_grammar
from iepile_cli.task.grammar import lark_grammar
from iepile_cli.task.schema import MAX_BYTES, parse_schema, read_schema, read_schema_file
from iepile_cli.task.schema_items import (
    MAX_NAME,
    MAX_SLOTS,
    MAX_TYPES,
    items_from_data,
    items_from_expression,
    shown,
)

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
        (["km/h,a/b.c,x.txt"], "NER", [SchemaItem(one) for one in ("km/h", "a/b.c", "x.txt")]),
        (["TCP/IP"], "NER", [SchemaItem("TCP/IP")]),
        (["U.S. state"], "NER", [SchemaItem("U.S. state")]),
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
        ("attack(a(b)", "'attack(a(b)'", "attack(attacker, target, place)"),
        ("attack(a]b)", "'attack(a]b)'", "attack(attacker, target, place)"),
        ("attack(a)b", "'attack(a)b'", "attack(attacker, target, place)"),
        ("attack(a,,b)", "'a,,b'", "attack(attacker, target, place)"),
        ("(a)", "'(a)'", "attack(attacker, target, place)"),
        ("a -> b", "'a -> b'", "person -works for-> organization"),
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
        (
            "s.yml",
            "- event_type: attack\n  arguments: [attacker, target]\n",
            "EE",
            [SchemaItem("attack", slots=ROLES)],
        ),
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
        ("s.json", b"\xff\xfe\x00", "s.json: is not utf-16 at byte 2"),
        ("s.json", b'["\xff"]', "s.json: is not UTF-8 at byte 2"),
        ("s.json", b"[" * 200_000, "s.json: not a schema: lists within lists"),
        ("s.yaml", b"[" * 20_000, "s.yaml: not a schema: lists within lists"),
        ("s.json", b"[" + b"1" * 5_000 + b"]", "s.json: not JSON"),
        ("s.json", b'["\\ud800"]', "half of a character"),
        ("s.yaml", b"- no\n", "s.yaml: a name in the schema is text, not false"),
        ("s.yaml", b"2020: [a]\n", "s.yaml: a name in the schema is text, not 2020"),
        ("s.json", b'{"attack": [["a"]]}', "s.json: a name in the schema of 'attack' is text"),
        ("s.json", b'{"a": ["x"], "a": ["y"]}', "s.json: the key 'a' comes twice"),
        ("s.yaml", b"a: [x]\nb: [y]\na: [z]\n", "s.yaml:3: the key 'a' comes twice"),
        ("s.json", b'{"task": "NEA", "schema": ["a"]}', "s.json: no task is called 'NEA'"),
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


@pytest.mark.parametrize(
    "given",
    [
        *("missing.json", "@missing", "schemas/ner.txt", "ner.txt", "./ner", "~/none/x"),
        *("a/b.yaml.gz", "../ner", ".\\ner", "..\\ner"),
    ],
)
def test_what_looks_like_a_path_is_no_label(given: str) -> None:
    with pytest.raises(UsageError, match="no such file") as raised:
        read_schema([given])
    assert given in raised.value.message
    assert raised.value.exit_code == 2


def test_a_file_of_another_ending_or_folder_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "schemas").mkdir()
    for name in ("schemas/ner.txt", "schemas/ner", "ner.txt"):
        (tmp_path / name).write_text('["person"]')
    (tmp_path / "person").write_text('["city"]')
    monkeypatch.chdir(tmp_path)
    for name in ("schemas/ner.txt", "schemas/ner", "ner.txt", "person"):
        assert read_schema([name])[1] == [SchemaItem("person")]
    with pytest.raises(UsageError, match="schemas/none: no such file"):
        read_schema(["schemas/none"])
    with pytest.raises(UsageError, match="is a folder"):
        read_schema(["@schemas"])


@pytest.mark.parametrize("value", [{"attack": ["attacker", "target", "attacker"]}])
def test_a_role_that_comes_twice_is_one(tmp_path: Path, value: dict[str, list[str]]) -> None:
    for name in ("s.json", "s.yaml"):
        path = tmp_path / name
        path.write_text(json.dumps(value))
        assert read_schema([str(path)])[1] == [SchemaItem("attack", slots=ROLES)]
    lines = tmp_path / "lines.json"
    lines.write_text(f"[]\n[]\n{json.dumps(value)}\n")
    assert read_schema([str(lines)])[1] == [SchemaItem("attack", slots=ROLES)]
    assert read_schema(["attack(attacker, target, attacker)"])[1] == [
        SchemaItem("attack", slots=ROLES)
    ]


def test_a_grammar_names_a_role_once() -> None:
    twice = SchemaItem("attack", slots=("attacker", "attacker"))
    once = SchemaItem("attack", slots=("attacker",))
    for write in (lark_grammar, gbnf_grammar):
        assert write(TASKS["EE"], [twice], "Ann") == write(TASKS["EE"], [once], "Ann")


def test_a_file_of_another_task_is_refused_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"task": "RE", "schema": ["founder of"]}')
    for both in (["person", str(path)], [str(path), "person"]):
        with pytest.raises(UsageError, match="NER") as raised:
            read_schema(both)
        assert "RE" in raised.value.message
        assert raised.value.exit_code == 2
        assert len(read_schema(both, TASKS["RE"])[1]) == 2
    path.write_text('{"task": "NER", "schema": ["city"]}')
    assert [item.type for item in read_schema([str(path), "person"])[1]] == ["city", "person"]


def test_names_in_json_and_yaml_are_literal(tmp_path: Path) -> None:
    names = ["organization (company)", "person", "a -b-> c", "x\\y", "{z}", " w ", "p; q"]
    for name in ("s.json", "s.yaml"):
        path = tmp_path / name
        path.write_text(json.dumps(names))
        assert read_schema([str(path)]) == (TASKS["NER"], [SchemaItem(one) for one in names])
    assert read_schema([json.dumps(names)])[1] == [SchemaItem(one) for one in names]
    with pytest.raises(UsageError, match="names no types of its ends"):
        read_schema(['["person -works for-> organization"]'], TASKS["SPO"])


@pytest.mark.parametrize(
    ("given", "ends"),
    [
        ("person -is a - b-> org", ("person", "is a - b", "org")),
        ("person -is-a-> org", ("person", "is-a", "org")),
        ("vice-president - of -> the org", ("vice-president", "of", "the org")),
        (r"a \-b -c\->d-> e, f", ("a -b", "c->d", "e, f")),
    ],
)
def test_typed_relations_are_taken_apart_at_their_own_hyphens(
    given: str, ends: tuple[str, str, str]
) -> None:
    subject, predicate, object_ = ends
    first = read_schema([given.replace(", f", "\\, f")])[1][0]
    assert first == SchemaItem(predicate, subject_type=subject, object_type=object_)


def test_a_semicolon_separates_as_a_comma_does() -> None:
    assert [item.type for item in read_schema(["person;location；city"])[1]] == [
        "person",
        "location",
        "city",
    ]
    found = read_schema(["person -works for-> organization; organization -in-> location"])[1]
    assert [item.type for item in found] == ["works for", "in"]
    assert read_schema([r"a\;b\，c"])[1] == [SchemaItem("a;b，c")]
    with pytest.raises(UsageError, match="holds 2 relations"):
        read_schema(["person -knows-> person -likes-> dog"])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"attack": [["a"]]}, "is text, not"),
        ({"attack": [{"a": 1}]}, "is text, not"),
        ([["a"]], "is text, not"),
        ({"attack": {"a": ["b"]}}, "for a description"),
        ({"attack": 7}, "where a list of names belongs"),
        ({"attack": ["a", None]}, "is text, not null"),
        ({"attack": ["a", " "]}, "an empty name"),
        ([{"event_type": "attack", "arguments": "a"}], "where a list of names belongs"),
    ],
)
def test_what_is_no_name_is_refused(value: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_schema(json.dumps(value))


@pytest.mark.parametrize(
    ("value", "task"),
    [
        ({"attack": ["attacker"]}, "NER"),
        ({"person": None}, "SPO"),
        (["person"], "SPO"),
        ([{"entity_type": "person", "attributes": []}], "EE"),
        ([{"event_type": "attack", "trigger": ["hit"], "arguments": []}], "EE"),
        ([{"event_type": "attack"}, {"entity_type": "person"}], None),
        ([{"event_type": "attack"}, {"event_type": "raid", "trigger": ["hit"]}], None),
    ],
)
def test_a_form_of_another_task_is_refused(value: Any, task: str | None) -> None:
    with pytest.raises(UsageError) as raised:
        parse_schema(json.dumps(value), TASKS[task] if task else None)
    assert raised.value.hint


def test_no_schema_is_refused() -> None:
    for empty in ([], ["[]"], ["{}"], [","], [" , "], ["()"]):
        with pytest.raises(UsageError):
            read_schema(empty)


def test_a_hint_says_what_to_do_with_what_is_no_name() -> None:
    for value, hint in (("[1]", "put it in quotes"), ("[[1]]", "write it like")):
        with pytest.raises(UsageError) as raised:
            parse_schema(value)
        assert hint in raised.value.hint


def test_a_description_that_no_instruction_can_hold_is_refused() -> None:
    relation = {"subject_type": "a", "predicate": "p", "object_type": "b"}
    for value in (
        [{**relation, "description": "who"}],
        [{"event_type": "attack", "arguments": ["a"], "description": "when"}],
        {"attack": ["a"], "meet": "a meeting"},
    ):
        with pytest.raises(UsageError, match="has a description"):
            parse_schema(json.dumps(value))
    assert parse_schema(json.dumps([{**relation, "description": ""}]))[0].name == "SPO"


def test_a_schema_of_too_many_names_is_refused_early(tmp_path: Path) -> None:
    path = tmp_path / "many.json"
    path.write_text(json.dumps([f"type {n}" for n in range(MAX_TYPES + 1)]))
    with pytest.raises(DataError, match=r"many.json: the schema holds 20,001 types, at most"):
        read_schema([str(path)])
    with pytest.raises(UsageError, match="the schema holds 20,001 types"):
        read_schema([",".join(f"type {n}" for n in range(MAX_TYPES + 1))])
    path.write_text(json.dumps({"attack": [f"role {n}" for n in range(MAX_SLOTS + 1)]}))
    with pytest.raises(DataError, match=r"many.json: schema item 'attack' has 1,001 parts"):
        read_schema([str(path)])
    path.write_text(json.dumps({"attack": [f"role {n}" for n in range(MAX_SLOTS)]}))
    assert len(read_schema([str(path)])[1][0].slots) == MAX_SLOTS
    path.write_text(json.dumps([f"type {n}" for n in range(MAX_TYPES)]))
    assert len(read_schema([str(path)])[1]) == MAX_TYPES
    path.write_text(json.dumps(["x" * MAX_NAME]))
    assert len(read_schema([str(path)])[1][0].type) == MAX_NAME
    path.write_text(json.dumps(["x" * (MAX_NAME + 1)]))
    with pytest.raises(DataError, match="a name of 2,001 characters"):
        read_schema([str(path)])
    path.write_text('["person"]'.ljust(MAX_BYTES + 1))
    with pytest.raises(DataError, match="is larger than"):
        read_schema([str(path)])


@pytest.mark.parametrize("form", ["[{}]", "{{k: [{}]}}", "{{<<: [{}]}}"])
def test_a_yaml_bomb_is_refused_before_it_unfolds(tmp_path: Path, form: str) -> None:
    levels = ["l0: &l0 {lol: [a, b]}"]
    for n in range(1, 12):
        levels.append(f"l{n}: &l{n} " + form.format(", ".join([f"*l{n - 1}"] * 10)))
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(levels))
    with pytest.raises(DataError, match=r"bomb.yaml: its aliases unfold to [0-9,]+ values"):
        read_schema([str(path)])
    path.write_text("&a [*a]")
    with pytest.raises(DataError, match=r"bomb\.yaml"):
        read_schema([str(path)])
    path.write_text("attack: &r [attacker, target]\nraid: *r\n")
    assert [item.slots for item in read_schema([str(path)])[1]] == [ROLES, ROLES]


NAMES = st.text(min_size=1, max_size=8).filter(
    lambda name: bool(name.strip()) and not any("\ud800" <= one <= "\udfff" for one in name)
)


@settings(deadline=None)
@given(
    st.lists(NAMES, min_size=1, max_size=4, unique=True)
    | st.dictionaries(NAMES, st.lists(NAMES, max_size=3), min_size=1, max_size=3)
)
def test_any_names_come_back_from_json_and_yaml(value: Any) -> None:
    written = ((json.dumps(value), False), (dump(value, sort_keys=False), True))
    for text, yaml in written:
        found, items = parse_schema(text, TASKS["EE"], yaml=yaml)
        assert found is TASKS["EE"]
        assert [item.type for item in items] == list(value)
        if isinstance(value, dict):
            assert [item.slots for item in items] == [
                tuple(dict.fromkeys(slots)) for slots in value.values()
            ]


@settings(deadline=None)
@given(st.lists(NAMES.map(str.strip), min_size=3, max_size=3, unique=True))
def test_any_names_come_back_from_an_expression(names: list[str]) -> None:
    first, second, third = (re.sub(r"(?s)(.)", r"\\\1", name) for name in names)
    raw = SchemaItem(names[0], slots=tuple(names[1:]))
    for written, item in (
        (f"{first}({second}, {third})", raw),
        (f"{first}{{{second};{third}}}", raw),
        (
            f"{first} -{second}-> {third}",
            SchemaItem(names[1], subject_type=names[0], object_type=names[2]),
        ),
    ):
        assert items_from_expression(written, None)[1] == [item]


def test_an_expression_holds_one_relation_between_commas() -> None:
    with pytest.raises(UsageError, match="holds 2 relations") as refused:
        items_from_expression("a -is-> b -is-> c", None)
    assert "separate them by commas" in (refused.value.hint or "")
    _, items = items_from_expression("a -is-> b, b -is-> c", None)
    assert [(item.subject_type, item.object_type) for item in items] == [("a", "b"), ("b", "c")]


def test_a_type_without_parts_has_the_description_beside_it_or_none() -> None:
    _, items = items_from_data({"person": None, "city": "a town"}, None)
    assert [(item.type, item.description) for item in items] == [("person", ""), ("city", "a town")]


@pytest.mark.parametrize(
    ("data", "task", "form"),
    [
        ({"a": ["b"]}, "NER", '["person", "location"]'),
        ({"a": ["b"]}, "SPO", '"predicate": "born in"'),
    ],
)
def test_parts_that_a_task_has_not_are_refused_with_its_form(
    data: dict[str, list[str]], task: str, form: str
) -> None:
    with pytest.raises(UsageError, match=f"cannot be read as one of {task}") as refused:
        items_from_data(data, TASKS[task])
    assert form in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["a", 1, None], '["a", 1, null]'),
        ([["a"]], "a list"),
        (["a", ["b"]], "a list"),
        ({"a": 1}, '{"a": 1}'),
        ({("a", "b"): 1}, "an object"),
        ("x" * 61, repr("x" * 57 + "...")),
        ("x" * 60, repr("x" * 60)),
    ],
)
def test_values_are_shown_short(value: object, text: str) -> None:
    assert shown(value) == text


def read_or_refused(read: Callable[[], Any]) -> Any:
    """What is read; None where it is refused as users are told so: in one line."""
    try:
        return read()
    except IEPileError as error:
        refused = error
    assert "\n" not in refused.message
    return None


@settings(deadline=None)
@given(st.text(max_size=40) | st.text(alphabet='ab ,;(){}[]->\\\n"：，', max_size=30))
def test_any_expression_is_read_or_refused(text: str) -> None:
    read = read_or_refused(lambda: items_from_expression(text, None))
    if read is None:
        return
    task, items = read
    assert items
    for item in items:
        assert item.type.strip() == item.type
        assert bool(item.subject_type) == (task.name == "SPO")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["task", "schema", "event_type", "trigger", "arguments", "a", "b"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON, st.sampled_from([None, *TASKS.values()]))
def test_any_plain_data_is_read_or_refused(value: Any, task: Task | None) -> None:
    read = read_or_refused(lambda: parse_schema(json.dumps(value), task))
    if read is None:
        return
    found, items = read
    assert task in (None, found)
    assert items or value == [] or isinstance(value, dict)
    for item in items:
        names = (item.type, *item.slots)
        assert all(isinstance(name, str) and name.strip() for name in names)
        assert len(set(item.slots)) == len(item.slots)
        assert len(item.descriptions) in (0, len(item.slots))


@pytest.mark.parametrize(
    "value", ["[]", "{}", "null", "[1]", '{"a": 1}', '{"a": ["b", 1]}', "[[]]"]
)
def test_odd_json_never_escapes_as_another_error(value: str) -> None:
    try:
        parse_schema(value)
    except IEPileError:
        return
    assert json.loads(value) == {"a": ["b", 1]}


@pytest.mark.parametrize("task", ["NER", "RE", "SPO", "EE", "EET", "KG"])
@pytest.mark.parametrize(
    "value",
    [
        {"person -works for-> organization": "employed by"},
        {"works for": {"subject": "person", "object": "organization"}},
        [{"works for": "person"}],
        [],
        {},
        "person",
    ],
)
def test_a_hint_for_plain_data_can_be_read_as_plain_data(value: Any, task: str) -> None:
    try:
        items_from_data(value, TASKS[task])
    except UsageError as error:
        forms = error.hint.partition("like: ")[2]
        examples = forms.split(" or ") if forms else []
        for form in examples:
            assert items_from_data(json.loads(form), TASKS[task] if len(examples) == 1 else None)


def test_a_number_of_thousands_of_digits_is_refused_as_any(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text("- 0x" + "f" * 5000)
    with pytest.raises(DataError, match="is text, not a large number"):
        read_schema([str(path)])

"""What was found, counted: which surfaces are one name, and what is counted of each task."""

from __future__ import annotations

from typing import Any

import pytest

from iepile_cli.extraction.summary import Summary, SummaryOptions, summarise

EXACT = SummaryOptions(ignore_case=False, ignore_space=False, ignore_determiners=False)
INITIALS = SummaryOptions(match_initials=True)


def entities(source: str, *names: str, kind: str = "person") -> dict[str, Any]:
    """A result with an entity for each name."""
    items = [{"type": kind, "text": name, "start": 0, "end": len(name)} for name in names]
    return {"source": source, "task": "NER", "items": items}


def names(options: SummaryOptions | None, *found: str) -> dict[str, int]:
    entries = summarise([entities("a", *found)], options)
    return {entry.name: entry.count for entry in entries}


@pytest.mark.parametrize(
    ("option", "surfaces"),
    [
        ("ignore_case", ("Bank of England", "BANK OF ENGLAND", "bank of England")),
        ("ignore_case", ("Straße", "STRASSE")),
        ("ignore_space", ("New York", "New\n  York", "New\u00a0York")),
        ("ignore_space", ("U.S.", "U . S .")),
        ("ignore_determiners", ("Red Cross", "the Red Cross", "The Red Cross")),
        ("ignore_determiners", ("apple", "an apple", "A\tapple")),
    ],
)
def test_surfaces_of_one_name_count_together(option: str, surfaces: tuple[str, ...]) -> None:
    (entry,) = summarise([entities("a", *surfaces, surfaces[0])])
    assert (entry.name, entry.count) == (surfaces[0], len(surfaces) + 1)
    assert len(entry.others) <= len(surfaces) - 1
    assert len(summarise([entities("a", *surfaces)], SummaryOptions(**{option: False}))) > 1


def test_nothing_else_is_guessed() -> None:
    different = ["Smith", "John Smith", "Theo", "A", "Ann", "the", "an", "Smith's", "Mr Smith"]
    assert names(None, *different) == dict.fromkeys(different, 1)
    assert names(EXACT, "US", "us", "the US") == {"US": 1, "us": 1, "the US": 1}


def test_names_of_several_types_are_apart() -> None:
    entries = summarise([entities("a", "Paris"), entities("b", "Paris", kind="location")])
    assert [(entry.label, entry.name) for entry in entries] == [
        ("person", "Paris"),
        ("location", "Paris"),
    ]


def test_accents_written_in_two_ways_are_one() -> None:
    assert names(EXACT, "Zoe\u0308", "Zo\u00eb") == {"Zoe\u0308": 2}


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("J. Smith", "John Smith"),
        ("J Smith", "John Smith"),
        ("J.R.R. Tolkien", "John Ronald Reuel Tolkien"),
        ("John R. R. Tolkien", "John Ronald Reuel Tolkien"),
        ("j. smith", "John SMITH"),
    ],
)
def test_initials_stand_for_the_one_full_name(short: str, full: str) -> None:
    assert names(INITIALS, full, full, short) == {full: 3}
    assert names(None, full, full, short) == {full: 2, short: 1}


@pytest.mark.parametrize(
    "found",
    [
        ("J. Smith", "John Smith", "Jane Smith"),
        ("J. Smith", "John R. Smith"),
        ("J. Smith", "Paul Smith"),
        ("J. S.", "John Smith"),
        ("Smith", "John Smith"),
    ],
)
def test_initials_that_fit_several_or_none_stay_apart(found: tuple[str, ...]) -> None:
    assert names(INITIALS, *found) == dict.fromkeys(found, 1)


def test_counts_and_documents() -> None:
    results = [entities("a", "Ann", "Ann", "Bob"), entities("b", "ann"), entities("c")]
    ann, bob = summarise(results)
    assert (ann.name, ann.count, ann.documents, ann.others) == ("Ann", 3, 2, ["ann"])
    assert dict(ann.in_documents) == {0: 2, 1: 1}
    assert (bob.count, bob.documents) == (1, 1)


def part(text: str) -> dict[str, Any]:
    return {"text": text, "start": 0, "end": len(text), "score": 0.5}


ITEMS: dict[str, tuple[dict[str, Any], list[tuple[str, str, str]]]] = {
    "RE": (
        {"type": "lives in", "subject": part("Ann"), "object": part("Rome")},
        [("relation", "lives in", "Ann → Rome")],
    ),
    "SPO": (
        {
            "type": "lives in",
            "subject_type": "person",
            "object_type": "city",
            "subject": part("Ann"),
            "object": part("Rome"),
        },
        [("relation", "person -lives in-> city", "Ann → Rome")],
    ),
    "EE": (
        {
            "type": "attack",
            "trigger": part("hit"),
            "arguments": [{"role": "attacker", **part("A")}, {"role": "target", **part("B")}],
        },
        [
            ("event", "attack", "hit"),
            ("argument", "attack / attacker", "A"),
            ("argument", "attack / target", "B"),
        ],
    ),
    "EET": ({"type": "attack", **part("hit")}, [("event", "attack", "hit")]),
    "EEA": (
        {"type": "attack", "arguments": [{"role": "target", **part("B")}]},
        [("argument", "attack / target", "B")],
    ),
    "KG": (
        {
            "type": "person",
            "entity": part("Ann"),
            "attributes": [{"role": "birthplace", **part("Rome")}],
        },
        [("attribute", "person / birthplace", "Ann → Rome"), ("entity", "person", "Ann")],
    ),
}


@pytest.mark.parametrize("task", sorted(ITEMS))
def test_units_of_the_task_are_counted(task: str) -> None:
    item, expected = ITEMS[task]
    entries = summarise([{"source": "a", "task": task, "items": [item]}])
    assert [(one.unit, one.label, one.name) for one in entries] == expected


def test_an_event_without_a_trigger_has_its_arguments() -> None:
    item = {"type": "attack", "trigger": None, "arguments": [{"role": "target", **part("B")}]}
    (entry,) = summarise([{"source": "a", "task": "EE", "items": [item]}])
    assert (entry.unit, entry.name) == ("argument", "B")


def test_each_item_knows_the_names_it_counts_under() -> None:
    summary = Summary(INITIALS)
    assert summary.add(entities("a", "Ann Lee", "Bob")) == [[0], [1]]
    assert summary.add(entities("b", "BOB", "A. Lee")) == [[1], [2]]
    entries, into = summary.merged()
    assert into == {2: 0}
    assert (entries[0].name, entries[0].count) == ("Ann Lee", 2)
    # What was counted is left as it is: more may come.
    assert summary.merged()[0][0].count == 2

"""The view for people: safe on any terminal, coloured only where colour is wanted."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from iepile_cli.extraction.grounding import Item, Span
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.results import Result
from iepile_cli.extraction.terminal import Terminal, columns, excerpts, item_count, show
from iepile_cli.formatting import one_line, safe
from iepile_cli.task import TASKS, SchemaItem

STYLE = re.compile(r"\x1b\[[0-9;]*m")


def item(kind: str, *roles: tuple[str, str, int], **asked: str) -> Item:
    spans = tuple((role, Span(text, at, at + len(text), 0.5)) for role, text, at in roles)
    return Item(SchemaItem(kind, ("place",), **asked), spans, 0.5)


def viewed(text: str, *items: Item, task: str = "NER", width: int = 80, **console: object) -> str:
    kinds = {found.item.type: [] for found in items}
    result = Result(Document("a.txt", text), TASKS[task], "en", kinds, items)
    out = io.StringIO()
    terminal = Console(file=out, width=width, markup=False, emoji=False, **console)  # type: ignore[arg-type]
    show(result, terminal, dict.fromkeys(kinds, "cyan"))
    return out.getvalue()


def test_plain() -> None:
    shown = viewed("Bob lives in Rome.", item("person", ("mention", "Bob", 0)))
    assert [line.rstrip() for line in shown.splitlines()] == [
        "a.txt: 1 named entity",
        "Bob lives in Rome.",
        "type     text    at   score",
        "───────────────────────────",
        "person   Bob    0-3    0.50",
        "",
    ]


@pytest.mark.parametrize(
    ("task", "one", "two"),
    [
        ("NER", "1 named entity", "2 named entities"),
        ("RE", "1 relation", "2 relations"),
        ("SPO", "1 typed relation", "2 typed relations"),
        ("EE", "1 event", "2 events"),
        ("EET", "1 event trigger", "2 event triggers"),
        ("EEA", "1 argument of given triggers", "2 arguments of given triggers"),
        ("KG", "1 entity with attributes", "2 entities with attributes"),
    ],
)
def test_counts_in_words(task: str, one: str, two: str) -> None:
    assert item_count(1, TASKS[task]) == one
    assert item_count(2, TASKS[task]) == two


def test_relations_and_events() -> None:
    pair = item(
        "met", ("subject", "Bob", 0), ("object", "Ann", 8), subject_type="man", object_type="woman"
    )
    assert re.search(
        r"man -met-> woman +Bob +Ann +0-3 +0\.50", viewed("Bob met Ann", pair, task="SPO")
    )
    event = item("meeting", ("place", "Rome", 3))
    assert re.search(r"meeting +- +place: Rome +3-7", viewed("in Rome", event, task="EE"))
    assert columns(TASKS["EEA"]) == ["type", "arguments", "at", "score"]
    assert columns(TASKS["KG"]) == ["type", "entity", "attributes", "at", "score"]


def test_nothing_found() -> None:
    assert "nothing found" in viewed("Bob")


def test_mentions_are_coloured_and_may_overlap() -> None:
    whole = item("org", ("mention", "Bank of Rome", 0))
    part = item("place", ("mention", "Rome", 8))
    shown = viewed("Bank of Rome!", whole, part, force_terminal=True, color_system="standard")
    assert "\x1b[1;4;36mBank of \x1b[0m\x1b[1;4;36mRome\x1b[0m!" in shown
    assert STYLE.sub("", shown).splitlines()[1] == "Bank of Rome!"


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = viewed("Bob", item("person", ("mention", "Bob", 0)), force_terminal=True)
    assert "\x1b[1;4mBob\x1b[0m" in shown
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", shown)


@pytest.mark.parametrize("task", ["NER", "SPO", "EE", "EEA", "KG"])
def test_forty_columns_are_enough(task: str) -> None:
    town = "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch"
    text = f"Bob met Ann in {town} {'北京' * 10}"
    found = item(
        "a long name of a relation",
        ("subject", "Bob", 0),
        ("object", town, 15),
        ("place", "北京", 74),
        subject_type="person",
        object_type="place",
    )
    for line in viewed(text, found, task=task, width=40).splitlines():
        assert sum(2 if ord(sign) > 0x2E80 else 1 for sign in line) <= 40


def test_a_long_text_is_shown_around_its_mentions() -> None:
    text = "x " * 1000 + "Bob" + " y" * 1000 + " Ann"
    items = [item("p", ("mention", "Bob", 2000)), item("p", ("mention", "Ann", 4004))]
    result = Result(Document("a", text), TASKS["NER"], "en", {}, tuple(items))
    assert excerpts(result) == [(1920, 2083), (3924, 4007)]
    shown = viewed(text, *items)
    assert "…x x" in shown.replace("\n", "")
    assert len(shown) < 700


def test_control_characters_and_markup_never_reach_the_terminal() -> None:
    nasty = "Bob\x1b]0;owned\x07 \x9b31m [bold red]x[/] :smile: \u202eevil\u2069 \r\b\x00 end"
    shown = viewed(nasty, item("p\x1b[2J", ("mention", nasty, 0)), width=200, force_terminal=True)
    rest = STYLE.sub("", shown)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rest)
    assert "[bold red]x[/] :smile:" in rest


@given(st.text(st.characters()))
def test_safe_text_is_as_long_and_holds_no_controls(text: str) -> None:
    assert len(safe(text)) == len(one_line(text)) == len(text)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", safe(text))
    assert "\n" not in one_line(text)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.integers(0, 60), st.integers(0, 60), st.sampled_from([10, 40, 80]))
def test_any_text_is_shown(text: str, first: int, second: int, width: int) -> None:
    start, end = sorted((min(first, len(text)), min(second, len(text))))
    found = [item("t", ("mention", text[start:end], start))] if start < end else []
    viewed(text, *found, width=width)


def test_the_format_writes_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    view = Terminal(on_stdout=False)
    result = Result(Document("a.txt", "北京"), TASKS["NER"], "zh", {"地点": []}, ())
    assert view.begin(resumed=False) + view.end() == b""
    for _ in range(2):
        assert view.result(result).decode() == "a.txt: 0 named entities\nnothing found\n\n"
    assert capsys.readouterr().out == ""

"""Kinds of errors in the report and in the list of errors: boundaries, groups, filters, shares."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import browser, needs_browser
from evaluation_rows import row

from iepile_cli.cli.app import run
from iepile_cli.evaluation.html import SHADES, ErrorGroups, shade

TEXT = "Ann Lee met Bob Ray in New York City."


def gold(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"entity": mention, "entity_type": kind} for mention, kind in pairs]


ROWS = [
    row(
        {"PER": ["Ann", "Bob Ray"], "LOC": ["Bob Ray", "New York"]},
        gold(("Ann Lee", "PER"), ("Bob Ray", "PER"), ("New York City", "LOC")),
        text=TEXT,
    ),
    row({"LOC": ["Rome"]}, gold(("Rome", "PER"), ("Oslo", "LOC")), text="Rome Oslo", id="2"),
    row({"LOC": ["York City"]}, gold(("New York", "PER")), text=TEXT, id="3"),
    row({"PER": ["all"]}, gold(("all", "PER"), ("Ann", "all")), text="all Ann", id="4"),
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


@pytest.fixture
def predictions(tmp_path: Path) -> str:
    return write(tmp_path / "p.jsonl", ROWS)


def errors(predictions: str, folder: Path, *more: str) -> list[dict[str, Any]]:
    path = folder / "e.jsonl"
    assert run(["eval", predictions, "--errors", str(path), *more]) == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_wrong_boundary_is_one_error(predictions: str, tmp_path: Path) -> None:
    found = {
        (one["error"], one["label"], *one["mentions"], *one.get("gold_mentions", ()))
        for one in errors(predictions, tmp_path)
    }
    assert found == {
        ("boundary", "PER", "Ann", "Ann Lee"),
        ("boundary", "LOC", "New York", "New York City"),
        ("spurious", "LOC", "Bob Ray"),
        ("wrong type", "LOC", "Rome", "Rome"),
        ("missed", "LOC", "Oslo"),
        # Another label and another boundary: nothing that belongs together.
        ("spurious", "LOC", "York City"),
        ("missed", "PER", "New York"),
        ("missed", "all", "Ann"),
    }


@pytest.mark.parametrize("mode", ["partial", "type", "boundary"])
def test_modes_that_credit_overlaps_have_no_boundary_errors(
    predictions: str, tmp_path: Path, mode: str
) -> None:
    kinds = {one["error"] for one in errors(predictions, tmp_path, "--mode", mode)}
    assert ("boundary" in kinds) == (mode == "boundary")


def test_an_event_argument_has_boundaries_too(tmp_path: Path) -> None:
    label = [
        {
            "event_type": "meet",
            "event_trigger": "met",
            "arguments": [{"role": "who", "argument": "Ann Lee"}],
        }
    ]
    answer = {"meet": [{"trigger": "met", "arguments": {"who": "Ann"}}]}
    path = write(tmp_path / "p.jsonl", [row(answer, label, task="EE", text=TEXT)])
    (error,) = errors(path, tmp_path)
    assert (error["error"], error["unit"], error["label"]) == ("boundary", "argument", "meet / who")
    assert error["gold_mentions"] == ["Ann Lee"]


def report(predictions: str, folder: Path, *more: str) -> str:
    path = folder / "r.html"
    assert run(["eval", predictions, "--html", str(path), *more]) == 0
    return path.read_text(encoding="utf-8")


def cells(table: str) -> list[list[str]]:
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S) for line in table.split("<tr>")[1:]
    ]
    return [
        [re.sub(r"<ul>.*</ul>|<[^>]*>", "", cell, flags=re.S).strip() for cell in row]
        for row in rows
    ]


def test_errors_are_counted_by_type_and_kind(predictions: str, tmp_path: Path) -> None:
    page = report(predictions, tmp_path)
    table = page.split('class="grouped"')[1].split("</table>")[0]
    assert cells(table) == [
        ["type", "missed", "spurious", "wrong type", "boundary", "all"],
        ["all", "3", "2", "1", "2", "8"],
        ["LOC", "1", "2", "", "1", "4"],
        # A wrong type is one of the type that it should be.
        ["PER", "1", "", "1", "1", "3"],
        ["all", "1", "", "", "", "1"],
    ]
    assert "Ann, should be Ann Lee" in table
    assert "<b>boundary</b> PER: Ann, should be Ann Lee</li>" in page


def test_filters_have_a_choice_for_each_kind_and_type(predictions: str, tmp_path: Path) -> None:
    page = report(predictions, tmp_path)
    named = re.findall(r'<input type="radio" name="(\w+)" id="(\w+)"( checked)?>', page)
    assert [(name, checked != "") for name, _, checked in named] == [
        *[("kind", True), *[("kind", False)] * 4],
        *[("type", True), *[("type", False)] * 3],
    ]
    ids = [id for _, id, _ in named]
    assert len(set(ids)) == len(ids)
    classes = [set(found.split()) for found in re.findall(r'<div class="(document[^"]*)"', page)]
    assert len(classes) == 4
    style = page.split("<style>")[1].split("</style>")[0]
    assert all(f"#{id}:checked" in style for id in ids if id not in ("kind", "type"))


def test_shades_are_shares_of_the_whole(tmp_path: Path) -> None:
    rows = [row({"A": ["x"]}, gold(("x", "A")), text="x", id=str(n)) for n in range(98)]
    rows += [row({"B": ["x"]}, gold(("x", "A")), text="x", id="b")]
    # The only one of its type: all of its row, and little of the whole.
    rows += [row({"A": ["x"]}, gold(("x", "C")), text="x", id="c")]
    page = report(write(tmp_path / "p.jsonl", rows), tmp_path)
    matrix = page.split('class="matrix"')[1].split("</table>")[0]
    found = re.findall(r'<td class="(right|wrong) s(\d+)" title="[^"]*">(\d+)</td>', matrix)
    assert found == [("right", "10", "98"), ("wrong", "1", "1"), ("wrong", "1", "1")]


def test_shades() -> None:
    assert [shade(count, 100) for count in (0, 1, 25, 100)] == [0, 1, 5, SHADES]


def test_the_baseline_is_a_table(predictions: str, tmp_path: Path) -> None:
    better = [{**one, "output": json.dumps({"PER": [], "LOC": []})} for one in ROWS]
    baseline = write(tmp_path / "b.jsonl", better[:3])
    page = report(predictions, tmp_path, "--baseline", baseline)
    table = page.split("<h2>Against ")[1].split("</table>")[0]
    header, values = cells(table)
    assert header == ["", "F1", "baseline", "difference", "95 %", "p", "documents"]
    assert (values[0], values[2], values[6]) == ("NER entity", "0.00", "3")
    assert values[3].startswith("+")
    assert "1 document in one of the two files only" in page


def test_many_types_are_counted_quickly() -> None:
    groups = ErrorGroups()
    for number in range(20_000):
        groups.add("missed", [f"type {number}"], "x")
    shown = groups.shown()
    assert len(shown["rows"]) == 41
    assert shown["hidden"] == 19_960
    assert len(groups.rules()) < 50_000


@pytest.mark.slow
@needs_browser
def test_filters_hide_what_is_not_chosen(predictions: str, tmp_path: Path) -> None:
    report(predictions, tmp_path)
    visible = (
        "return [...document.querySelectorAll('article > ul > li')]"
        ".filter((one) => one.getClientRects().length).map((one) => one.textContent)"
    )
    with browser(tmp_path / "profile") as window:
        window.size(1000, 900)
        window.open(tmp_path / "r.html")
        assert len(window.run(visible)) == 8
        for id, label, count in (("k3", "boundary", 2), ("t0", "PER", 1)):
            window.run("document.getElementById(arguments[0]).click()", id)
            found = window.run(visible)
            assert len(found) == count
            assert all("boundary" in one for one in found)
            assert all(label in one for one in found)
        articles = "[...document.querySelectorAll('article')]"
        shown = f"{articles}.filter((one) => one.getClientRects().length)"
        assert window.run(f"return [{articles}.length, {shown}.length]") == [4, 1]
        assert window.complaints() == []

"""Several readings of one text: passages that overlap or begin elsewhere, orders of the schema."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iepile_cli.backends import Options
from iepile_cli.backends.opening import Opened, open_model
from iepile_cli.errors import UsageError
from iepile_cli.extraction.grounding import Item, Span
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.pipeline import ExtractOptions, extract
from iepile_cli.extraction.readings import schema_orders
from iepile_cli.extraction.results import Result, voted
from iepile_cli.task import TASKS, SchemaItem
from iepile_cli.task.passages import overlapping, passages
from iepile_cli.task.schema import read_schema

TEXT = "Ada met Tom. They left Rome. Eve stayed in Lisbon.\n\nBob, who is old, came. All went home."


@pytest.mark.parametrize("first", [0.25, 0.5, 0.75])
def test_passages_that_begin_elsewhere_hold_the_same_text(first: float) -> None:
    usual = list(passages(TEXT, 40, len))
    other = list(passages(TEXT, 40, len, first=first))
    assert (other != usual) == (first < 0.75)
    for cut in (usual, other):
        assert all(TEXT[one.start : one.end] == one.text for one in cut)
        assert "".join("".join(one.text for one in cut).split()) == "".join(TEXT.split())
        assert all(len(one.text) <= 40 for one in cut)


@given(st.text(alphabet="ab. \n", max_size=80), st.integers(4, 30), st.floats(0.05, 0.95))
def test_any_text_is_cut_elsewhere_without_loss(text: str, budget: int, first: float) -> None:
    cut = list(passages(text, budget, len, first=first))
    assert "".join("".join(one.text for one in cut).split()) == "".join(text.split())
    assert all(text[one.start : one.end] == one.text for one in cut)


def test_passages_overlap_by_sentences_as_far_as_there_is_room() -> None:
    cut = list(passages(TEXT, 30, len))
    assert [one.text for one in cut] == [
        "Ada met Tom. They left Rome.",
        "Eve stayed in Lisbon.",
        "Bob, who is old, came.",
        "All went home.",
    ]
    longer = list(overlapping(TEXT, cut, 1, 48, len))
    assert [one.text for one in longer] == [
        "Ada met Tom. They left Rome.",
        "They left Rome. Eve stayed in Lisbon.",
        "Eve stayed in Lisbon.\n\nBob, who is old, came.",
        "Bob, who is old, came. All went home.",
    ]
    assert all(TEXT[one.start : one.end] == one.text for one in longer)
    assert [one.text for one in overlapping(TEXT, cut, 2, 48, len)][3] == longer[3].text
    assert list(overlapping(TEXT, cut, 1, 30, len)) == cut


def test_orders_of_a_schema_are_different_ones() -> None:
    items = tuple(SchemaItem(name) for name in "abcd")
    orders = schema_orders(items, 5)
    assert orders[0] == items
    assert orders[1] == items[::-1]
    assert len(set(orders)) == 5
    assert all(sorted(order, key=lambda item: item.type) == list(items) for order in orders)
    assert schema_orders(items[:1], 3) == [items[:1]]
    assert len(schema_orders(items[:2], 3)) == 2
    assert schema_orders(items, 1) == [items]


def item(name: str, start: int, score: float | None) -> Item:
    return Item(SchemaItem(name), (("mention", Span("x", start, start + 1, score)),), score)


def test_what_half_of_the_readings_find_is_kept_with_its_mean_score() -> None:
    readings = [
        [item("a", 0, 0.9), item("a", 5, 0.5), item("b", 0, None)],
        [item("a", 0, 0.6), item("a", 0, 0.3), item("b", 0, None)],
        [item("a", 7, 1.0)],
    ]
    kept = voted(readings)
    assert [(one.item.type, one.roles[0][1].start, one.score) for one in kept] == [
        ("a", 0, pytest.approx(0.5)),
        ("b", 0, pytest.approx(2 / 3)),
    ]
    assert [one.roles[0][1].score for one in kept] == [one.score for one in kept]
    both = voted(readings[1:])
    assert [(one.item.type, one.score) for one in both] == [("a", 0.3), ("b", 0.5), ("a", 0.5)]
    assert voted(readings[:1]) == readings[0]
    assert voted([]) == []


@pytest.mark.parametrize("options", [{"overlap": -1}, {"passes": 0}, {"votes": 17}])
def test_numbers_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        ExtractOptions(**options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    model = open_model(options=Options(context=4096))
    yield model
    model.runner.close()


@pytest.mark.model
def test_several_readings_answer_each_text_once_and_whole(opened: Opened) -> None:
    task, schema = read_schema(["person,location,organization"], TASKS["NER"])
    text = (
        "Ada Keller flew from Hamburg to Lisbon. Rui Sousa of Northwind Turbines met her there. "
        "They drove to Porto together. Tom Miller stayed at home in Denmark."
    )

    def run(**how: int) -> tuple[Result, float]:
        dealt: list[float] = []
        (result,) = extract(
            [Document("a", text)],
            opened.runner,
            opened.template,
            ExtractOptions(passage_tokens=24, **how),  # type: ignore[arg-type]
            task=task,
            schema=tuple(schema),
            on_answer=lambda tokens, characters: dealt.append(characters),
        )
        return result, sum(dealt)

    once, dealt = run()
    assert dealt == pytest.approx(len(text))
    places = {(one.item, one.roles[0][1].start) for one in once.items}
    for how in ({"passes": 2}, {"overlap": 1}, {"votes": 3}, {"passes": 2, "votes": 2}):
        result, dealt = run(**how)
        assert dealt == pytest.approx(len(text))
        found = [(one.item, one.roles[0][1].start, one.roles[0][1].end) for one in result.items]
        assert len(found) == len(set(found))
        for one in result.items:
            span = one.roles[0][1]
            assert text[span.start : span.end] == span.text
        if how == {"passes": 2}:
            assert places <= {(asked, start) for asked, start, _ in found}
            assert result.tokens > once.tokens

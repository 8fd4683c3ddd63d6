"""The run that texts and instruction records share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import typer

from iepile_cli.cli.extract_run import run
from iepile_cli.errors import DataError, IEPileError, PartialFailure


class Text(str):
    """An item: a text that knows its own and where it is from."""

    source, line = "a.txt", 1

    @property
    def text(self) -> str:
        return str(self)


@dataclass
class Answered:
    item: str
    ungrounded: int = 0
    items: tuple[str, ...] = ("x",)


@dataclass
class Writing:
    """A writer that keeps what is written."""

    before: frozenset[str] = frozenset()
    items: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def written(self) -> int:
        return len(self.items)

    @property
    def resumed(self) -> int:
        return len(self.before)

    def done(self, item: str) -> bool:
        return item in self.before

    def write(self, result: Answered) -> None:
        self.items.append(result.item)


class Model:
    """A model whose runner counts how often it is closed."""

    def __init__(self) -> None:
        self.runner = self
        self.closed = 0
        self.notes = ("a note",)

    def close(self) -> None:
        self.closed += 1


def work(
    items: Iterable[str | IEPileError], writer: Writing, *, output: str | None = None, **how: Any
) -> Model | None:
    """Run over items; those with a "?" have no answer."""
    opened: list[Model] = []

    def read(failed: Any) -> Iterator[Text]:
        for item in items:
            if isinstance(item, IEPileError):
                failed(item)
            else:
                yield Text(item)

    def open_model() -> Model:
        opened.append(Model())
        return opened[0]

    def answer(given: Iterator[Text], model: Model, told: Any, failed: Any) -> Iterator[Answered]:
        for item in given:
            if "?" in item:
                failed(DataError("no answer", path=item))
            else:
                told(10, 3)
                yield Answered(item, item.count("!"))

    @contextmanager
    def writing() -> Iterator[Writing]:
        yield writer

    run("document", read, writing(), open_model, answer, output=output, **how)
    return opened[0] if opened else None


def test_a_run_answers_what_is_left_and_closes_the_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer = Writing(frozenset({"b"}))
    model = work(["a", "b", "c!"], writer)
    assert writer.items == ["a", "c!"]
    assert model is not None
    assert model.closed == 1
    assert capsys.readouterr().err == "a note\n1 mention not found in the text, left out\n"


def test_a_run_with_nothing_left_opens_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert work(["b"], Writing(frozenset({"b"}))) is None
    assert capsys.readouterr().err == "nothing left to do: 1 document done before\n"
    assert work([], Writing()) is None
    assert capsys.readouterr().err == "no document to read\n"
    with pytest.raises(typer.Exit):
        work([DataError("empty", path="x")], Writing())


def test_a_finished_run_says_what_it_wrote_where_and_how_long(
    capsys: pytest.CaptureFixture[str],
) -> None:
    work(["a", "b"], Writing(), output="x.jsonl")
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"2 documents with 2 items written to x\.jsonl in \d\.\d s", last)
    work(["a"], Writing(), output="-")
    assert capsys.readouterr().err == "a note\n"
    work(["a", "b"], Writing(frozenset({"b"})), output="x.jsonl")
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"1 document with 1 item written to .* s; 1 document done before", last)


def test_a_run_without_a_bar_gets_an_estimate_when_it_takes_more_than_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr("iepile_cli.cli.extract_run.time.monotonic", lambda: float(next(clock)))
    texts = [Text("abc")] * 500
    work(texts[:30], Writing(), read_again=lambda: texts)
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"500 documents: about \d+ (min \d+ s|h \d+ min) left", said[0])
    assert sum("left" in line for line in said) == 1
    work(texts[:30], Writing(), read_again=lambda: None)
    assert "about" not in capsys.readouterr().err


def test_a_run_says_how_many_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PartialFailure, match=r"^1 input failed; 1 document written$") as caught:
        work(["a", "?"], Writing(), output="x.jsonl")
    assert "--resume" in caught.value.hint
    with pytest.raises(PartialFailure, match=r"^2 inputs failed; 2 documents written$") as caught:
        work(["a", "?", DataError("x"), "c"], Writing(), output="-")
    assert caught.value.hint == ""
    assert "iepile: ?: no answer\n" in capsys.readouterr().err


def test_a_run_in_which_everything_failed_is_a_failure() -> None:
    with pytest.raises(IEPileError, match=r"^2 inputs failed; nothing written$") as caught:
        work(["?", "??"], Writing(), output="x.jsonl")
    assert (caught.value.exit_code, caught.value.hint) == (1, "")
    with pytest.raises(PartialFailure):
        work(["a", "?"], Writing(frozenset({"a"})), output="x.jsonl")

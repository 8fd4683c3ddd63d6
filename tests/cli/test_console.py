"""Tables, counts and progress."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.cli import console
from iepile_cli.cli.app import run
from iepile_cli.formatting import Styled, cell_width, plural, table_lines, wrap

HEADER = ("name", "runs here", "from", "about")
ROWS = [
    (Styled("llama3-8b-instruct", "bold"), Styled("yes", "green"), "built-in", "Llama 3 Instruct"),
    (
        "a-name",
        "no",
        "some-distribution",
        "not installed here: iepile download a-name\nlicence: Apache-2.0",
    ),
    ("模型", "yes", "built-in", "任正非在深圳 works"),
]


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 120])
def test_tables_fit_and_keep_words_whole(width: int) -> None:
    lines = list(table_lines(HEADER, ROWS, width, optional=("from",)))
    assert max(map(cell_width, lines)) <= width
    shown = {word for line in lines for word in line.replace(":", " ").split()}
    needed = {
        word
        for row in ROWS
        for place in (0, 1, 3)
        for word in row[place].replace(":", " ").split()
        if cell_width(word) <= width - 2
    }
    assert needed <= shown


def test_a_wide_table_is_aligned_and_coloured_only_when_asked() -> None:
    lines = list(table_lines(("what", "n"), [("a", "5"), ("bcd", "100")], 80, right=("n",)))
    assert lines == ["what    n", "a       5", "bcd   100"]
    assert list(table_lines(("x",), [(Styled("a", "green"),)], 80, colour=True)) == [
        "\x1b[1mx\x1b[0m",
        "\x1b[32ma\x1b[0m",
    ]


def test_columns_are_left_out_before_the_table_falls_apart() -> None:
    rows = [("one", "a-rather-long-word", "another-long-word")]
    lines = list(table_lines(("a", "b", "c"), rows, 25, optional=("b", "c")))
    assert lines == ["a    b", "one  a-rather-long-word"]


def test_wrapping_breaks_only_words_that_are_longer_than_the_line() -> None:
    assert wrap("to be or not", 5) == ["to be", "or", "not"]
    assert wrap("unbreakable", 4) == ["unbr", "eaka", "ble"]
    assert wrap("", 4) == [""]
    assert wrap("任正非", 4) == ["任正", "非"]


def test_a_table_is_tab_separated_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("a", "b"), [("x\ty", Styled("z", "red"))])
    assert capsys.readouterr().out == "x y\tz\n"
    console.table(("a", "b"), [("x", "z")], piped_header=True)
    assert capsys.readouterr().out == "a\tb\nx\tz\n"
    console.table(("a", "b"), [("x", "z")], to="stderr")
    assert capsys.readouterr() == ("", "a  b\nx  z\n")


def test_characters_that_the_stream_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    console.table(("a",), [("ö",)])
    out.flush()
    assert out.buffer.getvalue() == b"\\xf6\n"  # type: ignore[attr-defined]


def test_counts_have_their_noun() -> None:
    assert plural(1, "record") == "1 record"
    assert plural(2000, "record") == "2,000 records"
    assert plural(0, "item") == "0 items"


def test_one_record_is_not_said_to_be_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text('{"text": "Ann ran.", "entity": []}\n')
    assert run(["convert", "a.json", "--task", "NER", "--schema", "person", "-o", "b.jsonl"]) == 0
    assert capsys.readouterr().err == "a.json: 1 record, 1 train row\n"
    Path("bad.json").write_text('{"text": "Ann ran.", "entity": []}\n{"text": 3}\n')
    words = ["convert", "bad.json", "--task", "NER", "--schema", "person", "-o", "b.jsonl"]
    assert run(words) == 3
    assert "1 record skipped" in capsys.readouterr().err


def test_progress_off_a_terminal_does_nothing_and_loads_nothing() -> None:
    with console.Progress("bytes") as progress:
        bar = progress.bar("x", 3)
        bar.advance()
        bar.update("y", total=4)
        with progress.aside():
            pass
    assert not progress.visible


@pytest.mark.parametrize("counts", ["none", "items", "bytes"])
def test_progress_on_a_terminal(counts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    for columns in ("40", "100"):
        screen = Screen()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", columns)
        with console.Progress(counts) as progress:
            bar = progress.bar("opening", None)
            bar.update("reading [x]", done=1, total=4)
            bar.advance(1)
            progress.note("one line")
        assert "reading" in screen.getvalue()
        assert "one line" in screen.getvalue()


# ----------------------------------------------------------------------------------------- run

"""``iepile view``, and pages and summaries of ``iepile extract``, with a server that answers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from odd_server import Odd

from iepile_cli.cli.app import run
from iepile_cli.pages import is_page

TEXT = "Bob met Ann. The bank paid bob."


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def entity(text: str, at: int, kind: str = "person") -> dict[str, Any]:
    return {"type": kind, "text": text, "start": at, "end": at + len(text), "score": 0.5}


def write(name: str, *results: dict[str, Any]) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("".join(json.dumps(one) + "\n" for one in results))


def result(source: str, *items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"source": source, **more, "task": "NER", "lang": "en", "answer": {}, "items": [*items]}


FOUND = (entity("Bob", 0), entity("Ann", 8), entity("bob", 27))


def documents(page: str) -> list[dict[str, Any]]:
    content = Path(page).read_text(encoding="utf-8")
    found = re.search(
        '<script type="application/json" id="documents">(.*?)</script>', content, re.S
    )
    assert found
    made: list[dict[str, Any]] = json.loads(found[1])
    return made


# ------------------------------------------------------------------------------------- the page


def test_a_page_beside_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    write("out/r.jsonl", result("a.txt", *FOUND))
    Path("a.txt").write_text(TEXT)
    assert run(["view", "out/r.jsonl"]) == 0
    out, err = capsys.readouterr()
    assert (out, err.split(" (")[0]) == ("", "page written to out/r.html")
    (document,) = documents("out/r.html")
    assert document["text"] == TEXT
    # A page of before is replaced; anything else of that name is not.
    assert run(["view", "out/r.jsonl"]) == 0
    Path("out/r.html").write_text("mine")
    assert run(["view", "out/r.jsonl"]) == 2
    assert "out/r.html is there and is no page" in capsys.readouterr().err
    assert Path("out/r.html").read_text() == "mine"


def test_texts_are_found_as_the_results_name_them() -> None:
    Path("in").mkdir()
    Path("in/beside.txt").write_text(TEXT)
    Path("lines.txt").write_text(f"x\n{TEXT}\n")
    Path("rows.jsonl").write_text(json.dumps({"body": TEXT}) + "\n")
    write(
        "in/r.jsonl",
        result("beside.txt", *FOUND),
        result("lines.txt", *FOUND, line=2),
        {**result("stdin", *FOUND), "text": TEXT},
        result("rows.jsonl", *FOUND, line=1),
    )
    assert run(["view", "in/r.jsonl", "-o", "p.html", "--text-field", "body"]) == 0
    assert [one["text"] for one in documents("p.html")] == [TEXT] * 4


def test_a_text_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.txt").write_text("Something else.")
    write(
        "r.jsonl",
        result("gone.txt", *FOUND),
        result("stdin", *FOUND),
        result("new.txt", *FOUND),
        result("no.txt"),
    )
    assert run(["view", "r.jsonl"]) == 0
    err = capsys.readouterr().err
    assert "1 document without text: its source gone.txt is not there\n" in err
    assert "1 document without text: its text was read from standard input\n" in err
    assert "1 document without text: new.txt has changed: 'Bob' is not at 0\n" in err
    assert [one["text"] for one in documents("r.html")] == [None] * 4
    assert "gone.txt is not there" in documents("r.html")[0]["remark"]


@pytest.mark.parametrize("target", ["r.jsonl", "./r.jsonl", "a.txt", "in/b.txt"])
def test_what_is_read_is_not_overwritten(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").mkdir()
    for name in ("a.txt", "in/b.txt"):
        Path(name).write_text(TEXT)
    write("r.jsonl", result("a.txt", *FOUND), result("in/b.txt", *FOUND))
    before = Path(target).read_text()
    assert run(["view", "r.jsonl", "-o", target]) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert Path(target).read_text() == before
    assert sorted(path.name for path in Path().iterdir()) == ["a.txt", "in", "r.jsonl"]


def test_bad_lines_are_named_and_the_rest_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    write("r.jsonl", {**result("a", *FOUND), "text": TEXT}, {"source": "a"}, {"items": 3})
    with open("r.jsonl", "a") as file:
        file.write("{\n")
        file.write(json.dumps(result("a", {"type": "x", "text": 5})) + "\n")
        for odd in ({"start": "0"}, {"start": -3}, {"end": None}, {"occurrences": [[1]]}):
            file.write(json.dumps(result("a", {**entity("Bob", 0), **odd})) + "\n")
    assert run(["view", "r.jsonl"]) == 3
    err = capsys.readouterr().err
    assert [int(found) for found in re.findall(r"r\.jsonl:(\d)", err)] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert "8 lines could not be read" in err
    assert len(documents("r.html")) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no results"),
        ('{"text": "x"}\n', "holds no results"),
        ('{"task": "NER", "output": "{}"}\n', "iepile eval"),
        ("nothing", "holds no results"),
    ],
)
def test_what_holds_no_results(
    content: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.jsonl").write_text(content)
    assert run(["view", "r.jsonl"]) == 1
    assert words in capsys.readouterr().err
    assert not Path("r.html").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["-"],
        ["r.jsonl", "r.jsonl"],
        ["r.jsonl", "-", "-o", "x.html"],
        ["r.jsonl", "--per-document"],
        ["r.jsonl", "--summary", "-o", "x.html"],
        ["r.jsonl", "--summary", "--open"],
        ["r.jsonl", "--encoding", "none"],
    ],
)
def test_wrong_calls(words: list[str]) -> None:
    write("r.jsonl", result("a", *FOUND))
    assert run(["view", *words]) == 2


def test_an_array_of_several_files_and_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {**result("a", *FOUND), "text": TEXT}
    Path("a.json").write_text(json.dumps([one, one], indent=1))
    write("b.jsonl", one)
    assert run(["view", "a.json", "b.jsonl", "-o", "p.html"]) == 0
    assert len(documents("p.html")) == 3
    data = TextIOWrapper(BytesIO(Path("b.jsonl").read_bytes()))
    monkeypatch.setattr(sys, "stdin", data)
    assert run(["view", "-", "-o", "q.html"]) == 0
    assert len(documents("q.html")) == 1


def test_the_browser_is_opened_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    write("r.jsonl", result("a", *FOUND))
    assert run(["view", "r.jsonl"]) == 0
    assert opened == []
    assert run(["view", "r.jsonl", "--open"]) == 0
    assert opened == [Path("r.html").resolve().as_uri()]


# ---------------------------------------------------------------------------------- the summary


def test_a_summary_of_results(capsys: pytest.CaptureFixture[str]) -> None:
    write("r.jsonl", result("a.txt", *FOUND), result("b.txt", entity("BOB", 0)))
    assert run(["view", "r.jsonl", "--summary"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "type\tname\tcount\tdocuments\tunit\talso written",
        "person\tBob\t3\t2\tentity\tbob | BOB",
        "person\tAnn\t1\t1\tentity\t",
    ]
    assert err == "2 names, found 4 times in 2 documents\n"
    assert run(["view", "r.jsonl", "--summary", "--per-document", "--no-ignore-case"]) == 0
    rows = [line.split("\t")[:4] for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [
        ["a.txt", "person", "Ann", "1"],
        ["a.txt", "person", "Bob", "1"],
        ["a.txt", "person", "bob", "1"],
        ["b.txt", "person", "BOB", "1"],
    ]


def test_a_terminal_is_not_steered_by_names(capsys: pytest.CaptureFixture[str]) -> None:
    write("r.jsonl", result("a", entity("\x1b[2J\tx", 0), entity("\u202eb\r\nc", 0)))
    assert run(["view", "r.jsonl", "--summary"]) == 0
    out = capsys.readouterr().out
    assert not set("\x1b\u202e\r") & set(out)
    assert [line.count("\t") for line in out.splitlines()] == [5, 5, 5]


# ----------------------------------------------------------------------------- of a run of extract


@pytest.fixture
def server() -> Iterator[Odd]:
    made = Odd(lambda count, text: '{"person": ["Bob", "Ann"]}')
    yield made
    made.stop()


def extract(server: Odd, *words: str) -> int:
    return run(["extract", "--base-url", server.url, "--schema", "person", *words])


def test_extract_makes_a_page(server: Odd, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    Path("a.txt").write_text(TEXT)
    assert extract(server, "a.txt", "-o", "p.html") == 0
    assert documents("p.html")[0]["text"] == TEXT
    # A second run replaces a page in a folder that it reads, and does not read it.
    Path("in").mkdir()
    Path("in/a.txt").write_text(TEXT)
    for _ in range(2):
        assert extract(server, "in", "-o", "in/p.html") == 0
        assert [one["source"] for one in documents("in/p.html")] == ["in/a.txt"]
    capsysbinary.readouterr()
    assert extract(server, "a.txt", "--format", "html") == 0
    assert is_page(capsysbinary.readouterr().out)


def test_a_page_of_an_interrupted_run_is_whole(server: Odd) -> None:
    Path("a.txt").write_text(f"{TEXT}\nAnn and Bob\n")
    server.behave = lambda count, text: "{}" if "and" in text else 500
    assert extract(server, "--lines", "a.txt", "-o", "p.html") == 3
    assert [one["line"] for one in documents("p.html")] == [2]


def test_a_summary_in_place_of_results(server: Odd, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text(f"{TEXT}\nBob left.\n")
    assert extract(server, "--lines", "a.txt", "--summary") == 0
    header, bob, ann = capsys.readouterr().out.splitlines()
    assert header.startswith("type\tname\tcount")
    assert bob.startswith("person\tBob\t")
    assert ann == "person\tAnn\t1\t1\tentity\t"


def test_a_summary_beside_results(server: Odd, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text("Bob left.\nAnn and Bob\n")
    server.behave = lambda count, text: '{"person": ["Bob"]}' if "left" in text else 500
    assert extract(server, "--lines", "a.txt", "--summary", "-o", "r.jsonl") == 3
    assert "person\tBob\t1\t1" in capsys.readouterr().out
    # What an earlier run found counts too.
    server.behave = lambda count, text: '{"person": ["Bob"]}'
    words = ["--lines", "a.txt", "--summary", "-o", "r.jsonl", "--resume"]
    assert extract(server, *words) == 0
    assert "person\tBob\t2\t2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--summary", "--format", "json"],
        ["--summary", "-o", "-"],
        ["--per-document"],
    ],
)
def test_summaries_that_cannot_be(server: Odd, words: list[str]) -> None:
    Path("a.txt").write_text(TEXT)
    assert extract(server, "a.txt", *words) == 2
    assert run(["extract", "--instructions", "a.txt", "--summary"]) == 2

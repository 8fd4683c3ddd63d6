"""What texts, types, names of files and servers say is shown, and never obeyed."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from abuse.backends import install, site
from abuse.counting import count
from abuse.program import CONTROLS, call, check_manners

PAYLOADS = [
    "\x1b]0;owned\x07",
    "\x1b[5;31m",
    "\x9b5;31m",
    "\x1b[2J\x1b[H",
    "\u202egpj.exe",
    "\u2066x",
    "\r overwritten",
    "\x08\x08\x08",
]
MARKUP = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</style><script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% for x in y %}",
    "&lt;b&gt;",
    "<!--",
    "]]>",
    "\u2028",
]
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "＝1+1"]


def shown(words: Sequence[str | Path], folder: Path, environment: dict[str, str]) -> bytes:
    """All bytes that a command writes to its terminal."""
    ours, inner = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "iepile_cli", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=inner,
        stderr=inner,
        cwd=folder,
        env={**environment, "TERM": "xterm-256color", "COLUMNS": "100"},
    )
    os.close(inner)
    seen = b""
    while True:
        try:
            if select.select([ours], [], [], 0.2)[0]:
                more = os.read(ours, 65536)
                seen += more
                if not more:
                    break
            elif process.poll() is not None:
                break
        except OSError:
            break
    os.close(ours)
    process.wait(60)
    return seen


def check_terminal(seen: bytes) -> None:
    """Only colours, and what progress bars need, are obeyed: nothing that was put in."""
    assert seen
    text = seen.decode("utf-8")
    for payload in PAYLOADS[:6]:
        assert payload not in text, repr(text)
    ours = re.sub(
        r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\r(?=\x1b\[2K|\n)|\r\r\n", "", text
    )
    assert not CONTROLS.search(ours.replace("\r", "")), repr(ours)


def hostile_name(number: int) -> str:
    return f"n{number}{PAYLOADS[number]}.txt".replace("/", "_")


abuse = pytest.mark.abuse


@pytest.mark.skipif(sys.platform != "linux", reason="a terminal of its own")
@pytest.mark.parametrize(
    "form", ["table", pytest.param("json", marks=abuse), pytest.param("csv", marks=abuse)]
)
def test_a_terminal_obeys_nothing(form: str, tmp_path: Path) -> None:
    environment = site(tmp_path / "site")
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, payload in enumerate(PAYLOADS):
        (texts / hostile_name(number)).write_text(f"{payload}Ann{payload} met {payload} Bob.")
    # What cannot be read is named: no text, not UTF-8, nothing in it.
    (texts / f"z{PAYLOADS[1]}.txt").write_bytes(b"\xff\xff")
    (texts / f"y{PAYLOADS[0]}.txt").write_bytes(b"")
    schema = json.dumps([f"person{payload}" for payload in PAYLOADS])
    words = ["extract", "--schema", schema, "texts", "--backend", "first-word", "-f", form]
    seen = shown(words, tmp_path, environment)
    if form == "table":
        check_terminal(seen)
    else:
        assert not any(payload.encode() in seen for payload in PAYLOADS[:3] if form == "json")
    count("terminals that obeyed nothing")


@pytest.mark.skipif(sys.platform != "linux", reason="a terminal of its own")
@pytest.mark.parametrize("payload", [pytest.param(one, marks=abuse) for one in PAYLOADS[:6]])
def test_errors_on_a_terminal_obey_nothing(payload: str, tmp_path: Path) -> None:
    environment = site(tmp_path / "site")
    for words in (
        ["extract", "-s", "a", f"none{payload}"],
        ["extract", "-s", f"@none{payload}.json", "x"],
        ["extract", "-s", "a", "--task", payload, "x"],
        ["extract", "-s", "a", "--model", f"m{payload}", "x"],
        ["extract", "-s", "a", f"--{payload}", "x"],
        ["convert", f"none{payload}.json"],
        ["eval", f"none{payload}.jsonl"],
        ["train", "--data", f"none{payload}", "-o", "o"],
        ["download", f"owner/{payload}"],
        ["list", payload],
        [payload],
    ):
        check_terminal(shown(words, tmp_path, {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}))
        count("terminals that obeyed nothing")


class Outline(HTMLParser):
    """The tags and attributes of a page, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, tuple(name for name, _ in attributes)))


def outline(page: Path) -> list[tuple[str, tuple[str, ...]]]:
    return Outline(page.read_text(encoding="utf-8")).seen


def predictions(path: Path, text: str) -> Path:
    """A file of predictions with one string everywhere."""
    asked = {"instruction": text, "schema": [text], "input": f"Ann {text} Bob"}
    row = {"id": text, "task": "NER", "source": text, "instruction": json.dumps(asked)}
    row["label"] = json.dumps([{"entity": "Ann", "entity_type": text}])
    row["output"] = json.dumps({text: ["Bob", text, f"{text}!"]})
    path.write_text((json.dumps(row) + "\n") * 3, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "markup", [MARKUP[0], *(pytest.param(one, marks=abuse) for one in MARKUP[1:])]
)
def test_a_report_is_the_page_of_harmless_data(markup: str, tmp_path: Path) -> None:
    pages = []
    for number, text in enumerate((markup, "harmless")):
        page = tmp_path / f"{number}.html"
        done = call("-q", "eval", predictions(tmp_path / "p.jsonl", text), "--html", page)
        check_manners(done)
        assert done.code == 0
        pages.append(outline(page))
    assert pages[0] == pages[1]
    count("pages that ran nothing")


@pytest.mark.parametrize(
    "markup", [MARKUP[1], *(pytest.param(one, marks=abuse) for one in MARKUP[2:])]
)
def test_a_page_of_results_is_the_page_of_harmless_data(markup: str, tmp_path: Path) -> None:
    install()
    pages = []
    for number, word in enumerate((markup, "harmless")):
        name = word.replace("/", "_")
        source, page = tmp_path / f"{name}.txt", tmp_path / f"{number}.html"
        source.write_text(f"Ann {word} met.", encoding="utf-8")
        schema = json.dumps([f"{word}1", f"{word}2"])
        words = ("-q", "extract", "--schema", schema, source, "--backend", "first-word")
        done = call(*words, "-f", "html", "-o", page)
        check_manners(done)
        assert done.code == 0, done
        pages.append([tag for tag, _ in outline(page)])
        names = {name for _, attributes in outline(page) for name in attributes}
        assert not [name for name in names if name.startswith("on")]
    assert pages[0] == pages[1]
    count("pages that ran nothing")


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_cell_is_no_formula(formula: str, tmp_path: Path) -> None:
    install()
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / f"{formula.replace('/', '_')}.txt").write_text(
        f"{formula.replace(' ', '')} x", encoding="utf-8"
    )
    os.chdir(folder)
    words = (
        "-q",
        "extract",
        "--schema",
        json.dumps([formula]),
        "--backend",
        "first-word",
        "-f",
        "csv",
    )
    done = call(*words, f"{formula.replace('/', '_')}.txt")
    if done.code == 2:
        # A name that looks like an option is one.
        done = call(*words, f"./{formula.replace('/', '_')}.txt")
    check_manners(done)
    header, *cells = csv.reader(io.StringIO(done.out.decode(), newline=""))
    assert cells
    assert all(len(row) == len(header) for row in cells)
    for row in cells:
        for cell in row:
            assert cell[:1] not in tuple("=+-@\t\r＝＋－＠") or cell == "", row
    count("cells that are no formulas")


@pytest.mark.parametrize("form", ["tsv", "markdown"])
@pytest.mark.parametrize("text", ["a\tb", "a\nb", "a|b", "\x1b[2J", "a\u2028b", "`x`", "<b>"])
def test_a_table_keeps_its_columns(form: str, text: str, tmp_path: Path) -> None:
    done = call("-q", "eval", predictions(tmp_path / "p.jsonl", text), "--format", form)
    check_manners(done)
    assert done.code == 0, done
    lines = done.out.decode().splitlines()
    mark = "\t" if form == "tsv" else "|"
    columns = {len(re.findall(rf"(?<!\\){re.escape(mark)}", line)) for line in lines}
    assert len(columns) == 1, lines
    assert not CONTROLS.search(done.out.decode())
    count("tables that kept their columns")

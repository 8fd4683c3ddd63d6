"""Documents, encodings, tables and saved texts from the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import document_files as make
import pytest
from odd_server import Odd

from iepile_cli.cli import app

ANSWER = '{"person": ["Ada Keller", "Tom Miller"], "location": ["Lisbon", "Porto"]}'


@pytest.fixture(scope="module")
def server() -> Iterator[Odd]:
    made = Odd(lambda count, text: ANSWER)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Odd) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEST_SERVER", server.url)


def run(*arguments: str) -> int:
    address = os.environ["TEST_SERVER"]
    return app.run(["extract", "--base-url", address, "--schema", "person,location", *arguments])


def results(out: str) -> dict[str, Any]:
    return {found["source"]: found for found in map(json.loads, out.splitlines())}


def test_documents_give_pages_and_saved_texts_and_failures_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pypdfium2")
    pytest.importorskip("lxml")
    folder = Path("in")
    folder.mkdir()
    lines = ["Ada Keller flew from Hamburg to Lisbon.", "She met Tom Miller in Porto."]
    (folder / "a.pdf").write_bytes(make.pdf([lines[:1], lines[1:]]))
    (folder / "b.docx").write_bytes(make.docx("".join(map(make.paragraph, lines))))
    (folder / "c.txt").write_bytes("Léa Lefèvre à Besançon, très étonnée.".encode("cp1252"))
    (folder / "locked.pdf").write_bytes(make.pdf([lines], encrypted=True))
    assert run("in", "--save-text", "texts", "-f", "jsonl") == 3
    out, said = capsys.readouterr()
    found = results(out)
    assert set(found) == {"in/a.pdf", "in/b.docx", "in/c.txt"}
    for source, result in found.items():
        text = Path("texts", f"{source}.txt").read_bytes().decode()
        for one in result["items"]:
            assert text[one["start"] : one["end"]] == one["text"]
    pages = {one["text"]: one.get("page") for one in found["in/a.pdf"]["items"]}
    assert pages["Ada Keller"] == 1
    assert pages["Porto"] == 2
    assert not any("page" in one for one in found["in/b.docx"]["items"])
    assert said.count("in/c.txt: is not UTF-8, read as cp1252 (--encoding names another)") == 1
    assert said.count("in/locked.pdf: is encrypted: it opens only with a password") == 1


def test_tables_have_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pypdfium2")
    Path("a.pdf").write_bytes(make.pdf([["x"], ["Ada Keller in Lisbon"]]))
    assert run("a.pdf", "-f", "csv") == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.rpartition(",")[2] for row in rows] == ["page", "2", "2"]


def test_tables_of_parquet_and_arrow(capsys: pytest.CaptureFixture[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import feather, ipc, parquet

    table = pyarrow.table({"id": [7, 8], "body": ["Ada Keller is in Lisbon.", None], "x": [1, 2]})
    parquet.write_table(table, "a.parquet")
    feather.write_feather(table, "b.feather")
    with ipc.new_stream("c.arrow", table.schema) as writer:
        writer.write_table(table)
    assert run("a.parquet", "b.feather", "c.arrow", "--text-field", "body", "-f", "jsonl") == 3
    out, said = capsys.readouterr()
    found = results(out)
    assert {(name, one["line"], one["id"]) for name, one in found.items()} == {
        (name, 1, "7") for name in ("a.parquet", "b.feather", "c.arrow")
    }
    assert "a.parquet:2: its field 'body' is not a text" in said
    Path("d.parquet").write_bytes(b"PAR1 cut off")
    assert run("d.parquet", "a.parquet", "-f", "jsonl") == 1
    said = capsys.readouterr().err
    assert "d.parquet: is no readable Parquet or Arrow file" in said
    assert "a.parquet: has no column 'text' (--text-field names it; it has: id, body, x)" in said


def test_mixed_encodings_of_lines_and_records(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["text", "Léa Lefèvre à Besançon", "François Garçon à Orléans, très étonné"]
    Path("a.csv").write_bytes("\n".join(rows).encode("cp1252"))
    Path("b.csv").write_bytes("\n".join(rows).encode())
    Path("c.csv").write_bytes("text\nПрезидент Иван Петров приехал в Москву вчера".encode("cp1251"))
    assert run("a.csv", "b.csv", "c.csv", "-f", "jsonl") == 0
    said = capsys.readouterr().err
    assert "a.csv: is not UTF-8, read as cp1252" in said
    assert "b.csv" not in said
    assert "c.csv: is not UTF-8, read as cp1251" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save-text", "."], "is read, and is in --save-text"),
        (["--save-text", "a.txt"], "--save-text a.txt is no folder"),
        (["--lines", "--input-format", "pdf"], "--input-format is for files that are one text"),
    ],
)
def test_wrong_calls(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("a.txt").write_text("Ada")
    assert run("a.txt", *arguments) == 2
    assert message in capsys.readouterr().err
    assert Path("a.txt").read_text() == "Ada"

"""What ``iepile extract`` reads, writes and refuses, with a small server that answers at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from odd_server import Odd

from iepile_cli.backends import openai
from iepile_cli.cli.app import run
from iepile_cli.extraction.forms import FOLDER, FORMATS
from iepile_cli.task.instruction import instruction_json
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS

ANSWER = '{"person": ["Ann"], "location": ["Rome"]}'
TEXT = "Ann went to Rome."


@pytest.fixture(scope="module")
def server() -> Iterator[Odd]:
    made = Odd(lambda count, text: (400, {}, "no luck") if "broken" in text else ANSWER)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(openai, "_RETRIES", 1)


def extract(server: Odd, *words: str, schema: str = "person,location") -> int:
    return run(["extract", "--base-url", server.url, "--schema", schema, *words])


def rows(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


# ------------------------------------------------------------------------ never over an input


@pytest.mark.parametrize("how", ["name", "other name", "symbolic link", "hard link"])
def test_an_output_that_is_an_input_is_refused(
    server: Odd, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path("a.jsonl")
    source.write_text(json.dumps({"text": TEXT}) + "\n")
    before = source.read_bytes()
    output = {"name": "a.jsonl", "other name": f"../{Path.cwd().name}/a.jsonl"}.get(how, "b.jsonl")
    if how == "symbolic link":
        os.symlink("a.jsonl", output)
    if how == "hard link":
        os.link("a.jsonl", output)
    assert extract(server, "a.jsonl", "-o", output) == 2
    assert "would overwrite what is read from it" in capsys.readouterr().err
    assert source.read_bytes() == before


@pytest.mark.parametrize("given", ["texts", "texts/*.jsonl"])
def test_an_output_in_an_input_folder_is_refused_but_for_earlier_results(
    server: Odd, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("texts").mkdir()
    for name in ("a", "b"):
        Path(f"texts/{name}.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    assert extract(server, given, "-o", "texts/b.jsonl") == 2
    assert "would overwrite what is read from it" in capsys.readouterr().err
    for _ in range(2):
        assert extract(server, given, "-o", "texts/out.jsonl") == 0
        assert [Path(row["source"]).name for row in rows("texts/out.jsonl")] == [
            "a.jsonl",
            "b.jsonl",
        ]


def test_instruction_records_are_not_overwritten(
    server: Odd, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.jsonl").write_text("{}\n")
    for output in ("a.jsonl", "./a.jsonl"):
        assert run(["extract", "--instructions", "a.jsonl", "-o", output]) == 2
    assert Path("a.jsonl").read_text() == "{}\n"


# ------------------------------------------------------------------------------ what is passed over


def test_files_of_a_folder_that_are_passed_over_are_named(
    server: Odd, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("texts/deep").mkdir(parents=True)
    Path("texts/a.txt").write_text(TEXT)
    for name in ("report.doc", "photo.png", "deep/program.bin", ".hidden.doc"):
        Path("texts", name).write_bytes(b"%PDF\0")
    assert extract(server, "texts", "-o", "texts/out.jsonl") == 0
    said = capsys.readouterr().err
    assert "passed over 3 files" in said
    for name in ("report.doc", "photo.png", "deep/program.bin"):
        assert os.path.join("texts", name) in said
    assert "hidden" not in said
    assert "out.jsonl.run" not in said
    assert extract(server, "texts", "-o", "texts/out.jsonl") == 0
    assert "passed over 3 files" in capsys.readouterr().err


def test_a_run_that_is_over_says_what_it_wrote(
    server: Odd, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.txt").write_text("Ann went to Rome.\nAnn is back.\n")
    assert extract(server, "--lines", "a.txt", "-o", "out.jsonl") == 0
    assert "2 documents with 3 items written to out.jsonl in " in capsys.readouterr().err
    assert extract(server, "a.txt") == 0
    assert "written" not in capsys.readouterr().err


# --------------------------------------------------------------------------- forms and encodings


@pytest.mark.parametrize("output", ["out.pdf", "out.xlsx"])
def test_a_suffix_that_is_no_format_is_an_error_unless_the_format_is_named(
    server: Odd, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.txt").write_text(TEXT)
    assert extract(server, "a.txt", "-o", output) == 2
    assert "--format" in capsys.readouterr().err
    assert not Path(output).exists()
    assert extract(server, "a.txt", "-o", output, "--format", "jsonl") == 0
    assert len(rows(output)) == 1


def test_a_file_in_windows_1252_is_read_and_that_is_said(
    server: Odd, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "“Ann” went to Rome – for €5."
    Path("a.txt").write_bytes(text.encode("cp1252"))
    assert extract(server, "a.txt") == 0
    out, said = capsys.readouterr()
    assert "a.txt: is not UTF-8, read as cp1252 (--encoding names another)" in said
    assert extract(server, "a.txt", "--encoding", "cp1252") == 0
    assert capsys.readouterr() == (out, "")
    assert json.loads(out)["items"][0]["start"] == 1


def test_csv_for_excel(server: Odd, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    Path("a.txt").write_text("Ann went to Rome, Zoë.", encoding="utf-8")
    assert extract(server, "a.txt", "--format", "csv", "--bom") == 0
    out = capsysbinary.readouterr().out
    assert out.startswith(
        "\ufeffsource,line,id,task,lang,item,type,text,start,end,score,page\n".encode()
    )
    assert extract(server, "a.txt", "--bom") == 2


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_written_to_a_file_and_all_but_folders_to_stdout(
    server: Odd, form: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    for library in {"parquet": ["pyarrow"], "graphml": ["networkx"], "turtle": ["rdflib"]}.get(
        form, []
    ):
        pytest.importorskip(library)
    for name in ("a.txt", "b.txt"):
        Path(name).write_text(TEXT)
    assert extract(server, "a.txt", "b.txt", "--format", form, "-o", "out") == 0
    said = capsysbinary.readouterr().err.decode()
    assert "2 documents with 4 items written to out in" in said
    code = extract(server, "a.txt", "b.txt", "--format", form)
    shown, said_then = capsysbinary.readouterr()
    if form == FOLDER:
        assert len(os.listdir("out")) == 5
        assert (code, shown) == (2, b"")
        assert b"name a new folder with -o" in said_then
    elif form != "table":
        # What people look at is as wide as the terminal.
        assert (code, shown) == (0, Path("out").read_bytes())


# ------------------------------------------------------------------------------------- resuming


def test_a_symbolic_link_stays_one(server: Odd) -> None:
    Path("a.txt").write_text(TEXT)
    Path("far").mkdir()
    Path("far/out.jsonl").write_text("")
    os.symlink("far/out.jsonl", "link.jsonl")
    for _ in range(2):
        assert extract(server, "a.txt", "-o", "link.jsonl") == 0
        assert os.path.islink("link.jsonl")
        assert len(rows("far/out.jsonl")) == 1


def test_results_of_an_interrupted_run_are_not_overwritten(
    server: Odd, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.txt").write_text(TEXT)
    assert extract(server, "a.txt", "-o", "out.jsonl") == 0
    os.rename("out.jsonl", "out.jsonl.part")
    before = Path("out.jsonl.part").read_bytes()
    Path("out.jsonl").write_text("old\n")
    assert extract(server, "a.txt", "-o", "out.jsonl") == 2
    assert "--resume" in capsys.readouterr().err
    assert Path("out.jsonl.part").read_bytes() == before
    assert Path("out.jsonl").read_text() == "old\n"


def test_the_answer_is_in_the_order_of_the_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("a.txt").write_text("Also, Bob met Al.")
    server = Odd(lambda count, text: '{"person": ["Al", "Bob"]}')
    try:
        assert extract(server, "a.txt", schema="person") == 0
    finally:
        server.stop()
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["answer"] == {"person": ["Bob", "Al"]}
    assert [item["text"] for item in row["items"]] == ["Bob", "Al"]


def test_resuming_with_another_schema_or_model_is_refused(
    server: Odd, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.txt").write_text(TEXT + "\nAnn is broken.\n")
    call = ["--lines", "a.txt", "-o", "out.jsonl"]
    assert extract(server, *call, "--model", "m") == 3
    written = Path("out.jsonl").read_bytes()
    for more, schema, named in (
        (["--model", "m"], "person", "schema"),
        (["--model", "m", "--task", "re"], "person,location", "task"),
        (["--model", "other"], "person,location", "model"),
        (["--model", "m", "--template", "alpaca"], "person,location", "template"),
    ):
        assert extract(server, *call, "--resume", *more, schema=schema) == 2
        assert f"out.jsonl was written with another {named}: " in capsys.readouterr().err
        assert Path("out.jsonl").read_bytes() == written
    assert extract(server, *call, "--resume", "--model", "m") == 3
    assert "1 input failed; 0 documents written" in capsys.readouterr().err
    assert Path("out.jsonl").read_bytes() == written


def test_results_stay_when_everything_fails_in_a_later_run(server: Odd) -> None:
    Path("a.txt").write_text(TEXT)
    Path("b.txt").write_text("Ann is broken.")
    assert extract(server, "a.txt", "-o", "out.jsonl") == 0
    before = Path("out.jsonl").read_bytes()
    assert extract(server, "b.txt", "-o", "out.jsonl") == 1
    assert Path("out.jsonl").read_bytes() == before
    assert extract(server, "b.txt", "-o", "other.jsonl") == 1
    assert sorted(os.listdir()) == ["a.txt", "b.txt", "out.jsonl", "out.jsonl.run"]


@pytest.mark.parametrize("how", ["texts", "records"])
def test_a_folder_that_is_not_there_is_made_for_the_output(server: Odd, how: str) -> None:
    Path("a.txt").write_text(TEXT)
    Path("a.jsonl").write_text(record(TEXT))
    if how == "texts":
        assert extract(server, "a.txt", "-o", "new/folder/out.csv") == 0
    else:
        out = "new/folder/out.jsonl"
        words = ["--instructions", "a.jsonl", "-o", out]
        assert run(["extract", "--base-url", server.url, *words]) == 0
    (made,) = Path("new/folder").glob("out.[cj]*[vl]")
    assert "Ann" in made.read_text()


# ----------------------------------------------------------------------- options that do nothing


def test_min_score_is_said_to_do_nothing_where_answers_have_no_scores(
    server: Odd, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.txt").write_text(f"{TEXT}\n{TEXT}\n")
    assert extract(server, "--lines", "a.txt", "--min-score", "0.9") == 0
    said = capsys.readouterr()
    assert said.err.count("--min-score: answers have no scores here") == 1
    assert all(json.loads(line)["items"] for line in said.out.splitlines())
    assert extract(server, "--lines", "a.txt") == 0
    assert "--min-score" not in capsys.readouterr().err


def record(text: str, **how: Any) -> str:
    items = (SchemaItem("person"), SchemaItem("location"))
    wording = instruction_json(TASKS["NER"], items, text, "en")
    return json.dumps({"task": "NER", "instruction": wording}, **how) + "\n"


def test_instruction_records_are_read_in_their_encoding(server: Odd) -> None:
    Path("a.jsonl").write_bytes(record("Zoë went to Rome.", ensure_ascii=False).encode("cp1252"))
    call = ["extract", "--instructions", "a.jsonl", "--base-url", server.url, "-o", "out.jsonl"]
    assert run(call) == 1
    assert run([*call, "--encoding", "no-such"]) == 2
    assert run([*call, "--encoding", "cp1252"]) == 0
    (row,) = rows("out.jsonl")
    assert "Zoë" in row["instruction"]


def test_instruction_records_are_cut_where_passage_tokens_asks_for_it(server: Odd) -> None:
    Path("a.jsonl").write_text(record("Ann went to Rome on this day. " * 8))
    call = ["extract", "--instructions", "a.jsonl", "--base-url", server.url, "-o", "out.jsonl"]
    before = len(server.asked)
    assert run(call) == 0
    assert len(server.asked) == before + 1
    assert run([*call, "--passage-tokens", "32"]) == 0
    assert len(server.asked) > before + 3


def test_a_long_schema_for_a_server_is_not_measured_with_a_model_of_this_machine(
    server: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.txt").write_text(TEXT)
    monkeypatch.setenv("IEPILE_BASE_URL", server.url)
    types = ",".join(f"a kind of entity number {n}" for n in range(600))
    call = ["extract", "--backend", "openai", "--model", "only-there", "--split-num", "-1"]
    assert run([*call, "-s", f"person,location,{types}", "a.txt", "-o", "out.jsonl"]) in (0, 1)
    assert run([*call, "-s", "person,location", "a.txt", "-o", "out.jsonl"]) == 0

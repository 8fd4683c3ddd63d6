"""What cannot be put to the model: it fails alone, or is said before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iepile_cli.cli import console
from iepile_cli.cli.app import run

pytestmark = pytest.mark.model

EXTRACT = ["extract", "--threads", "1", "--answer-tokens", "24"]


def test_a_document_that_cannot_be_cut_fails_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    texts = ["Ann is in Oslo.", "e" + "\u0301" * 3000, "Bob is in Rome."]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    # A schema so long that the context holds passages of few tokens only.
    schema = "person " + "who is named " * 30
    call = [*EXTRACT, "-s", schema, "--context", "256", str(source), "-o", str(out)]
    assert run(call) == 3
    said = capsys.readouterr().err
    assert f"iepile: {source}:2: a passage of 46 tokens does not hold even " in said
    assert "1 input failed; 2 documents written" in said
    assert len(max(said.splitlines(), key=len)) < 400
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["line"] for row in rows] == [1, 3]


def test_a_context_smaller_than_a_batch_is_enough_for_a_short_text(tmp_path: Path) -> None:
    source, out = tmp_path / "a.txt", tmp_path / "out.jsonl"
    source.write_text("Ann met Bob in Oslo, and both of them went on to Rome. " * 12)
    call = [*EXTRACT, "-s", "person", "--context", "200", str(source), "-o", str(out)]
    assert run(call) == 0
    assert json.loads(out.read_text())["items"]


@pytest.mark.parametrize("ending", ["json", "txt"])
def test_a_schema_that_leaves_no_room_is_named_before_the_model_is_loaded(
    tmp_path: Path,
    ending: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = []
    monkeypatch.setattr("iepile_cli.backends.opening.open_model", lambda *a, **k: loaded.append(a))
    types = [f"a kind of entity with a long name, number {n}" for n in range(700)]
    schema = tmp_path / "types.json"
    schema.write_text(json.dumps(types))
    text = tmp_path / "a.txt"
    text.write_text("Ann is in Oslo.")
    given = [str(schema)] if ending == "json" else [name.replace(",", "") for name in types]
    words = [word for one in given for word in ("-s", one)]
    assert run([*EXTRACT[:3], *words, "--split-num", "-1", str(text)]) == 1
    said = capsys.readouterr().err
    assert "700 types and their answer leave 0 of 8192 tokens" in said
    assert (f"{schema} (700 types): " in said) == (ending == "json")
    assert not loaded


def test_what_a_model_is_not_good_for_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Restored afterwards: --quiet stays for the process.
    monkeypatch.setattr(console.verbosity, "quiet", False)
    german = (
        "Die Bundeskanzlerin traf am Dienstag in Berlin den Präsidenten der Republik, um über die "
        "Zukunft der Europäischen Union zu sprechen. Das teilte ein Sprecher der Regierung mit.\n"
    )
    text = tmp_path / "a.txt"
    text.write_text(german * 2, encoding="utf-8")
    assert run([*EXTRACT, "--task", "re", "-s", "met", "--lines", str(text)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "weak at relations" in said[0]
    assert "another language" in said[1]
    assert all("iepile list models" in line for line in said)
    assert run(["--quiet", *EXTRACT, "-s", "person", "--lines", str(text)]) == 0
    assert capsys.readouterr().err == ""

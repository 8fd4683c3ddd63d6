"""No command writes over what it reads: not by its name, not by a link, not by a hard link."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from iepile_cli.cli.app import run

RECORD = {"text": "Ann ran.", "entity": [{"entity": "Ann", "entity_type": "person"}]}
INSTRUCTION = json.dumps({"instruction": "x", "schema": ["person"], "input": "Ann ran."})
ROW = {
    "task": "NER",
    "source": "s",
    "instruction": INSTRUCTION,
    "label": json.dumps([{"entity": "Ann", "entity_type": "person"}]),
    "output": json.dumps({"person": ["Ann"]}),
}
FILES = {
    "text.txt": "Ann ran.",
    "schema.json": json.dumps(["person"]),
    "records.json": json.dumps(RECORD) + "\n",
    "rows.jsonl": json.dumps(ROW) + "\n",
    "other.jsonl": json.dumps(ROW) + "\n",
    "hard.json": json.dumps({"person": ["place"]}),
    "aliases.toml": '[names]\nperson = ["person", "people"]\n',
}

# A command, with @ where the output is named, and the input that it must not be.
CALLS = [
    ("extract -s person text.txt -f json -o @", "text.txt"),
    ("extract -s schema.json text.txt -f json -o @", "schema.json"),
    ("extract --instructions rows.jsonl -o @", "rows.jsonl"),
    ("convert records.json --task NER --schema person -o @", "records.json"),
    ("convert records.json --task NER --schema schema.json -o @", "schema.json"),
    (
        "convert records.json --task NER --schema person --hard-negatives hard.json -o @",
        "hard.json",
    ),
    (
        "convert records.json --task NER --schema person --label-aliases aliases.toml -o @",
        "aliases.toml",
    ),
    (
        "convert records.json --task NER --schema person -o out.jsonl --hard-negatives auto"
        " --write-hard-negatives @",
        "records.json",
    ),
    (
        "convert records.json --task NER --schema person -o out.jsonl --hard-negatives hard.json"
        " --write-hard-negatives @",
        "hard.json",
    ),
    ("eval rows.jsonl --json @", "rows.jsonl"),
    ("eval rows.jsonl --html @", "rows.jsonl"),
    ("eval rows.jsonl --confusions @", "rows.jsonl"),
    ("eval rows.jsonl --baseline other.jsonl --json @", "other.jsonl"),
]


def by_name(path: Path) -> Path:
    return path


def by_link(path: Path) -> Path:
    link = path.with_name(f"link-{path.name}")
    link.symlink_to(path)
    return link


def by_hard_link(path: Path) -> Path:
    link = path.with_name(f"hard-{path.name}")
    os.link(path, link)
    return link


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("named", [by_name, by_link, by_hard_link])
@pytest.mark.parametrize(("call", "read"), CALLS, ids=[f"{c} {r}" for c, r in CALLS])
def test_an_input_is_not_written_over(
    call: str,
    read: str,
    named: Callable[[Path], Path],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = named(folder / read)
    words = [output.name if word == "@" else word for word in call.split()]
    assert run(words) == 2, capsys.readouterr().err
    err = capsys.readouterr().err
    assert err.startswith("iepile: ")
    assert err.count("\n") == 1
    assert "overwrit" in err
    for name, content in FILES.items():
        assert (folder / name).read_text() == content


@pytest.mark.parametrize("form", ["out", "out/", "link"])
def test_training_data_where_the_log_goes_is_kept(
    form: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "out").mkdir()
    (folder / "link").symlink_to(folder / "out")
    data = folder / "out" / "train_log.jsonl"
    data.write_text(FILES["rows.jsonl"])
    for option in ("--data", "--eval-data"):
        other = [] if option == "--data" else ["--data", "rows.jsonl"]
        words = ["train", *other, option, str(data), "-o", form, "--overwrite", "--dry-run"]
        assert run(words) == 2, capsys.readouterr().err
        assert "overwrit" in capsys.readouterr().err
        assert data.read_text() == FILES["rows.jsonl"]


@pytest.mark.parametrize(
    "call",
    [
        "train --data rows.jsonl --adapter adapter -o adapter --overwrite --dry-run",
        "export --adapter adapter --to merged -o adapter --overwrite",
        "export --model model.gguf --to gguf -o model.gguf --overwrite",
    ],
)
def test_a_model_that_is_read_is_not_replaced(
    call: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "adapter").mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "smollm2"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    (folder / "model.gguf").write_bytes(b"GGUF")
    assert run(call.split()) == 2, capsys.readouterr().err
    assert "overwrit" in capsys.readouterr().err
    assert (folder / "adapter" / "adapter_config.json").read_text() == json.dumps(config)
    assert (folder / "model.gguf").read_bytes() == b"GGUF"


def test_a_folder_of_results_is_not_put_where_texts_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("Ann")
    out = tmp_path / "in" / "out"
    words = ["extract", "-s", "person", "-f", "brat", "-o", str(out), str(tmp_path / "in")]
    assert run(words) == 2
    assert "which is read" in capsys.readouterr().err
    assert not out.exists()

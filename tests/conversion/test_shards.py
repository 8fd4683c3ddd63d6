"""Parts of a conversion: joined they are the whole, with the same rows drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iepile_cli.cli.app import run
from iepile_cli.conversion import chunks

TYPES = ["person", "place", "work", "animal"]


def records(count: int) -> list[str]:
    return [
        json.dumps(
            {
                "text": f"Ann{number} met the fox in Rome.",
                "entity": [{"entity": f"Ann{number}", "entity_type": TYPES[number % 3]}],
            }
        )
        for number in range(count)
    ]


def convert(path: Path, output: Path, *more: str) -> int:
    schema = ["--schema", ",".join(TYPES), "--task", "NER", "--workers", "1"]
    return run(["-q", "convert", str(path), *schema, "-o", str(output), *more])


@pytest.mark.parametrize("form", ["lines", "array", "bio"])
@pytest.mark.parametrize("of", [1, 3, 7])
def test_joined_outputs_are_those_of_one_run(
    form: str, of: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "BLOCK", 1000)
    path = tmp_path / {"lines": "train.jsonl", "array": "train.json", "bio": "train.bio"}[form]
    made = records(60)
    if form == "lines":
        path.write_text("\n".join([*made[:20], "", "{broken", *made[20:], "also broken"]) + "\n")
    elif form == "array":
        path.write_text("[" + ",\n".join([*made[:20], "{broken}", *made[20:]]) + "]")
    else:
        path.write_text("".join(f"Ann{n} B-person\nmet O\nRome B-place\n\n" for n in range(60)))
    options = ["--neg-ratio", "0.5", "--shuffle", "--sample", "0.8", "--dev-share", "0.3"]
    whole = tmp_path / "whole.jsonl"
    expected = convert(path, whole, *options)
    codes = []
    for number in range(1, of + 1):
        shard = f"{number}/{of}"
        codes.append(convert(path, tmp_path / f"{number}.jsonl", *options, "--shard", shard))
    for ending in ("jsonl", "dev.jsonl"):
        parts = [(tmp_path / f"{number}.{ending}").read_bytes() for number in range(1, of + 1)]
        assert b"".join(parts) == whole.with_suffix("").with_suffix(f".{ending}").read_bytes()
    assert max(codes) == expected


def test_each_problem_is_said_by_one_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.jsonl"
    made = records(10)
    path.write_text("\n".join(["{first", *made[:4], "{fifth", *made[4:], "{last"]) + "\n")
    said = ""
    for number in range(1, 6):
        named = ["--schema", "person", "--task", "NER", "-o", str(tmp_path / "out")]
        run(["convert", str(path), *named, "--shard", f"{number}/5"])
        said += capsys.readouterr().err
    for line in (1, 6, 13):
        assert said.count(f"train.jsonl:{line} ") == 1, said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--shard", "3/2"], "no part of several"),
        (["--shard", "1/2", "--max-empty-ratio", "0.5"], "counts the rows of the whole file"),
        (["--shard", "1/2", "--to", "schema"], "cannot be joined"),
        (["--shard", "1/2", "--to", "label-studio"], "cannot be joined"),
    ],
)
def test_wrong_parts_are_refused(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(records(3)))
    assert convert(path, tmp_path / "out", *more) == 2
    assert said in capsys.readouterr().err


def test_a_part_of_a_stream_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "-", "--schema", "a", "--task", "NER", "--shard", "1/2"]) == 2
    assert "read twice" in capsys.readouterr().err

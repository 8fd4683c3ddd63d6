"""From a BIO file over results, scores and errors to corrections and training, as users do it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LETTERS = ROOT / "examples" / "letters.bio"
SCHEMA = "person,place,vessel"


def iepile(*words: object) -> str:
    """Run a command as a user does; it must succeed."""
    command = [sys.executable, "-m", "iepile_cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def corrected(folder: Path) -> Path:
    """Annotation in doccano's form, as a person leaves it who works off the list of errors."""
    texts, results, errors = (folder / f"{name}.jsonl" for name in ("texts", "results", "errors"))
    iepile("convert", LETTERS, "--to", "doccano", "-o", texts)
    iepile("extract", "--schema", SCHEMA, texts, "-o", results)
    iepile("eval", results, "--gold", LETTERS, "--errors", errors, "--resamples", 0)
    found = [json.loads(line) for line in errors.read_text(encoding="utf-8").splitlines()]
    assert found
    assert [one["rank"] for one in found] == sorted(one["rank"] for one in found)
    iepile("convert", results, "--to", "doccano", "-o", folder / "pre.jsonl")
    lines = (folder / "pre.jsonl").read_text(encoding="utf-8").splitlines()
    tasks = [json.loads(line) for line in lines]
    for error in found:
        labels = tasks[int(error["id"]) - 1]["label"]
        span = error["spans"][0]
        if error["error"] == "missed":
            labels.append([*span, error["label"]])
            continue
        (wrong,) = [one for one in labels if one[:2] == span and one[2] == error["label"]]
        labels.remove(wrong)
        if error["error"] == "wrong type":
            labels.append([*span, error["gold_label"]])
    target = folder / "corrected.jsonl"
    target.write_text("".join(json.dumps(one) + "\n" for one in tasks), encoding="utf-8")
    return target


@pytest.mark.model
def test_corrections_that_follow_the_errors_are_the_gold(tmp_path: Path) -> None:
    target = corrected(tmp_path)
    back, gold = (
        sorted(iepile("convert", path, "--task", "NER", "--to", "bio").split("\n\n"))
        for path in (target, LETTERS)
    )
    assert back == gold


@pytest.mark.slow
@pytest.mark.model
def test_corrections_are_trained_on(tmp_path: Path) -> None:
    rows, adapter = tmp_path / "rows.jsonl", tmp_path / "adapter"
    iepile("convert", corrected(tmp_path), "--task", "NER", "--schema", "auto", "-o", rows)
    iepile("train", "--data", rows, "-o", adapter, "--max-steps", 20, "--val-size", 0)
    assert (adapter / "adapter_model.safetensors").is_file()
    iepile("extract", "--adapter", adapter, "--schema", SCHEMA, ROOT / "examples" / "news.txt")

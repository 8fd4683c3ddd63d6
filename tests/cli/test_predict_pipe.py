"""``convert | extract --instructions - | eval -`` as processes, and a run that is killed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
IEPILE = f"{shlex.quote(sys.executable)} -m iepile_cli"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
TYPES = ["person", "city", "country", "vehicle", "work"]
# The same text twice: two records of a corpus that only their place tells apart.
TEXTS = [*(f"Ann {n} met Bob in Rome." for n in range(8)), "Ann 3 met Bob in Rome."]
EXTRACT = "extract --instructions - --threads 1 --answer-tokens 16"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "IE-en" / "NER" / "made"
    folder.mkdir(parents=True)
    gold = [{"entity": "Bob", "entity_type": "person"}, {"entity": "Rome", "entity_type": "city"}]
    lines = [json.dumps({"text": text, "entity": gold}) for text in TEXTS]
    (folder / "test.json").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "schema.json").write_text(f"{json.dumps(TYPES)}\n[]\n{{}}\n", "utf-8")
    return folder / "test.json"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = f"set -o pipefail; {command}".replace("iepile ", f"{IEPILE} ")
    ran = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def asked(rows: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((str(row["id"]), row["instruction"]) for row in rows)


@pytest.mark.model
@pytest.mark.skipif(sys.platform == "win32", reason="a shell's pipe")
def test_as_one_pipe(corpus: Path, tmp_path: Path) -> None:
    ran = shell(
        f"iepile convert {corpus} --split test --split-num 3 | iepile {EXTRACT} "
        "| tee pred.jsonl | iepile eval - --json scores.json",
        tmp_path,
    )
    rows = read(tmp_path / "pred.jsonl")
    # Five types in batches of three.
    assert len(rows) == 2 * len(TEXTS)
    assert all(isinstance(json.loads(row["output"]), dict) for row in rows)
    unit = json.loads((tmp_path / "scores.json").read_text())["tasks"]["NER"]["units"]["entity"]
    assert unit["micro"]["gold"] == 2 * len(TEXTS)
    assert "Traceback" not in ran.stderr


@pytest.mark.model
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_run_is_resumed_from_the_pipe_without_repetition_or_loss(
    corpus: Path, tmp_path: Path
) -> None:
    """Records share an id (two batches of types about one text), and one text comes twice."""
    shell(f"iepile convert {corpus} --split test --split-num 3 -o test.jsonl", tmp_path)
    records = read(tmp_path / "test.jsonl")
    assert len(records) == 18
    assert len({str(row["id"]) for row in records}) < len(records)
    out = tmp_path / "pred.jsonl"
    words = f"iepile {EXTRACT} --parallel 1 -o pred.jsonl".replace("iepile ", f"{IEPILE} ", 1)
    with (tmp_path / "test.jsonl").open("rb") as instructions:
        process = subprocess.Popen(
            shlex.split(words), cwd=tmp_path, env=ENVIRONMENT, stdin=instructions
        )
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if out.exists() and out.read_bytes().count(b"\n") >= 4:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = out.read_bytes()
    kept = before[: before.rfind(b"\n") + 1]
    assert 4 <= kept.count(b"\n") < len(records)
    shell(f"cat test.jsonl | iepile {EXTRACT} -o pred.jsonl --resume", tmp_path)
    assert out.read_bytes().startswith(kept)
    rows = read(out)
    assert asked(rows) == asked(records)
    again = shell(f"cat test.jsonl | iepile {EXTRACT} -o pred.jsonl --resume", tmp_path)
    assert "nothing left to do: 18 records done before" in again.stderr
    assert read(out) == rows

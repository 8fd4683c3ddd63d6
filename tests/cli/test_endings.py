"""How a run ends when it is cut short: Ctrl-C and a reader that has enough."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from odd_server import Odd

ROOT = Path(__file__).parents[2]
EXTRACT = [sys.executable, "-m", "iepile_cli", "extract", "--schema", "person", "--lines"]

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes of another kind"),
]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"Line {number} of Bob in Rome.\n" for number in range(300)))
    return path


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*EXTRACT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_reader_that_has_enough_ends_the_run_quietly(lines: Path) -> None:
    process = started(str(lines))
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["line"] == 1
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait() == 0


def test_ctrl_c_keeps_what_is_done_and_resume_goes_on(lines: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    process = started(str(lines), "-o", str(path))
    while process.poll() is None and (not path.exists() or path.stat().st_size < 500):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = f"what is done stays; add --resume to go on with {path}\niepile: interrupted\n"
    assert process.communicate() == ("", said)
    assert process.returncode == 130
    done = numbers(path)
    assert 2 <= len(done) < 300
    again = started(str(lines), "-o", str(path), "--resume", "--limit", str(len(done) + 3))
    shown, said = again.communicate()
    assert shown == ""
    last = rf"3 documents with \d+ items written to .*out\.json in .* s; {len(done)} documents done"
    assert re.fullmatch(f"{last} before\n", said)
    assert again.returncode == 0
    assert numbers(path) == [*done, *(len(done) + further for further in (1, 2, 3))]


def test_ctrl_c_says_where_the_rows_of_csv_stay(lines: Path, tmp_path: Path) -> None:
    server = Odd(lambda count, text: time.sleep(0.05) or '{"person": ["Bob"]}')
    path, part = tmp_path / "out.csv", tmp_path / "out.csv.part"
    path.write_text("source,line,id,task,lang,item,type\n")
    try:
        process = started(str(lines), "--base-url", server.url, "-o", str(path))
        until = time.monotonic() + 60
        while time.monotonic() < until and not (part.exists() and part.stat().st_size > 200):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        server.stop()
    assert process.returncode == 130
    assert said.splitlines() == [
        f"what is done stays in {part}, up to the text of its last row; extract the rest into "
        "another file (--resume needs json or jsonl)",
        "iepile: interrupted",
    ]
    assert part.read_text().startswith("source,line,id,task,lang,item,type")


def numbers(path: Path) -> list[int]:
    return [row["line"] for row in json.loads(path.read_text())]


def test_ctrl_c_leaves_a_server_and_resume_goes_on(lines: Path, tmp_path: Path) -> None:
    def behave(count: int, text: str) -> str:
        time.sleep(0.05)
        return '{"person": ["Bob"]}'

    out = tmp_path / "out.jsonl"
    server = Odd(behave)
    server_options = ["--base-url", server.url, "--concurrency", "4", "-o", str(out)]
    try:
        process = started(str(lines), *server_options)
        until = time.monotonic() + 60
        while time.monotonic() < until and not (out.exists() and out.stat().st_size):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert said.splitlines() == [
            f"what is done stays; add --resume to go on with {out}",
            "iepile: interrupted",
        ]
        before = out.read_bytes()
        assert 0 < before.count(b"\n") < 300
        assert before.endswith(b"\n")
        server.behave = lambda count, text: '{"person": ["Bob"]}'
        process = started(str(lines), *server_options, "--resume")
        process.communicate(timeout=60)
        assert process.returncode == 0
        rows = out.read_bytes().splitlines()
        assert sorted(json.loads(row)["line"] for row in rows) == list(range(1, 301))
    finally:
        server.stop()

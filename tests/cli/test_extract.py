"""``iepile extract`` as a person or a script calls it: arguments, streams, exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.models import resolve_model

pytestmark = pytest.mark.model

TEXT = 'Ada Keller flew from Hamburg to Lisbon. 任正非在深圳。 A tab\there, a quote " and 😀.'
OFFLINE = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
SMALL = ("--context", "2048", "--answer-tokens", "48")


def iepile(
    *words: str, stdin: str | bytes = b"", cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    given = stdin.encode() if isinstance(stdin, str) else stdin
    return subprocess.run(
        [sys.executable, "-m", "iepile_cli", *words],
        input=given,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, **OFFLINE, **environment},
        timeout=300,
        check=False,
    )


def objects(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.decode("utf-8").splitlines()]


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    ran = iepile("extract", *SMALL, "--schema", "person,location", "a.txt", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, b"")
    (shown,) = objects(ran.stdout)
    assert shown["source"] == "a.txt"
    assert list(shown["answer"]) == ["person", "location"]
    for item in shown["items"]:
        assert TEXT[item["start"] : item["end"]] == item["text"]
    piped = iepile("extract", *SMALL, "--schema", "person,location", stdin=TEXT)
    assert objects(piped.stdout)[0]["items"] == shown["items"]
    assert objects(piped.stdout)[0]["source"] == "stdin"


def test_chinese_has_an_adapter_of_its_own() -> None:
    text, asked = "鲁迅1881年出生于浙江绍兴。", ("--schema", "人物,地点")
    other = iepile("extract", *SMALL, *asked, stdin=text)
    assert b"--lang zh uses its adapter for that" in other.stderr
    ran = iepile("extract", *SMALL, *asked, "--lang", "zh", stdin=text)
    assert (ran.returncode, ran.stderr) == (0, b"")
    (shown,) = objects(ran.stdout)
    assert shown["answer"]["人物"] == ["鲁迅"]
    assert "浙江" in "".join(shown["answer"]["地点"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no --schema"),
        (("--schema", "attack(a"), "no ')' for its '('"),
        (("--schema", "a", "--task", "nerr"), "no task is called 'nerr'"),
        (("--schema", "a", "--template", "qwenn"), "did you mean qwen"),
        (("--schema", "a", "--backend", "lama-cpp"), "did you mean llama-cpp"),
        (("--schema", "a", "--lang", "de"), "is not one of 'en', 'zh'"),
        (("--schema", "a", "--split-num", "0"), "not a batch size"),
        (("--schema", "a", "--format", "xml"), "table"),
        (("--schema", "a", "--resume"), "-o"),
        (("--schema", "a", "--lines", "--text-field", "x"), "--lines or --text-field"),
        (("--schema", "a", "--encoding", "klingon"), "klingon"),
        (("--schema", "missing.json"), "no such file"),
        (("--shema", "a"), "--shema"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(words: Sequence[str], said: str) -> None:
    ran = iepile("extract", *words, stdin="text")
    assert ran.returncode == 2
    assert ran.stdout == b""
    lines = ran.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("iepile: ")
    assert said in lines[0]


def test_bad_files_among_good_ones(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("Ann lives in Oslo.")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "latin.txt").write_bytes("Zoë".encode("latin-1"))
    names = ["empty.txt", "good.txt", "binary.txt", "missing.txt", "latin.txt"]
    ran = iepile("extract", *SMALL, "-s", "person", *names, cwd=tmp_path)
    assert ran.returncode == 3
    assert [shown["source"] for shown in objects(ran.stdout)] == ["good.txt"]
    said = ran.stderr.decode()
    for name in ("empty.txt", "binary.txt", "missing.txt", "latin.txt"):
        assert f"iepile: {name}: " in said
    assert "--encoding" in said
    assert "Traceback" not in said
    alone = iepile("extract", *SMALL, "-s", "person", "binary.txt", cwd=tmp_path)
    assert (alone.returncode, alone.stdout) == (1, b"")
    assert len(alone.stderr.splitlines()) == 1


def test_formats_and_records(tmp_path: Path) -> None:
    rows = [{"id": str(n), "body": f"Ann{n} met Bob in Oslo."} for n in range(3)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = ("extract", *SMALL, "-s", "person", "--text-field", "body", "r.jsonl", "--limit", "2")
    ran = iepile(*call, "--format", "json", cwd=tmp_path)
    shown = json.loads(ran.stdout)
    assert [one["id"] for one in shown] == ["0", "1"]
    made = iepile(*call, "-o", "out.csv", cwd=tmp_path)
    assert (made.returncode, made.stdout) == (0, b"")
    table = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text("utf-8"))))
    assert [(row["id"], row["text"]) for row in table] == [
        (one["id"], item["text"]) for one in shown for item in one["items"]
    ]
    lines = iepile(
        "extract", *SMALL, "-s", "person", "--lines", stdin="Ann is here.\n\nBob is there.\n"
    )
    assert [one["line"] for one in objects(lines.stdout)] == [1, 3]


def test_the_least_score_is_as_asked_else_as_the_adapter_wants(tmp_path: Path) -> None:
    def scores(*words: str) -> list[float]:
        ran = iepile("extract", *SMALL, *words, "--schema", "person,location,work", stdin=TEXT)
        assert ran.returncode == 0
        return [item["score"] for item in objects(ran.stdout)[0]["items"]]

    every, usual = scores("--min-score", "0"), scores()
    least = resolve_model().by_task["NER"].min_score
    assert usual == [score for score in every if score >= least]
    assert scores("--min-score", "0.9") == [score for score in every if score >= 0.9]
    assert scores("--adapter", "none") != every
    wrong = iepile("extract", "--min-score", "2", "--schema", "a", stdin=TEXT)
    assert wrong.returncode == 2


def test_a_table_for_people_on_a_narrow_terminal(tmp_path: Path) -> None:
    ran = iepile("extract", *SMALL, "-s", "person", "-f", "table", stdin=TEXT, COLUMNS="40")
    shown = ran.stdout.decode()
    assert ran.returncode == 0
    assert max(map(len, shown.splitlines())) <= 40
    assert "\x1b" not in shown


def test_the_same_command_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    call = ("extract", *SMALL, "-s", "person,location", "-s", "date")
    assert iepile(*call, stdin=TEXT).stdout == iepile(*call, stdin=TEXT).stdout


def test_defaults_from_the_environment_and_a_file(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('template = "no-such"\n[extract]\nsplit-num = 1\n')
    call = ("extract", *SMALL, "-s", "person")
    from_file = iepile(*call, stdin=TEXT, IEPILE_CONFIG=str(config))
    assert b"no template is called 'no-such'" in from_file.stderr
    from_environment = iepile(
        *call, stdin=TEXT, IEPILE_CONFIG=str(config), IEPILE_TEMPLATE="also-none"
    )
    assert b"no template is called 'also-none'" in from_environment.stderr
    named = iepile(
        *call, "--template", "auto", stdin=TEXT, IEPILE_CONFIG=str(config), IEPILE_TEMPLATE="none"
    )
    assert named.returncode == 0

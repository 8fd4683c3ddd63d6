"""Whole files through the command line: bytes, reports, exit codes, nothing left behind."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "iepile_cli", "-q", "convert"]
SCHEMA = '["person", "place"]\n[]\n{}\n'


def record(text: str, *entities: tuple[str, str], **more: Any) -> str:
    listed = [{"entity": one, "entity_type": kind} for one, kind in entities]
    return json.dumps({"text": text, "entity": listed, **more}, ensure_ascii=False)


GOOD = record("Ann saw Rome", ("Ann", "person"), ("Rome", "place"))
EMPTY = record("nothing")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "schema.json").write_text(SCHEMA)
    return tmp_path / "set"


def write(folder: Path, *lines: str, name: str = "train.json") -> Path:
    path = folder / name
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def rows(text: str | bytes) -> list[dict[str, Any]]:
    data = text.encode() if isinstance(text, str) else text
    return [json.loads(line) for line in data.split(b"\n") if line]


def test_rows_have_the_wire_formats_keys(folder: Path, run: Any) -> None:
    result = run("convert", write(folder, GOOD), "--task", "ner")
    (row,) = rows(result.out)
    assert list(row) == ["task", "source", "instruction", "output"]
    assert row["source"] == "set"
    assert row["output"] == '{"person": ["Ann"], "place": ["Rome"]}'
    (row,) = rows(run("convert", write(folder, GOOD, name="test.json"), "--task", "NER").out)
    assert list(row) == ["id", "task", "source", "instruction", "label"]


def test_bad_records_are_named_and_the_rest_is_written(folder: Path, run: Any) -> None:
    path = write(
        folder,
        GOOD,
        "{broken",
        '["no object"]',
        '{"entity": []}',
        '{"text": 3, "entity": []}',
        '{"text": "no gold"}',
        '{"text": "x", "entity": {"a": 1}}',
        '{"text": "x", "entity": [{"entity": "x"}]}',
        '{"text": "\\ud800", "entity": []}',
        EMPTY,
    )
    output = folder / "new" / "rows.jsonl"
    result = run("convert", path, "--task", "NER", "-o", output)
    assert result.code == 3
    assert len(rows(output.read_bytes())) == 2
    for line in range(2, 10):
        assert f"{path}:{line}" in result.err or "..." in result.err
    assert "10 records, 2 train rows, 8 skipped" in result.err
    assert "Traceback" not in result.err


def test_odd_records_are_kept_and_named(folder: Path, run: Any) -> None:
    path = write(
        folder,
        record("Ann", ("Bob", "person")),
        record("Ann", ("Ann", "animal"), id=1),
        record("Eve", id=1),
    )
    result = run("convert", path, "--task", "NER")
    assert result.code == 0
    assert len(rows(result.out)) == 3
    assert f"mention not in the text (1): {path}:1 'Bob'" in result.err
    assert f"type not in the schema (1): {path}:2 'animal'" in result.err
    assert f"id used before (1): {path}:3" in result.err


def test_records_with_the_same_text_share_a_test_id(folder: Path, run: Any) -> None:
    path = write(folder, GOOD, EMPTY, GOOD)
    result = run("convert", path, "--task", "NER", "--split", "test")
    assert f"id used before (1): {path}:3" in result.err


@pytest.mark.parametrize("line", ["{broken", '{"text": "x"}', record("Ann", ("Bob", "person"))])
def test_strict_stops_at_the_first_and_writes_nothing(folder: Path, run: Any, line: str) -> None:
    path = write(folder, GOOD, line, GOOD)
    output = folder / "rows.jsonl"
    result = run("convert", path, "--task", "NER", "-o", output, "--strict")
    assert result.code == 1
    assert f"{path}:2" in result.err
    assert sorted(one.name for one in folder.iterdir()) == ["schema.json", "train.json"]


def test_compressed_files_and_stdin(
    folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run("convert", write(folder, GOOD, EMPTY), "--task", "NER").out.encode()
    array = json.dumps([json.loads(GOOD), json.loads(EMPTY)], indent=1).encode()
    for name, packed in (
        ("train.json.gz", gzip.compress(array)),
        ("train.json.zst", zstandard.compress(array)),
        ("array.json", array),
    ):
        (folder / name).write_bytes(packed)
        assert run("convert", folder / name, "--task", "NER").out.encode() == plain
    stdin = io.TextIOWrapper(io.BytesIO(gzip.compress(array)))
    monkeypatch.setattr("sys.stdin", stdin)
    arguments = ["--task", "NER", "--schema", folder / "schema.json", "--source", "set"]
    assert run("convert", "-", *arguments).out.encode() == plain
    for suffix, unpack in (
        (".gz", gzip.decompress),
        (".zst", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
        (".bz2", bz2.decompress),
        (".xz", lzma.decompress),
    ):
        output = folder / f"rows.jsonl{suffix}"
        assert run("convert", folder / "train.json", "--task", "NER", "-o", output).code == 0
        assert unpack(output.read_bytes()) == plain


def test_the_schema_comes_from_the_data(folder: Path, run: Any) -> None:
    path = write(folder, GOOD, EMPTY)
    assert run("convert", path, "--task", "NER", "--to", "schema").out == SCHEMA
    result = run("convert", path, "--task", "NER", "--schema", "auto")
    assert json.loads(rows(result.out)[1]["output"]) == {"person": [], "place": []}
    (folder / "schema.json").unlink()
    result = run("convert", path, "--task", "NER")
    assert result.code == 2
    assert "--schema auto" in result.err


@pytest.mark.parametrize(
    ("task", "entry", "schema"),
    [
        ("RE", {"head": "a", "relation": "r", "tail": "b"}, '[]\n["r"]\n{}\n'),
        (
            "SPO",
            {"head": "a", "head_type": "S", "relation": "r_x", "tail": "b", "tail_type": "O"},
            '["S_r_x_O"]\n["r_x"]\n{}\n',
        ),
        (
            "SPO",
            {"head": "a", "head_type": "S_T", "relation": "r", "tail": "b", "tail_type": "O"},
            '[{"subject_type": "S_T", "predicate": "r", "object_type": "O"}]\n',
        ),
        (
            "EE",
            {
                "event_trigger": "a",
                "event_type": "E",
                "arguments": [{"argument": "b", "role": "p"}],
            },
            '["E"]\n["p"]\n{"E": ["p"]}\n',
        ),
        ("EET", {"event_trigger": "a", "event_type": "E", "arguments": []}, '["E"]\n[]\n{}\n'),
        (
            "KG",
            {"head": "a", "head_type": "T", "relation": "r", "tail": "b"},
            '["T"]\n["r"]\n{"T": ["r"]}\n',
        ),
    ],
)
def test_schemas_of_every_task_are_derived_and_read_again(
    tmp_path: Path, run: Any, task: str, entry: dict[str, Any], schema: str
) -> None:
    name = "relation" if "relation" in entry else "event"
    path = write(tmp_path, json.dumps({"text": "a b", name: [entry]}))
    assert run("convert", path, "--task", task, "--to", "schema").out == schema
    (tmp_path / "schema.json").write_text(schema)
    derived = run("convert", path, "--task", task, "--schema", "auto")
    beside = run("convert", path, "--task", task)
    assert derived.out == beside.out != ""


def test_heads_without_a_type_have_no_schema(tmp_path: Path, run: Any) -> None:
    entry = {"head": "a", "relation": "r", "tail": "b"}
    path = write(tmp_path, json.dumps({"text": "a b", "relation": [entry]}))
    result = run("convert", path, "--task", "KG", "--to", "schema")
    assert result.code == 1
    assert "head_type" in result.err


def test_the_share_of_empty_rows_stays_under_its_limit(folder: Path, run: Any) -> None:
    dice = random.Random(1)
    path = write(folder, *(GOOD if dice.random() < 0.2 else EMPTY for _ in range(3000)))
    for limit in (0, 0.25, 0.5, 1):
        result = run("convert", path, "--task", "NER", "--max-empty-ratio", limit)
        found = [row["output"] == '{"person": [], "place": []}' for row in rows(result.out)]
        kept = sum(found)
        assert len(found) - kept == path.read_text().count("Ann saw Rome")
        assert kept <= limit * len(found)
        assert kept >= 0.9 * min(limit, 0.79) * len(found)
        for end in range(1, len(found) + 1, 97):
            assert sum(found[:end]) <= limit * end
        if 0 < limit < 1:
            # From everywhere, and not only from behind rows with an answer.
            after = [two for one, two in itertools.pairwise(found) if one]
            assert sum(after) / len(after) > 0.1


def big_file(folder: Path, count: int = 9000) -> Path:
    dice = random.Random(5)
    words = ["Ann", "Rome", "of", "the", "IBM", "naïve", '"', "京"]
    kinds = ["person", "place", "time", "firm", "stray"]
    lines = []
    for _ in range(count):
        tokens = dice.choices(words, k=30)
        lines.append(
            record(" ".join(tokens), *((dice.choice(tokens), dice.choice(kinds)) for _ in range(3)))
        )
    (folder / "schema.json").write_text('["person", "place", "time", "firm", "z"]\n[]\n{}\n')
    return write(folder, *lines)


def event_file(folder: Path, count: int = 9000) -> Path:
    rng = random.Random(6)
    words = ["Ann", "Rome", "hit", "met", "IBM", "naïve", "the"]
    roles = {f"event {letter}": [f"role {one}" for one in "pqrs"] for letter in "abcdef"}
    schema = [list(roles), ["role p"], roles]
    (folder / "schema.json").write_text("".join(json.dumps(part) + "\n" for part in schema))
    lines = []
    for _ in range(count):
        tokens = rng.choices(words, k=20)
        events = [
            {
                "event_trigger": rng.choice(tokens),
                "event_type": rng.choice([*roles, "stray"]),
                "arguments": [
                    {"argument": rng.choice(tokens), "role": f"role {rng.choice('pqrx')}"}
                ],
            }
            for _ in range(rng.randint(0, 2))
        ]
        lines.append(json.dumps({"text": " ".join(tokens), "event": events}))
    return write(folder, *lines)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (big_file, "--task NER --max-empty-ratio 0.2 --hard-negatives auto"),
        (event_file, "--task EE --split-arguments 3"),
    ],
    ids=["NER", "EE"],
)
def test_workers_and_hash_seeds_do_not_change_the_bytes(
    folder: Path, make: Any, options: str
) -> None:
    path = make(folder)
    assert path.stat().st_size > 1 << 20
    found = set()
    for hash_seed, workers in (("0", "1"), ("1", "2"), ("2", "3")):
        output = folder / f"{workers}.jsonl"
        command = [*COMMAND, str(path), "-o", str(output), "--workers", workers]
        command += ["--neg-ratio", "0.4", "--shuffle", *options.split()]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        found.add(output.read_bytes())
    assert len(found) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_an_interrupted_run_leaves_no_half_file(folder: Path) -> None:
    path = big_file(folder, 60_000)
    output = folder / "rows.jsonl"
    output.write_text("what was there before")
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "iepile_cli",
            "convert",
            str(path),
            "-o",
            str(output),
            "--task",
            "NER",
            "--workers",
            "2",
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not list(folder.glob(".rows.jsonl.*")):
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130, err
    assert b"Traceback" not in err
    assert output.read_text() == "what was there before"
    assert not list(folder.glob(".rows*"))


def test_a_closed_pipe_ends_the_run_quietly(folder: Path) -> None:
    path = big_file(folder, 20_000)
    command = f"{sys.executable} -m iepile_cli convert {path} --task NER | head -n 1"
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, check=False)
    assert len(rows(result.stdout)) == 1
    assert b"Traceback" not in result.stderr
    assert b"Error" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.json"], "none.json: no such file"),
        (["DATA"], "which task?"),
        (["DATA", "--task", "XY"], "no task is called 'XY'"),
        (["DATA", "--task", "NER", "--split-num", "0"], "--split-num 0"),
        (["DATA", "--task", "NER", "--lang", "fr"], "'--lang': "),
        (["DATA", "--task", "NER", "--to", "xml"], "'--to': "),
        (["DATA", "--task", "NER", "--from", "csv"], "'--from': "),
        (["DATA", "--task", "NER", "--workers", "0"], "--workers 0"),
        (["DATA", "--task", "NER", "--schema", "none.json"], "none.json"),
        (["-", "--task", "NER", "--schema", "auto"], "stdin cannot be read twice"),
        (["FOLDER"], "name one with -o"),
        (["EMPTY", "-o", "x"], "no train.json"),
    ],
)
def test_wrong_usage_is_one_line(folder: Path, run: Any, arguments: list[str], said: str) -> None:
    write(folder, GOOD, name="data.json")
    (folder / "schema.json").unlink()
    (folder / "empty").mkdir()
    places = {"DATA": folder / "data.json", "FOLDER": folder, "EMPTY": folder / "empty"}
    if arguments[0] == "DATA" and "--schema" not in arguments and len(arguments) > 1:
        (folder / "schema.json").write_text(SCHEMA)
    if arguments == ["DATA"]:
        arguments = ["DATA", "--schema", "auto"]
    result = run("convert", *(places.get(one, one) for one in arguments))
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1


def test_empty_and_binary_files(folder: Path, run: Any) -> None:
    path = write(folder)
    result = run("convert", path, "--task", "NER")
    assert (result.code, result.out) == (0, "")
    path.write_bytes(bytes(range(256)) * 10)
    result = run("convert", path, "--task", "NER")
    assert result.code == 1
    assert f"{path}: is a binary file, not text" in result.err
    assert "--encoding" not in result.err


def test_a_full_disk_is_no_fault_of_the_input(folder: Path, run: Any) -> None:
    path = folder / "train.json"
    path.write_text(json.dumps({"text": "Ann", "entity": []}) + "\n")
    result = run("convert", path, "--to", "records", "-o", "/dev/full")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "/dev/full: cannot be written: No space left on device" in result.err


def test_a_corpus_is_converted_set_by_set(tmp_path: Path, run: Any) -> None:
    root = tmp_path / "IEPile"
    sets = {
        "IE-en/NER/one": (SCHEMA, GOOD),
        "IE-zh/NER/two": ('["人"]\n[]\n{}\n', record("Ann", ("Ann", "人"))),
        "IE-en/RE/deep/three": (
            '[]\n["r"]\n{}\n',
            json.dumps({"text": "a b", "relation": [{"head": "a", "relation": "r", "tail": "b"}]}),
        ),
        "IE-en/NER/broken": ("{", GOOD),
    }
    for name, (schema, line) in sets.items():
        (root / name).mkdir(parents=True)
        (root / name / "schema.json").write_text(schema, "utf-8")
        for file in ("train.json", "dev.json", "test.json"):
            write(root / name, line, name=file)
    output = tmp_path / "out"
    result = run("convert", root, "-o", output)
    assert result.code == 3
    assert "broken" in result.err
    assert "1 dataset failed" in result.err
    made = sorted(str(one.relative_to(output)) for one in output.rglob("*.json"))
    assert len(made) == 9
    assert not any("broken" in one for one in made)
    (row,) = rows((output / "IE-en/RE/deep/three/train.json").read_bytes())
    assert (row["task"], row["source"]) == ("RE", "three")
    (row,) = rows((output / "IE-zh/NER/two/test.json").read_bytes())
    assert "id" in row
    assert "你是" in row["instruction"]
    single = run("convert", root / "IE-en/NER/one/dev.json")
    assert single.out.encode() == (output / "IE-en/NER/one/dev.json").read_bytes()
    only = tmp_path / "only"
    result = run("convert", root, "-o", only, "--task", "RE", "--split", "test", "--workers", 1)
    assert result.code == 0, result.err
    assert [one.name for one in only.rglob("*.json")] == ["test.json"]
    named = run("-q", "convert", root, "-o", only, "--to", "schema", "--task", "RE")
    assert named.code == 0
    assert (only / "IE-en/RE/deep/three/schema.json").read_text() == '[]\n["r"]\n{}\n'


def test_a_role_may_be_called_trigger(tmp_path: Path, run: Any) -> None:
    event = {
        "event_trigger": "hit",
        "event_type": "e",
        "arguments": [{"argument": "Ann", "role": "trigger"}],
    }
    (tmp_path / "schema.json").write_text('["e"]\n["trigger"]\n{"e": ["trigger"]}\n')
    path = write(tmp_path, json.dumps({"text": "Ann hit", "event": [event]}))
    (row,) = rows(run("convert", path, "--task", "EE").out)
    assert row["output"] == '{"e": [{"trigger": "hit", "arguments": {"trigger": "Ann"}}]}'

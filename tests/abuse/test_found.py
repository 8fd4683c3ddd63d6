"""What the attacks found and nothing else tests, each by itself."""

from __future__ import annotations

import errno
import json
import struct
from pathlib import Path

import pytest
from abuse.backends import install
from abuse.program import call, check_manners, rows

from iepile_cli.backends.gguf import GgufFile
from iepile_cli.cli import console
from iepile_cli.errors import DataError, ModelError
from iepile_cli.files import open_input, read_bytes


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"tokens": ["a"]},
        {"tokens": "a", "ner_tags": ["O"]},
        {"tokens": ["a"], "ner_tags": [None]},
        {"tokens": ["a"], "ner_tags": [-1]},
    ],
)
def test_a_record_without_lists_of_tokens_and_tags_is_named(
    record: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": {}}))
    path = tmp_path / "tokens.jsonl"
    path.write_text(json.dumps(record) + "\n")
    words = ("--from", "tokens", "--task", "NER", "--schema", "auto")
    done = call("convert", path, *words, "-o", tmp_path / "out.jsonl")
    check_manners(done)
    assert done.code in (1, 3), done
    assert "tokens.jsonl" in done.err


def test_an_argument_without_a_role_has_no_place(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    event = {"event_trigger": "hit", "event_type": "attack"}
    event["arguments"] = [{"argument": "Ann", "role": None}]  # type: ignore[assignment]
    path.write_text(json.dumps({"text": "Bob hit Ann", "event": [event]}) + "\n")
    done = call("convert", path, "--to", "bio", "-o", tmp_path / "out.bio")
    check_manners(done)
    assert done.code == 0
    assert "has no 'role' or 'argument'" in done.err


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:24] + struct.pack("<Q", 2**64 - 1) + data[32:],
        lambda data: data[:8] + struct.pack("<QQ", 2**40, 2**40) + data[24:],
        lambda data: data[:100],
        lambda data: data[:-8],
    ],
)
def test_a_damaged_gguf_header_is_named(damage: object, tmp_path: Path) -> None:
    import gguf
    import numpy as np

    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("weight", np.ones((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]

    def read() -> None:
        with GgufFile(path) as file:
            for tensor in file.tensors:
                file.weights(tensor)

    with pytest.raises(ModelError, match=r"x\.gguf"):
        read()


def test_a_wide_file_that_is_given_up_leaves_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("nothing\n" * 30, encoding="utf-16")
    done = call("extract", "-s", "person", path)
    check_manners(done)
    assert done.code == 1
    assert "the rest is not read" in done.err


def test_damaged_weights_of_transformers_are_a_line(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from tiny_llama import tiny_llama, training_rows

    data = tmp_path / "train.jsonl"
    data.write_text(training_rows(4))
    model = tiny_llama(tmp_path / "tiny", data)
    weights = model / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:40] + b"\xff\xff" + content[42:])
    words = ("extract", "-s", "a", "--model", model, "--template", "alpaca", "--device", "cpu")
    done = call(*words, stdin=b"Ann met Bob.")
    check_manners(done)
    assert done.code == 1
    assert "cannot be opened" in done.err


@pytest.mark.parametrize("address", ["https://[::1", "s3://[x/a.txt", "http://"])
def test_a_malformed_address_is_named(address: str) -> None:
    pytest.importorskip("fsspec")
    done = call("extract", "-s", "person", address)
    check_manners(done)
    assert done.code == 1
    assert done.err.startswith(f"iepile: {address}: ")
    assert done.err.count("\n") == 1


def test_columns_with_the_line_ends_of_old_macs_are_not_taken_for_one_sentence(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mac.bio"
    path.write_bytes(b"Ann B-person\rmet O\r\rOslo B-city\r")
    done = call("convert", path, "--from", "bio", "--to", "records")
    check_manners(done)
    assert done.code == 3
    assert done.out == b""
    assert "mac.bio:1 a carriage return" in done.err


def test_a_table_with_the_line_ends_of_old_macs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mac.csv"
    path.write_bytes(b"id,text\r1,Ann\r")
    done = call("extract", "-s", "person", path)
    check_manners(done)
    assert done.code == 1
    assert "a carriage return within a row" in done.err
    assert "LF or CRLF" in done.err


def test_a_closed_standard_input_is_named_and_nobody_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataError, match="stdin: is closed"):
        read_bytes("-")
    assert not console.may_ask()


@pytest.mark.parametrize("columns", ["1", "2", "9", "30"])
def test_help_in_a_narrow_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for words in (["--help"], ["extract", "--help"], ["list", "models"]):
        done = call(*words)
        check_manners(done)
        assert done.code == 0


@pytest.mark.parametrize("option", ["--limit", "--context", "--threads", "--overlap"])
def test_a_number_without_bound_is_refused(option: str) -> None:
    done = call("extract", "-s", "person", option, "9" * 20, stdin=b"Ann met Bob.")
    check_manners(done)
    assert done.code == 2
    assert option in done.err


@pytest.mark.model
@pytest.mark.parametrize(("option", "number"), [("--context", 2**40), ("--threads", 100_000)])
def test_more_memory_or_threads_than_there_are_is_refused(option: str, number: int) -> None:
    """The first filled the memory of the machine."""
    done = call("extract", "-s", "person", option, str(number), stdin=b"Ann met Bob.")
    check_manners(done)
    assert done.code == 2
    assert f"{option} {number}" in done.err


def test_a_missing_folder_for_temporary_files_is_not_taken_for_a_missing_input(
    tmp_path: Path,
) -> None:
    path = tmp_path / "here.txt"
    path.write_text("Ann")
    with pytest.raises(DataError, match="cannot be read: No usable temporary"), open_input(path):
        # As tempfile says it.
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")


def test_a_glob_of_many_stars_takes_the_time_of_one(tmp_path: Path) -> None:
    install()
    folder = tmp_path
    for name in "abcdefgh":
        folder = folder / name
        folder.mkdir()
        (folder / "x.txt").write_text("Ann met Bob.")
    words = ("extract", "-s", "person", "--backend", "first-word")
    done = call("-q", *words, f"{tmp_path}/{'**/' * 12}*.txt")
    check_manners(done)
    assert len(rows(done.out)) == 8


@pytest.mark.parametrize(
    "words", [("eval", "a\0"), ("view", "a\0"), ("extract", "-s", "a", "-o", "a\0.jsonl")]
)
def test_a_nul_in_an_option_is_refused(words: tuple[str, ...]) -> None:
    done = call(*words, stdin=b"Ann met Bob.")
    check_manners(done)
    assert done.code == 2
    assert "holds a NUL character" in done.err


@pytest.mark.parametrize("output", [[], {}, [1], {"person": ["Ann"]}, None, 3])
def test_an_output_that_is_no_text_is_a_broken_answer(output: object, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    asked = json.dumps({"instruction": "i", "schema": ["person"], "input": "Ann met Bob."})
    row = {"task": "NER", "source": "s", "instruction": asked, "label": "[]", "output": output}
    usual = {**row, "output": '{"person": []}'}
    path.write_text(f"{json.dumps(row)}\n{json.dumps(usual)}\n")
    done = call("-q", "eval", path, "--json", "-")
    check_manners(done)
    assert done.code == 0
    assert json.loads(done.out)

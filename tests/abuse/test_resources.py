"""Much and large: many texts, long ones, many files, deep nesting, bombs. Memory stays flat."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from abuse.backends import site
from abuse.counting import count, measure
from abuse.program import Done, check_manners, check_result, rows

pytestmark = [
    pytest.mark.abuse,
    pytest.mark.skipif(
        sys.platform != "linux", reason="memory and descriptors as Linux tells them"
    ),
]
MB = 1 << 20


@dataclass(frozen=True)
class Used:
    """How a run ended, its largest memory in MB and most open files, and its seconds."""

    done: Done
    memory: float
    descriptors: int
    seconds: float


def _limit() -> None:
    # Far above what is flat, far below what a bomb is; processor time, so that what else runs
    # on the machine does not count.
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (900, 900))


def watched(words: Sequence[str | Path], folder: Path, **environment: str) -> Used:
    """Run a command and watch what it uses."""
    begun = time.monotonic()
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as shown, err.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "iepile_cli", *map(str, words)],
            cwd=folder,
            env={**site_of(folder), **environment},
            stdin=subprocess.DEVNULL,
            stdout=shown,
            stderr=said,
            preexec_fn=_limit,
        )
        memory, descriptors = 0.0, 0

        def watch() -> None:
            nonlocal memory, descriptors
            try:
                seen = psutil.Process(process.pid)
                while process.poll() is None:
                    memory = max(memory, seen.memory_info().rss / MB)
                    descriptors = max(descriptors, seen.num_fds())
                    time.sleep(0.02)
            except psutil.Error:
                return

        watching = threading.Thread(target=watch)
        watching.start()
        process.wait()
        watching.join()
    done = Done(process.returncode, out.read_bytes(), err.read_text("utf-8", "replace"))
    check_manners(done)
    return Used(done, memory, descriptors, time.monotonic() - begun)


_sites: dict[Path, dict[str, str]] = {}


def site_of(folder: Path) -> dict[str, str]:
    if folder not in _sites:
        _sites[folder] = site(folder / "site")
    return _sites[folder]


EXTRACT = ["-q", "extract", "-s", "person", "--backend", "first-word"]


def note(what: str, used: Used) -> None:
    figures = f"{used.memory:.0f} MB, {used.descriptors} files open, {used.seconds:.0f} s"
    measure(what, figures)
    count("large inputs and bombs")


def test_ten_thousand_texts_take_the_memory_of_a_hundred(tmp_path: Path) -> None:
    used = []
    for size in (100, 10_000):
        (tmp_path / "t.jsonl").write_text(
            "".join(json.dumps({"text": f"Ann{n} met Bob. " * 4}) + "\n" for n in range(size))
        )
        used.append(watched([*EXTRACT, "t.jsonl", "-o", f"{size}.jsonl"], tmp_path))
        assert used[-1].done.code == 0
        assert len(rows((tmp_path / f"{size}.jsonl").read_bytes())) == size
        note(f"{size:,} texts", used[-1])
    assert used[1].memory < used[0].memory + 60
    assert used[1].descriptors <= used[0].descriptors + 2


def test_a_folder_of_twenty_thousand_files(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    for number in range(20_000):
        folder = texts / f"{number % 100:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(f"Ann{number} met Bob.")
    # Links in circles lead nowhere twice.
    (texts / "00" / "circle").symlink_to(texts)
    (texts / "self.txt").symlink_to(texts / "self.txt")
    used = watched([*EXTRACT, "texts", "-o", "out.jsonl"], tmp_path)
    assert used.done.code == 3, used.done.err[-300:]
    assert used.done.err.count("\n") == 2
    assert len(rows((tmp_path / "out.jsonl").read_bytes())) == 20_000
    assert used.descriptors < 60
    note("a folder of 20,000 files, with links in circles", used)


@pytest.mark.parametrize("megabytes", [5, 50])
def test_one_long_text(megabytes: int, tmp_path: Path) -> None:
    text = "".join(f"Ann{n} met Bob in Oslo on day {n}. " for n in range(megabytes * MB // 34))
    (tmp_path / "long.txt").write_text(text)
    words = ["--passage-tokens", "2000", "--no-all-occurrences"]
    used = watched([*EXTRACT, *words, "long.txt", "-o", "out.jsonl"], tmp_path)
    assert used.done.code == 0, used.done.err
    (row,) = rows((tmp_path / "out.jsonl").read_bytes())
    check_result(row, text, ["person"])
    note(f"one text of {megabytes} MB", used)


@pytest.mark.parametrize("name", ["word.txt", "line.txt", "line.jsonl", "line.csv"])
def test_a_hundred_megabytes_on_one_line(name: str, tmp_path: Path) -> None:
    body = "x" * (100 * MB)
    content = {
        # A word is put to the model in many passages, blanks are not.
        "word.txt": body[: 2 * MB],
        "line.txt": "Ann met Bob." + " " * (100 * MB) + "Oslo.",
        "line.jsonl": '{"id": "' + body + '"}',
        "line.csv": 'text\n"Ann met Bob.' + " " * (100 * MB),
    }[name]
    (tmp_path / name).write_text(content)
    lines = ["--lines"] if name.endswith("txt") else []
    used = watched(
        [*EXTRACT, *lines, name, "-o", "out.jsonl", "--passage-tokens", "2000"], tmp_path
    )
    assert used.done.code in (0, 1), used.done.err[:300]
    assert used.memory < 2500
    note(f"{len(content) // MB} MB on one line, {name}", used)


DEEP = "[" * 100_000
NESTED = {
    "schema": ([*EXTRACT[:2], "-s", "@x.json", "--backend", "first-word", "a.txt"], DEEP),
    "schema yaml": ([*EXTRACT[:2], "-s", "@x.yaml", "--backend", "first-word", "a.txt"], DEEP),
    "texts": ([*EXTRACT, "x.jsonl"], DEEP),
    "texts json": ([*EXTRACT, "x.json"], DEEP + "]" * 100_000),
    "records": (["-q", "convert", "x.jsonl", "--task", "NER", "--schema", "auto"], DEEP),
    "predictions": (["-q", "eval", "x.jsonl"], '{"output": ' + DEEP + "}"),
    "rows": (["-q", "train", "--data", "x.jsonl", "-o", "o", "--dry-run"], DEEP),
    "configuration": (["list", "templates"], "a = " + DEEP),
    "train.toml": (["-q", "train", "--config", "x.toml", "--dry-run", "-o", "o"], "a = " + DEEP),
}


@pytest.mark.parametrize("what", NESTED)
def test_nesting_a_hundred_thousand_deep(what: str, tmp_path: Path) -> None:
    words, content = NESTED[what]
    name = next(
        (word.removeprefix("@") for word in words if word.lstrip("@").startswith("x.")), "x.toml"
    )
    (tmp_path / name).write_text(content)
    (tmp_path / "a.txt").write_text("Ann met Bob.")
    named = {"IEPILE_CONFIG": str(tmp_path / "x.toml")} if what == "configuration" else {}
    used = watched(words, tmp_path, **named)
    assert used.done.code in (1, 2), used.done
    assert used.done.err.count("\n") <= 2
    note(f"nesting 100,000 deep, {what}", used)


def laughs(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, depth)]
    return "\n".join(lines)


YAML = {
    "aliases": laughs(12),
    "an alias in itself": "a: &a [*a]",
    "a merge in itself": "a: &a\n  <<: *a",
    "a tag of Python": "!!python/object/apply:os.system ['touch owned']",
    "a tag of nobody": "!<x:y> {a: b}",
    "a large number": "- 1e999\n- 0x" + "f" * 5000,
    "a date that cannot be": "- 2024-99-99",
    "many documents": "---\n- a\n" * 3,
    "a key that is a list": "? [a, b]\n: c",
    "binary": "- !!binary aGVsbG8=",
    "a set": "!!set {a, b}",
}


@pytest.mark.parametrize("what", YAML)
def test_yaml(what: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(YAML[what])
    (tmp_path / "a.txt").write_text("Ann met Bob.")
    used = watched(["-q", "extract", "-s", "@x.yaml", "--backend", "first-word", "a.txt"], tmp_path)
    assert used.done.code in (0, 1, 2)
    assert used.done.err.count("\n") == (used.done.code != 0)
    assert used.seconds < 60
    assert not (tmp_path / "owned").exists()
    assert used.memory < 500
    note(f"YAML: {what}", used)


Pack = Callable[[Path, int], None]


def gz(path: Path, size: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(size // MB):
            file.write(bytes(MB))


def bz(path: Path, size: int) -> None:
    path.write_bytes(bz2.compress(bytes(MB)) * (size // MB))


def xz(path: Path, size: int) -> None:
    path.write_bytes(lzma.compress(bytes(MB), preset=0) * (size // MB))


def zst(path: Path, size: int) -> None:
    import zstandard

    path.write_bytes(zstandard.ZstdCompressor().compress(bytes(MB)) * (size // MB))


BOMBED = {
    "texts": [*EXTRACT, "bomb"],
    "lines": [*EXTRACT, "--lines", "bomb"],
    "records": ["-q", "convert", "bomb", "--task", "NER", "--schema", "auto", "--workers", "1"],
    "predictions": ["-q", "eval", "bomb"],
    "schema": ["-q", "extract", "-s", "@bomb", "--backend", "first-word", "a.txt"],
}


@pytest.mark.parametrize("pack", [gz, bz, xz, zst])
@pytest.mark.parametrize("what", BOMBED)
def test_a_bomb_is_a_line_that_names_what_lifts_the_bound(
    what: str, pack: Pack, tmp_path: Path
) -> None:
    pack(tmp_path / "bomb", 300 * MB)
    (tmp_path / "a.txt").write_text("Ann met Bob.")
    used = watched(BOMBED[what], tmp_path, IEPILE_MAX_DECOMPRESSED=str(100 * MB))
    assert used.done.code in (1, 2), used.done
    bounded = "holds more than" in used.done.err
    # What is no text may be named as that before the bound is met.
    assert bounded or "binary" in used.done.err or "not JSON" in used.done.err, used.done.err
    if bounded and what != "schema":
        assert "IEPILE_MAX_DECOMPRESSED" in used.done.err
    assert used.memory < 800
    note(f"300 MB of zeros in {pack.__name__}, {what}", used)


def test_a_bomb_of_text(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "bomb.txt.gz", "wb", compresslevel=9) as file:
        for _ in range(1200):
            file.write(b"Ann met Bob in Oslo.\n" * (MB // 21))
    used = watched([*EXTRACT, "bomb.txt.gz"], tmp_path)
    assert used.done.code == 1
    assert "holds more than 1,073,741,824 bytes when decompressed" in used.done.err
    assert "IEPILE_MAX_DECOMPRESSED" in used.done.err
    note("1.2 GB of text in gz, the bound as it comes", used)


def test_ten_thousand_rows_are_converted_and_scored_in_flat_memory(tmp_path: Path) -> None:
    rng = random.Random(5)
    used = []
    for size in (1_000, 100_000):
        with (tmp_path / "r.jsonl").open("w") as file:
            for n in range(size):
                entity = {"entity": f"Ann{n}", "entity_type": f"type{rng.randrange(20)}"}
                file.write(json.dumps({"text": f"Ann{n} met Bob.", "entity": [entity]}) + "\n")
        words = ["-q", "convert", "r.jsonl", "--task", "NER", "--schema", "auto", "--split", "test"]
        used.append(watched([*words, "-o", "rows.jsonl", "--workers", "1"], tmp_path))
        assert used[-1].done.code == 0, used[-1].done
        note(f"{size:,} records converted", used[-1])
    assert used[1].memory < used[0].memory + 150
    os.remove(tmp_path / "r.jsonl")

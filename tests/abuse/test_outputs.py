"""Outputs that cannot be written, are pipes or links, or are written twice: a line, no loss."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from abuse.backends import site
from abuse.counting import count
from abuse.program import Done, check_manners, execute, rows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's files and limits")

abuse = pytest.mark.abuse
RECORDS = 400
# Each writes one output, "@", of more than ten thousand bytes.
COMMANDS = {
    "extract": "extract -s person --lines lines.txt --backend first-word -f jsonl -o @",
    "extract csv": "extract -s person --lines lines.txt --backend first-word -f csv -o @",
    "convert": "convert records.jsonl --task NER --schema auto -o @",
    "eval json": "eval pred.jsonl --json @",
    "eval html": "eval pred.jsonl --html @",
    "eval errors": "eval pred.jsonl --errors @",
    "eval confusions": "eval pred.jsonl --confusions @",
}
# Those that write as they go, what is done staying; the others write all or nothing.
GROWING = ("extract", "extract csv")


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder of inputs that anybody may read, and the environment of the program."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        people = [f"Ann{n} met Bob in Oslo." for n in range(RECORDS)]
        (folder / "lines.txt").write_text("".join(f"{text}\n" for text in people))
        with (folder / "records.jsonl").open("w") as file:
            for text in people:
                entity = {"entity": text.split()[0], "entity_type": f"person {len(text)}"}
                file.write(json.dumps({"text": text, "entity": [entity]}) + "\n")
        with (folder / "pred.jsonl").open("w") as file:
            for number, text in enumerate(people):
                asked = {"instruction": "i", "schema": ["a"], "input": text}
                kind = f"type {number} {'x' * 40}"
                row = {"task": "NER", "source": "S", "instruction": json.dumps(asked)}
                row["label"] = json.dumps([{"entity": "Bob", "entity_type": kind}])
                row["output"] = json.dumps({kind + "!": ["Oslo"]})
                file.write(json.dumps(row) + "\n")
        environment = site(folder / "site")
        environment.pop("ABUSE_PAUSE", None)
        environment |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
        (folder / "cache").mkdir(mode=0o755)
        yield folder, environment


def words(command: str, output: str | Path) -> list[str]:
    return ["-q", *(str(output) if word == "@" else word for word in COMMANDS[command].split())]


def run(made: tuple[Path, dict[str, str]], command: str, output: str | Path, **how: Any) -> Done:
    folder, environment = made
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    done = execute(words(command, output), environment, cwd=folder, **how)
    check_manners(done)
    assert {path: path.read_bytes() for path in before} == before
    count("faults of outputs")
    return done


def each(*default: str) -> Any:
    """Every command; in the default suite those named."""
    return pytest.mark.parametrize(
        "command",
        [name if name in default else pytest.param(name, marks=abuse) for name in COMMANDS],
    )


@each("convert")
def test_a_full_device(command: str, made: Any) -> None:
    done = run(made, command, "/dev/full")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "No space left" in done.err
    assert "/dev/full" in done.err


@pytest.mark.parametrize("command", ["extract", "convert"])
@abuse
def test_a_full_stdout(command: str, made: Any) -> None:
    folder, environment = made
    asked = words(command, "-")
    with open("/dev/full", "wb") as full:
        done = execute(
            asked,
            environment,
            cwd=folder,
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    check_manners(done)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "No space left" in done.err
    count("faults of outputs")


LISTS = ["list models", "list backends", "--help", "extract --help", "eval pred.jsonl"]


@pytest.mark.parametrize("descriptor", [0, 1, 2])
@pytest.mark.parametrize("call", [*LISTS, "extract -s a --lines lines.txt --backend first-word"])
@abuse
def test_a_closed_stream(call: str, descriptor: int, made: Any) -> None:
    folder, environment = made
    how = {"preexec_fn": lambda: os.close(descriptor)}
    done = execute(call.split(), environment, cwd=folder, stdin=subprocess.DEVNULL, **how)
    check_manners(done)
    assert done.code == 0
    count("faults of outputs")


@pytest.mark.parametrize("call", LISTS)
@abuse
def test_a_reader_that_is_gone(call: str, made: Any) -> None:
    folder, environment = made
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = execute(
            call.split(),
            environment,
            cwd=folder,
            capture_output=False,
            stdout=gone,
            stderr=subprocess.PIPE,
        )
    assert "Traceback" not in done.err
    assert "unexpected" not in done.err
    assert "BrokenPipe" not in done.err
    count("faults of outputs")


@each("extract")
@pytest.mark.parametrize("room", [pytest.param(0, marks=abuse), pytest.param(1, marks=abuse), 5000])
def test_a_disk_that_fills_up(command: str, room: int, made: Any, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    target = tmp_path / "out.jsonl"
    older = b"older\n" if command not in GROWING else b""
    if older:
        target.write_bytes(older)
    done = run(made, command, target, preexec_fn=limit)
    small = older and room > 1 and target.read_bytes() != older
    assert done.code == (0 if small else 1), done
    if small:
        return
    # Without a single byte of room there is no place for temporary files either.
    assert "File too large" in done.err or (room <= 1 and "temporary" in done.err)
    assert done.err.count("\n") == 1 + ("--resume" in done.err)
    if command == "extract":
        held = target.read_bytes() if target.exists() else b""
        assert len(held) <= room
        kept = rows(held)
        assert [row["line"] for row in kept] == list(range(1, len(kept) + 1))
        folder, environment = made
        again = execute([*words(command, target), "--resume"], environment, cwd=folder)
        assert again.code == 0
        assert [row["line"] for row in rows(target.read_bytes())] == list(range(1, RECORDS + 1))
    elif older:
        assert target.read_bytes() == older
        assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@each("eval html")
@pytest.mark.parametrize("where", ["/proc/none/out.jsonl", "lines.txt/out.jsonl", "site"])
def test_a_place_that_cannot_be_written(command: str, where: str, made: Any) -> None:
    done = run(made, command, where)
    assert done.code in (1, 2)
    assert done.err.count("\n") == 1
    assert where in done.err


@each()
def test_folders_and_caches_that_cannot_be_written(command: str, made: Any) -> None:
    # Not even root writes there.
    done = run(made, command, "/sys/out.jsonl")
    assert done.code in (1, 2)
    assert done.err.count("\n") == 1
    assert "/sys/out.jsonl" in done.err
    folder, environment = made
    closed = {**environment, "IEPILE_CACHE": "/sys/none", "HOME": "/sys/none"}
    done = run((folder, closed), command, "/dev/null")
    assert (done.code, done.err) == (0, "")


@each("eval json")
def test_a_pipe(command: str, made: Any, tmp_path: Path) -> None:
    pipe, plain = tmp_path / "pipe", tmp_path / "out.jsonl"
    os.mkfifo(pipe)
    held: list[bytes] = []
    reader = threading.Thread(target=lambda: held.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert run(made, command, pipe).code == 0
    reader.join(20)
    assert pipe.is_fifo()
    assert run(made, command, plain).code == 0
    assert held == [plain.read_bytes()]


@each()
@pytest.mark.parametrize("there", [False, True])
def test_a_link_stays_one(command: str, there: bool, made: Any, tmp_path: Path) -> None:
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(real)
    if there:
        real.write_text("older\n")
    assert run(made, command, link).code == 0
    assert link.is_symlink()
    assert real.stat().st_size > 50
    assert "older" not in real.read_text()


@each("extract")
def test_two_runs_at_once(command: str, made: Any, tmp_path: Path) -> None:
    folder, environment = made
    target = tmp_path / "out.jsonl"
    alone = run(made, command, tmp_path / "alone.jsonl")
    assert alone.code == 0
    slowly = {**environment, "ABUSE_PAUSE": "0.002"}
    ended: list[Done] = []

    def start() -> None:
        ended.append(execute(words(command, target), slowly, cwd=folder))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for done in ended:
        check_manners(done)
    codes = sorted(done.code for done in ended)
    # One that comes when the other is done begins again, over its results.
    assert codes == [0, 0] or (command in GROWING and codes == [0, 2]), ended
    assert target.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()

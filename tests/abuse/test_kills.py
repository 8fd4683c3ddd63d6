"""SIGKILL, SIGTERM and Ctrl-C at random moments: nothing that was there or was done is lost."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from abuse.backends import site
from abuse.counting import count
from abuse.program import CONTROLS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


def kills(share: int, whole: int) -> Any:
    """So many kills in the default suite (none: not there), and so many of an attack."""
    cases = [pytest.param(whole, marks=pytest.mark.abuse, id="whole")]
    return pytest.mark.parametrize(
        "times", [*([pytest.param(share, id="share")] * bool(share)), *cases]
    )


@dataclass(frozen=True)
class Ended:
    """How a run ended that was sent a signal, if it lived to see it."""

    code: int
    err: str
    sent: bool


class Program:
    """A command that is run whole or killed in the middle."""

    def __init__(self, environment: dict[str, str], folder: Path, seed: int) -> None:
        self.environment, self.folder, self.rng = environment, folder, random.Random(seed)
        self.lasts = 3.0

    def start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start it, Ctrl-C taken notice of."""
        return subprocess.Popen(
            [sys.executable, "-m", "iepile_cli", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def whole(self, words: Sequence[str]) -> None:
        """Run it to its end, and remember how long that takes."""
        begun = time.monotonic()
        process = self.start(words)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        self.lasts = time.monotonic() - begun

    def killed(self, words: Sequence[str], number: int) -> Ended:
        """Run it and send it a signal at some moment."""
        process = self.start(words)
        at = time.monotonic() + self.rng.uniform(0.1, 1.0) * self.lasts
        while process.poll() is None and time.monotonic() < at:
            time.sleep(0.005)
        family = (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        )
        sent = process.poll() is None
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        ended = Ended(process.returncode, said.decode(), sent)
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, f"{signal.Signals(number).name} left {alive}"
        self.check(ended, number)
        return ended

    def check(self, ended: Ended, number: int) -> None:
        """A clear end, but for SIGKILL, which nobody can answer."""
        # A signal may come before Python can take it, or when all is done; and Python itself ends
        # by SIGINT, after all is said, where an interrupt passed through an exec.
        assert ended.code in (0, 130, -number, -signal.SIGINT), ended
        assert "unexpected error" not in ended.err, ended.err
        assert not CONTROLS.search(ended.err)
        if ended.code == 130:
            assert "Traceback" not in ended.err, ended.err
            assert "iepile: " in ended.err.splitlines()[-1], ended.err


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.setenv("ABUSE_PAUSE", "0.003")
    return Program(site(tmp_path / "site"), tmp_path, seed=24)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("name", ["out.jsonl", "out.json"])
@kills(2, 20)
def test_extract_resumes(name: str, times: int, program: Program) -> None:
    folder = program.folder
    lines, out = folder / "lines.txt", folder / name
    size = 400 if times > 2 else 150
    lines.write_text("".join(f"Name{number} lives in Oslo.\n" for number in range(size)))
    before = digest(lines)
    words = ["-q", "extract", "-s", "person", "--lines", "lines.txt", "-o", name]
    words += ["--backend", "first-word", "--resume"]
    program.whole(words)
    wanted = json_rows(out.read_bytes())
    assert len(wanted) == size
    done = 0
    while done < times:
        for leftover in folder.glob(f"{name}*"):
            leftover.unlink()
        seen: list[Any] = []
        for number in program.rng.sample(SIGNALS, 3):
            program.killed(words, number)
            done += 1
            now = json_rows(out.read_bytes()) if out.exists() else []
            # What was written before stays, in order, and is right.
            assert now[: len(seen)] == seen
            assert now == wanted[: len(now)]
            seen = now
        program.whole(words)
        assert json_rows(out.read_bytes()) == wanted
        json.loads(out.read_bytes()) if name.endswith(".json") else None
        assert digest(lines) == before
        assert hidden(folder) == []
        count("kills of extract -o --resume", 3)


def json_rows(data: bytes) -> list[Any]:
    """The complete results of an output that may end in the middle of one."""
    rows = []
    for line in data.removeprefix(b"[").split(b"\n"):
        body = line.strip().removesuffix(b",")
        try:
            rows.append(json.loads(body))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict)]


@kills(0, 12)
def test_extract_leaves_older_results_until_it_is_done(times: int, program: Program) -> None:
    folder = program.folder
    out = folder / "out.jsonl"
    (folder / "lines.txt").write_text("".join(f"Name{n} in Oslo.\n" for n in range(300)))
    words = ["-q", "extract", "-s", "person", "--lines", "lines.txt", "-o", "out.jsonl"]
    words += ["--backend", "first-word"]
    program.whole(words)
    finished = out.read_bytes()
    older = b'{"source": "old", "task": "NER", "lang": "en", "answer": {}, "items": []}\n'
    for turn in range(times):
        for leftover in folder.glob("out.jsonl.*"):
            leftover.unlink()
        out.write_bytes(older)
        ended = program.killed(words, SIGNALS[turn % 3])
        assert out.read_bytes() in (older, finished)
        if ended.code:
            # Killed before it wrote anything, it is begun again.
            begun = (folder / "out.jsonl.part").exists()
            program.whole([*words, "--resume"] if begun else words)
        assert out.read_bytes() == finished
        count("kills of extract over older results")


Made = Callable[[Path], tuple[list[str], list[str]]]


def converting(folder: Path) -> tuple[list[str], list[str]]:
    records = (
        {"text": f"Ann{n} met Bob.", "entity": [{"entity": f"Ann{n}", "entity_type": "person"}]}
        for n in range(60_000)
    )
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    words = [
        "-q",
        "convert",
        "records.jsonl",
        "--task",
        "NER",
        "--schema",
        "auto",
        "-o",
        "rows.jsonl",
        "--workers",
        "2",
    ]
    return words, ["rows.jsonl"]


def evaluating(folder: Path) -> tuple[list[str], list[str]]:
    asked = {"instruction": "i", "schema": ["person"], "input": "Ann met Bob."}
    row = {"task": "NER", "source": "S", "instruction": json.dumps(asked)}
    with (folder / "pred.jsonl").open("w") as file:
        for number in range(30_000):
            given = ["Ann", "Bob"][: number % 3]
            output = {
                "label": json.dumps([{"entity": "Ann", "entity_type": "person"}]),
                "output": json.dumps({"person": given}),
            }
            file.write(json.dumps({"id": str(number), **row, **output}) + "\n")
    outputs = ["page.html", "scores.json", "errors.jsonl"]
    words = ["-q", "eval", "pred.jsonl", "--html", outputs[0], "--json", outputs[1]]
    return [*words, "--errors", outputs[2]], outputs


@pytest.mark.parametrize("made", [converting, evaluating])
@kills(0, 18)
def test_reports_and_rows_are_whole_or_not_there(made: Made, times: int, program: Program) -> None:
    folder = program.folder
    words, outputs = made(folder)
    inputs = {path: digest(path) for path in folder.iterdir() if path.is_file()}
    program.whole(words)
    finished = {name: (folder / name).read_bytes() for name in outputs}
    for turn in range(times):
        for name in outputs:
            (folder / name).write_text("older")
        number = SIGNALS[turn % 3]
        program.killed(words, number)
        for name in outputs:
            assert (folder / name).read_bytes() in (b"older", finished[name])
        if number != signal.SIGKILL:
            assert hidden(folder) == []
        # What a SIGKILL leaves is hidden; it is no leftover of the next turn.
        for path in folder.glob(".*"):
            path.unlink()
        assert all(digest(path) == kept for path, kept in inputs.items())
        count(f"kills of {words[1]}")
    program.whole(words)
    assert {name: (folder / name).read_bytes() for name in outputs} == finished


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from hub.hub_server import HubServer

    server = HubServer()
    yield server
    server.close()


@kills(0, 18)
def test_a_download_goes_on(times: int, hub: Any, program: Program) -> None:
    weights = random.Random(7).randbytes(12_000_000)
    hub.add("owner/one", {"model.safetensors": weights, "config.json": b"{}"})
    hub.pause = 0.01
    store = program.folder / "models"
    program.environment |= {"HF_ENDPOINT": hub.url, "IEPILE_MODELS": str(store)}
    program.environment |= {"HF_HOME": str(program.folder / "hf")}
    words = ["-q", "download", "owner/one"]
    program.whole(words)
    target = store / "owner--one" / "model.safetensors"
    assert target.read_bytes() == weights
    done = 0
    while done < times:
        program.whole(["-q", "download", "--remove", "owner/one"])
        program.lasts = 3.0
        for number in program.rng.sample(SIGNALS, 3):
            kept = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
            program.killed(words, number)
            done += 1
            now = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
            assert now >= kept
            if target.exists():
                assert target.read_bytes() == weights
        program.whole(words)
        assert target.read_bytes() == weights
        assert not list(store.rglob("*.partial"))
        count("kills of download", 3)


@kills(0, 12)
def test_training_goes_on(times: int, program: Program, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("peft")
    from tiny_llama import tiny_llama, training_rows

    folder = program.folder
    data = folder / "train.jsonl"
    data.write_text(training_rows(24))
    before = digest(data)
    tiny_llama(folder / "tiny", data)
    words = [
        "-q",
        "train",
        "--data",
        "train.jsonl",
        "--model",
        "tiny",
        "-o",
        "out",
        "--device",
        "cpu",
    ]
    words += ["--template", "alpaca", "--dtype", "fp32", "--epochs", "6", "--batch-size", "4"]
    words += ["--save-every", "2", "--val-size", "0", "--lora-r", "4"]
    program.environment["IEPILE_CACHE"] = str(folder / "cache")
    program.whole(words)
    wanted = digest(folder / "out" / "adapter_model.safetensors")
    for turn in range(times):
        shutil.rmtree(folder / "out")
        program.killed(words, SIGNALS[turn % 3])
        assert digest(data) == before
        # The file that makes a folder an adapter comes last.
        if not (folder / "out" / "adapter_config.json").exists():
            resumed = program.start(["-q", "train", "--resume", "-o", "out"])
            _, err = resumed.communicate(timeout=600)
            if resumed.returncode == 2:
                # Killed before a run began: it is begun again.
                assert "holds no run to go on with" in err.decode(), err
                program.whole([*words, "--overwrite"])
            else:
                assert resumed.returncode == 0, err
        assert digest(folder / "out" / "adapter_model.safetensors") == wanted
        count("kills of train")

"""``iepile serve``: the commands it shows, and a server that it really runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gguf_files import lora, random_gguf
from llama_servers import free_port, wait_for

from iepile_cli.backends import serving
from iepile_cli.backends.gguf_merging import merged_file
from iepile_cli.cli.app import run
from iepile_cli.models import resolve_model

ROOT = Path(__file__).parents[2]
TEXT = "Ann Smith met Bob in Rome."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_gguf(tmp_path_factory.mktemp("model") / "my model.gguf")


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same adapter in the form of PEFT and as GGUF."""
    return lora(tmp_path_factory.mktemp("adapter"), model)


@pytest.fixture
def weights(model: Path, tmp_path: Path) -> Path:
    """A folder that looks like one of weights, which is all that a command needs."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[list[str], str]:
    """The words of the command that is shown, and what is said on stderr."""
    assert run(["serve", *map(str, words)]) == 0
    said = capsys.readouterr()
    return shlex.split(said.out), said.err


def value(argv: list[str], option: str) -> str:
    return argv[argv.index(option) + 1]


def test_vllm_with_an_adapter(
    weights: Path, adapters: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv, said = shown(capsys, "--model", weights, "--adapter", adapters[0], "--gpus", 2)
    assert argv[:3] == ["vllm", "serve", str(weights)]
    assert "--enable-lora" in argv
    assert value(argv, "--lora-modules") == f"peft={adapters[0]}"
    assert value(argv, "--max-lora-rank") == "8"
    assert value(argv, "--tensor-parallel-size") == "2"
    assert json.loads(value(argv, "--structured-outputs-config")) == {"backend": "guidance"}
    assert "--model peft " in said
    assert f"--tokenizer {weights}" in said


def test_llama_server_with_an_adapter(
    model: Path, adapters: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv, said = shown(
        capsys, "-m", model, "--adapter", adapters[1], "--context", 1000, "--parallel", 3
    )
    assert argv[:3] == ["llama-server", "--model", str(model)]
    assert value(argv, "--lora") == str(adapters[1])
    assert value(argv, "--ctx-size") == "3000"
    assert f"--tokenizer {shlex.quote(str(model))}" in said


def test_ollama_with_an_adapter(
    model: Path, adapters: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, said = shown(capsys, "-m", model, "--adapter", adapters[1], "--server", "ollama")
    script = shlex.join(argv)
    assert "ollama create iepile-my-model -f Modelfile" in script
    assert (
        run(["serve", "-m", str(model), "--adapter", str(adapters[1]), "--server", "ollama"]) == 0
    )
    # What is shown is run by a shell, with a program in Ollama's place that shows the file.
    place = tmp_path / "bin"
    place.mkdir()
    (place / "ollama").write_text("#!/bin/sh\ncat Modelfile\n")
    (place / "ollama").chmod(0o755)
    ran = subprocess.run(
        ["sh", "-c", capsys.readouterr().out],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{place}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = ran.stdout.splitlines()
    assert lines[:2] == [f"FROM {model}", f"ADAPTER {adapters[1]}"]
    # It cuts off what does not fit without a word: both sides must mean the same length.
    assert "PARAMETER num_ctx 4096" in lines
    assert "--context 4096" in said
    assert "http://127.0.0.1:11434/v1" in said
    assert "--tokenizer" not in said


def test_ollama_is_given_whole_paths(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    argv, _ = shown(capsys, "-m", f"./{model.name}", "--server", "ollama")
    assert f"FROM {model}" in " ".join(argv)


def test_llama_server_gives_each_slot_room_for_an_answer(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, _ = shown(capsys, "-m", model)
    assert value(argv, "--ctx-size") == str(2048 * int(value(argv, "--parallel")))


@pytest.mark.parametrize(
    ("words", "served", "then"),
    [
        (["-m", "oneke"], ["zjunlp/OneKE"], "--model oneke --template llama2_zh"),
        (["-m", "zjunlp/OneKE"], ["zjunlp/OneKE"], "--model oneke --template llama2_zh"),
        (["-m", "owner/Some-7B"], ["owner/Some-7B"], "--model Some-7B"),
        (
            ["-m", "llama2-13b-chat", "--adapter", "llama2-13b-iepile-lora"],
            [
                "--enable-lora",
                "llama2-13b-iepile-lora=zjunlp/llama2-13b-iepile-lora",
                "--max-lora-rank",
            ],
            "--model llama2-13b-iepile-lora --template llama2",
        ),
        (["-m", "baichuan2-13b-chat"], ["--trust-remote-code"], "--template baichuan2"),
    ],
)
def test_vllm_fetches_what_is_not_here_and_extract_needs_nothing_of_it(
    words: list[str], served: list[str], then: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, said = shown(capsys, *words)
    assert argv[:2] == ["vllm", "serve"]
    assert set(served) <= set(argv)
    assert said.strip().endswith(then)
    assert "--tokenizer" not in said


@pytest.mark.parametrize("server", ["llama-server", "llama-cpp-python"])
def test_the_embedded_model_is_served_from_the_file_that_extract_uses(
    server: str, merged_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, said = shown(capsys, "--server", server)
    found = resolve_model()
    merged = merged_file(found.path, found.adapters)
    assert merged.resolve().parent == merged_models.resolve()
    assert Path(value(argv, "--model")).samefile(merged)
    assert not {"--lora", "--lora_path"} & set(argv)
    assert "--tokenizer smollm2" in said
    # With an adapter of one's own the parts are served, as extract uses them.
    argv, _ = shown(capsys, "--server", server, "--adapter", "smollm2-iepile-lora")
    assert {"--lora", "--lora_path"} & set(argv)


def test_servers_that_fetch_nothing_need_the_model_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["-m", "oneke-gguf"], ["-m", "oneke", "--server", "ollama"]):
        assert run(["serve", *words]) == 1
        assert "iepile download" in capsys.readouterr().err


def test_ray_shares_the_layers_among_machines(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, _ = shown(capsys, "-m", weights, "--gpus", 4, "--nodes", 2)
    assert value(argv, "--tensor-parallel-size") == "4"
    assert value(argv, "--pipeline-parallel-size") == "2"
    assert value(argv, "--distributed-executor-backend") == "ray"


@pytest.mark.parametrize(
    ("server", "option"),
    [
        ("llama-server", "--gpus"),
        ("llama-cpp-python", "--nodes"),
        ("llama-cpp-python", "--parallel"),
        ("vllm", "--parallel"),
        ("ollama", "--port"),
    ],
)
def test_an_option_that_says_nothing_to_a_server_is_refused(
    server: str, option: str, model: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = weights if server == "vllm" else model
    assert run(["serve", "-m", str(what), "--server", server, option, "3"]) == 2
    assert f"{option} does not apply to {server}" in capsys.readouterr().err


@pytest.mark.parametrize("server", ["llama-server", "ollama", "llama-cpp-python"])
def test_an_adapter_of_another_form_is_refused_with_a_way_out(
    server: str, model: Path, adapters: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["serve", "-m", str(model), "--adapter", str(adapters[0]), "--server", server]
    assert run(words) in (1, 2)
    said = capsys.readouterr().err
    assert str(adapters[0]) in said
    assert len(said.splitlines()) <= 2


def test_a_server_that_is_not_installed(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert run(["serve", "-m", str(weights), "--run"]) == 1
    assert "vllm is not installed here" in capsys.readouterr().err


def started(*words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "iepile_cli", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_server_is_run_used_and_stopped(
    number: signal.Signals, model: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    where = ["--server", "llama-cpp-python", "--port", port, "--context", 1024, "--run"]
    process = started("serve", "-m", model, "--adapter", adapters[1], *where)
    try:
        wait_for(url, process)
        (server,) = children(process.pid)
        out = tmp_path / "out.jsonl"
        source = tmp_path / "in.txt"
        source.write_text(TEXT, encoding="utf-8")
        asked = ["extract", "-s", "person,location", str(source), "-o", str(out)]
        asked += ["--backend", "openai", "--base-url", url, "--tokenizer", str(model)]
        assert run([*asked, "--context", "1024", "--answer-tokens", "24"]) == 0
        through: dict[str, Any] = json.loads(out.read_text("utf-8"))
        assert all(TEXT[i["start"] : i["end"]] == i["text"] for i in through["items"])
        assert list(through["answer"]) == ["person", "location"]
        assert not through.get("problems")
    finally:
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(rf"then: iepile extract --base-url {url} ".encode(), said)
    until = time.monotonic() + 5
    while Path(f"/proc/{server}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{server}").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_what_a_server_started_ends_with_it_and_a_crash_is_told(tmp_path: Path) -> None:
    note = tmp_path / "worker"
    script = f"sleep 300 & echo $! > {shlex.quote(str(note))}; kill -9 $$"
    assert serving.run_server(["sh", "-c", script]) == 128 + signal.SIGKILL
    worker = int(note.read_text())
    until = time.monotonic() + 5
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
    assert serving.run_server(["sh", "-c", "exit 7"]) == 7


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found

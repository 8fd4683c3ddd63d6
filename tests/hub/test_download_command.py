"""``iepile download`` as a process: exit codes, lines, signals, limits, two at once."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub.hub_server import COMMIT, LARGE, HubServer
from terminal import Terminal

from iepile_cli.models import resolve_model

BIG = random.Random(7).randbytes(3_000_000)


def environment(hub: HubServer | None, **more: str) -> dict[str, str]:
    wanted = {**os.environ, "COLUMNS": "100", "PYTHONPATH": os.pathsep.join(sys.path), **more}
    return wanted | ({"HF_ENDPOINT": hub.url} if hub else {})


def start(hub: HubServer | None, *arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "iepile_cli", "download", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(hub, **more),
    )


def run(hub: HubServer | None, *arguments: str, **more: str) -> tuple[int, str, str]:
    process = start(hub, *arguments, **more)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def publish(hub: HubServer, *names: str) -> None:
    for name in names:
        hub.add(name, {"model.safetensors": BIG, "config.json": b"{}"})


def test_downloads_says_where_and_is_quiet_on_stdout(hub: HubServer, store: Path) -> None:
    publish(hub, "owner/one")
    code, out, err = run(hub, "owner/one")
    assert (code, out) == (0, "")
    assert err.splitlines() == [f"owner/one: 3.0 MB in {store / 'owner--one'}"]


def test_dry_run_lists_sizes_and_paths_only(hub: HubServer, store: Path) -> None:
    publish(hub, "owner/one")
    code, out, err = run(hub, "owner/one", "--dry-run")
    assert (code, out) == (0, "3000000\tmodel.safetensors\n2\tconfig.json\n")
    assert err == f"2 files, 3.0 MB, to {store / 'owner--one'}\n"
    assert not store.exists()
    assert hub.log == []


def test_dry_run_of_a_removal_removes_nothing(hub: HubServer, store: Path) -> None:
    publish(hub, "owner/one")
    assert run(hub, "owner/one")[0] == 0
    code, out, err = run(None, "--remove", "owner/one", "--dry-run")
    assert (code, out.splitlines()[0]) == (0, "2\tconfig.json")
    assert "3000000\tmodel.safetensors" in out.splitlines()
    assert err.startswith("3 files, 3.0 MB, would go: ")
    assert (store / "owner--one" / "model.safetensors").read_bytes() == BIG


def test_gated_repository_names_the_page_of_its_conditions(hub: HubServer, store: Path) -> None:
    publish(hub, "owner/gated", "datasets/owner/gated")
    hub.status["owner/gated"] = hub.status["datasets/owner/gated"] = (403, {})
    for name in ("owner/gated", "datasets/owner/gated"):
        code, _, err = run(hub, name)
        assert (code, err.count("\n")) == (1, 1)
        assert f"accept its conditions at {hub.url}/{name}, then" in err
    # Some hubs list a repository to everybody and refuse its files.
    hub.status = {"model.safetensors": (403, {})}
    for name in ("owner/gated", "datasets/owner/gated"):
        code, _, err = run(hub, name, "--include", "*.safetensors")
        assert code == 1
        assert f"accept its conditions at {hub.url}/{name}, then" in err


def test_weights_are_fetched_once(hub: HubServer, store: Path) -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": b"x" * n for n in (1, 2)}
    index = {"weight_map": {str(n): name for n, name in enumerate(shards)}}
    copies = {
        "consolidated.safetensors": BIG,
        "consolidated.safetensors.index.json": b"{}",
        "model.fp16.safetensors": BIG,
    }
    files = {**shards, "model.safetensors.index.json": json.dumps(index).encode()}
    hub.add("owner/twice", {"config.json": b"{}", **files, **copies})
    assert run(hub, "owner/twice")[0] == 0
    kept = {path.name for path in (store / "owner--twice").iterdir()}
    assert kept == {"config.json", "iepile-download.json", *files}
    assert resolve_model("owner/twice").format == "safetensors"
    # Where there are no others, they are the weights.
    hub.add("owner/odd", {"config.json": b"{}", "consolidated.safetensors": b"x"})
    assert run(hub, "owner/odd")[0] == 0
    assert (store / "owner--odd" / "consolidated.safetensors").exists()


def hugging_face_cache(folder: Path, repository: str, commit: str, files: dict[str, bytes]) -> Path:
    """Put files where huggingface-hub keeps them: contents by hash, links in a snapshot."""
    stored = folder / "hub" / f"models--{repository.replace('/', '--')}"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text(commit)
    snapshot = stored / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (stored / "blobs").mkdir()
    for name, content in files.items():
        digest = (
            hashlib.sha256(content).hexdigest()
            if len(content) > LARGE
            else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        )
        (stored / "blobs" / digest).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{digest}")
    return snapshot


@pytest.mark.parametrize("commit", [COMMIT, "b" * 40])
def test_model_in_the_hugging_face_cache_is_not_fetched_again(
    hub: HubServer, store: Path, tmp_path: Path, commit: str
) -> None:
    files = {"pytorch_model.bin": BIG, "config.json": b"{}"}
    hub.add("zjunlp/OneKE", {**files, "README.md": b"new"})
    snapshot = hugging_face_cache(tmp_path / "hf", "zjunlp/OneKE", commit, files)
    code, out, err = run(hub, "oneke")
    assert (code, out, hub.log) == (0, "", [])
    assert err == f"oneke is in the Hugging Face cache: nothing to download ({snapshot})\n"
    assert not (store / "oneke").exists()
    assert resolve_model("oneke").path == snapshot
    # The same without a network, and not when the weights at the hub are others.
    code, _, err = run(None, "oneke", HF_ENDPOINT="http://127.0.0.1:9")
    assert (code, "oneke is on this machine" in err) == (0, True)
    hub.commit = "c" * 40
    hub.repositories["zjunlp/OneKE"]["pytorch_model.bin"] = BIG[::-1]
    assert run(hub, "oneke")[0] == 0
    assert (store / "oneke" / "pytorch_model.bin").read_bytes() == BIG[::-1]
    # What is not our download is not removed.
    assert run(hub, "--remove", "oneke")[0] == 0
    code, _, err = run(hub, "--remove", "oneke")
    assert (code, f"it is in the Hugging Face cache: {snapshot}" in err) == (1, True)


def test_own_files_in_a_named_folder_are_not_overwritten(
    hub: HubServer, store: Path, tmp_path: Path
) -> None:
    publish(hub, "owner/one")
    own = tmp_path / "here" / "owner--one"
    own.mkdir(parents=True)
    (own / "config.json").write_text('{"mine": 1}')
    code, out, err = run(hub, "owner/one", "--dir", str(tmp_path / "here"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{own / 'config.json'} is there and was not downloaded" in err
    assert [path.name for path in own.iterdir()] == ["config.json"]
    assert (own / "config.json").read_text() == '{"mine": 1}'


def test_token_does_not_follow_a_redirect_to_another_host(hub: HubServer, store: Path) -> None:
    publish(hub, "owner/one")
    other = HubServer()
    try:
        publish(other, "owner/one")
        hub.token = "hf_secret"
        hub.redirects_to = other.url.replace("127.0.0.1", "localhost")
        code, _, err = run(hub, "owner/one", "--token-env", "TOKEN", TOKEN="hf_secret")
        assert (code, "3.0 MB" in err) == (0, True)
        assert other.sent("model.safetensors") == len(BIG)
        assert "Bearer hf_secret" in hub.authorizations
        assert set(other.authorizations) == {None}
    finally:
        other.close()


def test_some_of_several_failed_is_exit_3(hub: HubServer, store: Path) -> None:
    publish(hub, "owner/one")
    code, _, err = run(hub, "owner/one", "owner/none")
    assert code == 3
    assert "iepile: owner/none: owner/none: not found at http://" in err
    assert err.splitlines()[-1] == "iepile: 1 of 2 failed; the others are done"
    code, _, err = run(hub, "owner/none", "owner/neither")
    assert (code, err.count("iepile: ")) == (1, 3)


def test_another_folder(hub: HubServer, store: Path, tmp_path: Path) -> None:
    publish(hub, "owner/one")
    code, _, _ = run(hub, "owner/one", "--dir", str(tmp_path / "here"))
    assert code == 0
    assert (tmp_path / "here" / "owner--one" / "model.safetensors").read_bytes() == BIG
    code, _, err = run(hub, "--remove", "owner/one", "--dir", str(tmp_path / "here"))
    assert (code, "3.0 MB freed" in err) == (0, True)


def test_adapter_says_what_base_it_needs_and_fetches_nothing(hub: HubServer, store: Path) -> None:
    name = "qwen1.5-14b-iepile-lora"
    hub.add(f"zjunlp/{name}", {"adapter_model.safetensors": b"x", "adapter_config.json": b"{}"})
    code, _, err = run(hub, name)
    assert code == 0
    assert "needs its base model: iepile download qwen1.5-14b-chat (28.3 GB)" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "no model is called 'nope'"),
        (["owner/a--b"], "'owner/a--b' is not a name at"),
        (["a/b/c"], "'a/b/c' is not a hub id"),
        (["oneke", "--source", "ftp"], "cannot download from 'ftp'"),
        (["oneke", "--source", "wisemodel"], "cannot download from 'wisemodel'"),
        (["oneke", "--token-env", "NO_SUCH"], "variable NO_SUCH is not set"),
        (["--remove", "smollm2"], "comes with the installation"),
        ([], "see iepile download --help"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(store: Path, arguments: list[str], words: str) -> None:
    code, out, err = run(None, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_no_network_is_one_line_within_ten_seconds(store: Path) -> None:
    begun = time.monotonic()
    code, out, err = run(None, "oneke", HF_ENDPOINT="http://127.0.0.1:9")
    assert time.monotonic() - begun < 10
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("iepile: cannot reach http://127.0.0.1:9: ")
    assert "works without a network: --model smollm2" in err


def test_offline_mode_is_honoured(hub: HubServer, store: Path) -> None:
    publish(hub, "owner/one")
    code, _, err = run(hub, "owner/one", HF_HUB_OFFLINE="1")
    assert (code, err.count("\n")) == (1, 1)
    assert "offline mode is on" in err
    assert run(hub, "owner/one")[0] == 0
    code, _, err = run(hub, "owner/one", HF_HUB_OFFLINE="1")
    assert (code, "is on this machine" in err) == (0, True)


def test_proxy_of_the_environment_is_used(hub: HubServer, store: Path) -> None:
    code, _, err = run(None, "owner/one", HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=hub.url)
    # The small hub is asked as a proxy and does not know the repository.
    assert (code, "owner/one: not found at http://hub.invalid" in err) == (1, True)


def test_interrupt_keeps_what_has_come(hub: HubServer, store: Path) -> None:
    publish(hub, "owner/one")
    hub.pause = 0.1
    process = start(hub, "owner/one")
    wait_for(lambda: hub.sent("model.safetensors") > 1_500_000)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < 3
    assert process.returncode == 130
    assert "resumes the download" in err
    assert "Traceback" not in err
    hub.pause = 0
    hub.log.clear()
    code, _, err = run(hub, "owner/one")
    assert (code, "resuming: " in err) == (0, True)
    assert hub.starts("model.safetensors")[0] >= 1_000_000
    assert (store / "owner--one" / "model.safetensors").read_bytes() == BIG


def test_two_at_once_share_one_transfer(hub: HubServer, store: Path) -> None:
    publish(hub, "owner/one")
    hub.pause = 0.03
    processes = [start(hub, "owner/one") for _ in range(2)]
    outcomes = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("another process is downloading" in err for err in outcomes) == 1
    assert hub.sent("model.safetensors") == len(BIG)


def test_file_that_cannot_be_written_is_one_line(hub: HubServer, store: Path) -> None:
    publish(hub, "owner/one")
    command = [sys.executable, "-m", "iepile_cli", "download", "owner/one"]
    limit = 1_500_000
    done = subprocess.run(
        command,
        env=environment(hub),
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "owner/one/model.safetensors: cannot write: File too large" in done.stderr
    assert "it resumes" in done.stderr
    hub.log.clear()
    assert run(hub, "owner/one")[0] == 0
    assert hub.starts("model.safetensors")[0] > 0


def test_unwritable_place_is_one_line(hub: HubServer, tmp_path: Path) -> None:
    publish(hub, "owner/one")
    (tmp_path / "file").write_text("")
    code, _, err = run(hub, "owner/one", IEPILE_MODELS=str(tmp_path / "file" / "models"))
    assert (code, err.count("\n")) == (1, 1)
    assert "Not a directory" in err


def wait_for(condition: object, limit: float = 20) -> None:
    end = time.monotonic() + limit
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_missing_model_is_offered_to_a_person(hub: HubServer, store: Path, tmp_path: Path) -> None:
    hub.add("owner/small-gguf", {"model.gguf": b"GGUF, and no more"})
    text = tmp_path / "a.txt"
    text.write_text("Ada Lovelace met Charles Babbage in London.")
    command = [sys.executable, "-m", "iepile_cli", "extract", "--schema", "person", str(text)]
    command += ["--model", "owner/small-gguf"]
    with Terminal(command, environment(hub)) as terminal:
        terminal.wait_for(r"The model owner/small-gguf \(size unknown\) is not on this machine\. ")
        terminal.press("n\n")
        terminal.wait_for("get it with: iepile download owner/small-gguf")
    assert not (store / "owner--small-gguf").exists()
    with Terminal(command, environment(hub)) as terminal:
        terminal.wait_for("Download it now")
        terminal.press("y\n")
        terminal.wait_for("owner/small-gguf: 17 B in ")
        # It is opened then, and this one is no model.
        terminal.wait_for(r"iepile: .*model\.gguf")
    assert (store / "owner--small-gguf" / "model.gguf").exists()


@pytest.mark.model
def test_downloaded_model_extracts(hub: HubServer, store: Path, tmp_path: Path) -> None:
    weights = resolve_model("smollm2").path.read_bytes()
    hub.add("owner/small-gguf", {"model.gguf": weights, "README.md": b"hello"})
    command = [sys.executable, "-m", "iepile_cli", "--quiet"]
    text = tmp_path / "a.txt"
    text.write_text("Ada Lovelace met Charles Babbage in London.")
    extract = [
        *command,
        "--quiet",
        "extract",
        "--schema",
        "person",
        "--model",
        "owner/small-gguf",
        str(text),
    ]
    extract += ["--answer-tokens", "12", "--threads", "1"]
    kept = {"env": environment(hub), "capture_output": True, "text": True, "timeout": 120}
    before = subprocess.run(extract, stdin=subprocess.DEVNULL, **kept)
    assert before.returncode == 1
    assert "get it with: iepile download owner/small-gguf" in before.stderr
    assert hub.log == []
    assert run(hub, "owner/small-gguf")[0] == 0
    assert (store / "owner--small-gguf" / "model.gguf").read_bytes() == weights
    after = subprocess.run(extract, stdin=subprocess.DEVNULL, **kept)
    assert (after.returncode, after.stderr) == (0, "")
    assert json.loads(after.stdout)["items"] is not None

"""Corpora by name: splits, sizes, and what is said when something is missing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hub.hub_server import HubServer
from hub.test_download import Quiet
from terminal import Terminal

from iepile_cli.cli.app import run
from iepile_cli.errors import DataError, UsageError
from iepile_cli.hub import download, plan_download
from iepile_cli.models import NotInstalled, resolve_data


def test_splits_of_a_downloaded_corpus(hub: HubServer, store: Path) -> None:
    hub.add("datasets/zjunlp/iepile", {"train.json": b"{}\n" * 9, "dev.json": b"{}\n", "x.py": b""})
    planned = plan_download("iepile", source=hub.url)
    # The real train.json is larger: the difference is said.
    assert "train.json has 27 B where 1.4 GB was known" in planned.remarks[0]
    download(planned, Quiet())
    assert resolve_data("iepile:train") == store / "iepile" / "train.json"
    assert resolve_data("iepile:dev").read_bytes() == b"{}\n"
    assert not (store / "iepile" / "x.py").exists()
    assert resolve_data("iepile") == store / "iepile"
    with pytest.raises(UsageError, match="no split 'test'") as caught:
        resolve_data("iepile:test")
    assert caught.value.hint == "it has: train, dev"


def test_changed_file_is_refused(hub: HubServer, store: Path) -> None:
    hub.add("datasets/zjunlp/iepile", {"train.json": b"{}\n" * 9, "dev.json": b"{}\n"})
    download(plan_download("iepile", source=hub.url), Quiet())
    (store / "iepile" / "train.json").write_bytes(b"{}\n")
    with pytest.raises(DataError, match="has 3 bytes where 27 were downloaded"):
        resolve_data("iepile:train")


def test_files_inside_folders_are_splits(hub: HubServer, store: Path) -> None:
    path = "IE-en/NER/CrossNER_AI/test.json"
    hub.add(
        "datasets/zjunlp/iepile", {path: b"{}", "IE-zh/RE/x/train.json": b"{}", "dev.json": b""}
    )
    download(plan_download("iepile-sources", source=hub.url), Quiet())
    assert resolve_data(f"iepile-sources:{path}") == store / "iepile-sources" / path
    assert resolve_data(f"iepile-sources:{path.removesuffix('.json')}").name == "test.json"
    with pytest.raises(UsageError) as caught:
        resolve_data("iepile-sources:IE-en/NER/CrossNER_AI")
    assert path in caught.value.hint


def test_corpus_by_hub_id(hub: HubServer, store: Path) -> None:
    hub.add("datasets/owner/corpus", {"all.jsonl": b"{}\n"})
    download(plan_download("datasets/owner/corpus", source=hub.url), Quiet())
    assert resolve_data("datasets/owner/corpus").name == "all.jsonl"


def test_missing_corpus_names_the_download(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotInstalled) as caught:
        resolve_data("iepile:train")
    assert caught.value.hint == "get it with: iepile download iepile (1.5 GB)"
    file = tmp_path / "own.jsonl"
    file.write_text("{}\n")
    assert resolve_data(str(file)) == file
    with pytest.raises(UsageError, match="is a base, not a corpus"):
        resolve_data("oneke")
    # What reads the path says that it is not there.
    assert resolve_data("nothing.jsonl") == Path("nothing.jsonl")
    assert run(["convert", "nothing.jsonl", "--task", "NER"]) == 2
    assert "nothing.jsonl: no such file" in capsys.readouterr().err


def test_names_stand_for_paths(
    hub: HubServer, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("datasets/zjunlp/iepile", {"train.json": b"{}", "dev.json": b"{}"})
    hub.add("datasets/owner/corpus", {"all.jsonl": b"{}\n"})
    download(plan_download("iepile", source=hub.url), Quiet())
    download(plan_download("datasets/owner/corpus", source=hub.url), Quiet())
    assert resolve_data("iepile") == store / "iepile"
    assert resolve_data("iepile:dev") == store / "iepile" / "dev.json"
    assert resolve_data("datasets/owner/corpus").name == "all.jsonl"
    for text in ("nothing.json", "c:/x.json", "a:b", ":", "-", "./iepile", "/x/iepile"):
        assert resolve_data(text) == Path(text)
    with pytest.raises(NotInstalled, match="'instructie' is not on this machine"):
        resolve_data("instructie")
    with pytest.raises(UsageError, match="no split 'x'"):
        resolve_data("iepile:x")
    # A download comes before a path of its name, as with models; other names are paths first.
    monkeypatch.chdir(tmp_path)
    for name in ("iepile", "oneke", "instructie"):
        (tmp_path / name).mkdir()
    assert resolve_data("iepile") == store / "iepile"
    assert resolve_data("./iepile") == Path("iepile")
    assert resolve_data("oneke") == Path("oneke")
    assert resolve_data("instructie") == Path("instructie")


def test_convert_takes_a_downloaded_corpus(
    hub: HubServer, store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gold = [{"entity": "Ada", "entity_type": "person"}]
    record = json.dumps({"text": "Ada met Bob.", "entity": gold})
    schema = '["person"]\n[]\n{}\n'
    files = {"test.json": f"{record}\n".encode(), "schema.json": schema.encode()}
    hub.add("datasets/zjunlp/iepile", {f"IE-en/NER/x/{name}": text for name, text in files.items()})
    download(plan_download("iepile-sources", source=hub.url), Quiet())
    assert run(["convert", "iepile-sources:IE-en/NER/x/test"]) == 0
    row = json.loads(capfd.readouterr().out)
    assert (row["task"], row["source"]) == ("NER", "x")
    assert run(["convert", "iepile-sources", "-o", str(tmp_path / "out")]) == 0
    assert list((tmp_path / "out").rglob("test.json*"))


def test_missing_corpus_is_offered_to_a_person(hub: HubServer, store: Path, tmp_path: Path) -> None:
    record = json.dumps({"text": "Ada.", "entity": [{"entity": "Ada", "entity_type": "person"}]})
    files = {"test.json": f"{record}\n".encode(), "schema.json": b'["person"]\n[]\n{}\n'}
    hub.add("datasets/zjunlp/iepile", {f"IE-en/NER/x/{name}": text for name, text in files.items()})
    command = [sys.executable, "-m", "iepile_cli", "convert", "-o", str(tmp_path / "out.jsonl")]
    environment = {**os.environ, "HF_ENDPOINT": hub.url}
    with Terminal([*command, "iepile-sources:IE-en/NER/x/test"], environment) as terminal:
        terminal.wait_for(r"The corpus iepile-sources \(size unknown\) is not on this machine\. ")
        terminal.press("y\n")
        terminal.rest()
    assert json.loads((tmp_path / "out.jsonl").read_text())["source"] == "x"


def test_list_shows_what_is_installed(
    hub: HubServer, store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.add("datasets/zjunlp/iepile", {"train.json": b"{}", "dev.json": b"{}"})
    hub.add("owner/lora", {"adapter_model.safetensors": b"x", "adapter_config.json": b"{}"})
    download(plan_download("iepile", source=hub.url), Quiet())
    download(plan_download("owner/lora", source=hub.url), Quiet())
    assert run(["list", "models", "--installed"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        "smollm2",
        "smollm2-iepile-lora",
        "smollm2-iepile-lora-zh",
        "owner/lora",
        "iepile",
    ]
    assert run(["list", "templates", "--installed"]) == 2

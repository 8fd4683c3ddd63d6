"""Corpora by name: splits, sizes, and what is said when something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub.hub_server import HubServer
from hub.test_download import Quiet

from iepile_cli.cli import run
from iepile_cli.errors import DataError, DownloadError, UsageError
from iepile_cli.hub import corpus_path, download, find_data, plan_download


def test_splits_of_a_downloaded_corpus(hub: HubServer, store: Path) -> None:
    hub.add("datasets/zjunlp/iepile", {"train.json": b"{}\n" * 9, "dev.json": b"{}\n", "x.py": b""})
    planned = plan_download("iepile", source=hub.url)
    # The real train.json is larger: the difference is said.
    assert "train.json has 27 B where 1.4 GB was known" in planned.remarks[0]
    download(planned, Quiet())
    assert find_data("iepile", "train") == store / "iepile" / "train.json"
    assert find_data("iepile", "dev").read_bytes() == b"{}\n"
    assert not (store / "iepile" / "x.py").exists()
    with pytest.raises(UsageError, match="several splits") as caught:
        find_data("iepile")
    assert caught.value.hint == "name one: train, dev"
    with pytest.raises(UsageError, match="no split 'test'"):
        find_data("iepile", "test")


def test_changed_file_is_refused(hub: HubServer, store: Path) -> None:
    hub.add("datasets/zjunlp/iepile", {"train.json": b"{}\n" * 9, "dev.json": b"{}\n"})
    download(plan_download("iepile", source=hub.url), Quiet())
    (store / "iepile" / "train.json").write_bytes(b"{}\n")
    with pytest.raises(DataError, match="has 3 bytes where 27 were downloaded"):
        find_data("iepile", "train")


def test_files_inside_folders_are_splits(hub: HubServer, store: Path) -> None:
    path = "IE-en/NER/CrossNER_AI/test.json"
    hub.add(
        "datasets/zjunlp/iepile", {path: b"{}", "IE-zh/RE/x/train.json": b"{}", "dev.json": b""}
    )
    download(plan_download("iepile-sources", source=hub.url), Quiet())
    assert find_data("iepile-sources", path) == store / "iepile-sources" / path
    assert find_data("iepile-sources", path.removesuffix(".json")).name == "test.json"
    with pytest.raises(UsageError) as caught:
        find_data("iepile-sources", "IE-en/NER/CrossNER_AI")
    assert path in caught.value.hint


def test_corpus_by_hub_id(hub: HubServer, store: Path) -> None:
    hub.add("datasets/owner/corpus", {"all.jsonl": b"{}\n"})
    download(plan_download("datasets/owner/corpus", source=hub.url), Quiet())
    assert find_data("datasets/owner/corpus").name == "all.jsonl"


def test_missing_corpus_names_the_download(store: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        find_data("iepile", "train")
    assert caught.value.hint == "get it with: iepile download iepile (1.5 GB)"
    file = tmp_path / "own.jsonl"
    file.write_text("{}\n")
    assert find_data(str(file)) == file
    with pytest.raises(UsageError, match="is a base, not a corpus"):
        find_data("oneke")
    with pytest.raises(DataError, match=r"nothing\.jsonl: no such file"):
        find_data("nothing.jsonl")


def test_names_stand_for_paths(hub: HubServer, store: Path, tmp_path: Path) -> None:
    hub.add("datasets/zjunlp/iepile", {"train.json": b"{}", "dev.json": b"{}"})
    hub.add("datasets/owner/corpus", {"all.jsonl": b"{}\n"})
    download(plan_download("iepile", source=hub.url), Quiet())
    download(plan_download("datasets/owner/corpus", source=hub.url), Quiet())
    assert corpus_path("iepile") == store / "iepile"
    assert corpus_path("iepile:dev") == store / "iepile" / "dev.json"
    assert corpus_path("datasets/owner/corpus").name == "all.jsonl"
    for text in ("nothing.json", "c:/x.json", "a:b", ":", "oneke", "-"):
        assert corpus_path(text) == Path(text)
    with pytest.raises(DownloadError, match="'instructie' is not on this machine"):
        corpus_path("instructie")
    with pytest.raises(UsageError, match="no split 'x'"):
        corpus_path("iepile:x")


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
        "iepile",
        "smollm2",
        "smollm2-iepile-lora",
        "owner/lora",
    ]
    assert run(["list", "templates", "--installed"]) == 2

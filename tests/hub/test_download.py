"""Downloads against a real HTTP server: whole, cut, damaged, refused, without room."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import threading
import time
from pathlib import Path

import pytest
from hub.hub_server import HubServer

from iepile_cli.errors import DownloadError, UsageError
from iepile_cli.hub import Plan, download, plan_download, remove
from iepile_cli.hub import listing as listing_module
from iepile_cli.models import NotInstalled, installed, resolve_model

BIG = random.Random(5).randbytes(4_000_000)
HALF = 2 * 1024 * 1024
REPOSITORY = "owner/tiny"


class Quiet:
    def __init__(self) -> None:
        self.total = self.begun = self.come = 0
        self.said: list[str] = []

    def start(self, total: int, done: int) -> None:
        self.total, self.begun = total, done

    def advance(self, count: int) -> None:
        self.come += count

    def note(self, message: str) -> None:
        self.said.append(message)


def publish(hub: HubServer) -> None:
    hub.add(
        REPOSITORY,
        {
            "model.safetensors": BIG,
            "config.json": b'{"model_type": "llama"}\n',
            "tokenizer.json": b"{}" * 300,
            "pytorch_model.bin": b"pickle" * 100,
            "modeling_tiny.py": b"import os\n",
            "original/params.json": b"{}",
        },
    )


def plan(hub: HubServer, name: str = REPOSITORY, **options: object) -> Plan:
    return plan_download(name, source=hub.url, **options)  # type: ignore[arg-type]


def test_downloads_the_safe_files_and_resolves_by_hub_id(hub: HubServer, store: Path) -> None:
    publish(hub)
    watch = Quiet()
    manifest = download(plan(hub), watch)
    folder = store / "owner--tiny"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "iepile-download.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert watch.total == watch.come == manifest.size
    assert [item.name for item in installed()] == [REPOSITORY]
    found = resolve_model(REPOSITORY)
    assert (found.path, found.format, found.template) == (folder, "safetensors", None)
    digest = hashlib.sha256(BIG).hexdigest()
    assert json.loads((folder / "iepile-download.json").read_text())["files"][
        "model.safetensors"
    ] == {
        "size": len(BIG),
        "sha256": digest,
    }


def test_second_download_fetches_nothing(hub: HubServer, store: Path) -> None:
    publish(hub)
    download(plan(hub), Quiet())
    hub.log.clear()
    download(plan(hub), Quiet())
    assert hub.log == []


def test_catalogue_name_takes_its_own_template_and_folder(hub: HubServer, store: Path) -> None:
    hub.add(
        "zjunlp/OneKE",
        {"pytorch_model.bin": BIG, "config.json": b"{}", "evil.pkl": b"x", "run.py": b"x"},
    )
    planned = plan(hub, "oneke")
    assert [file.path for file in planned.files] == ["pytorch_model.bin", "config.json"]
    assert "pickles" in planned.remarks[0]
    download(planned, Quiet())
    found = resolve_model("oneke")
    assert (found.path, found.format, found.template) == (store / "oneke", "pytorch", "llama2_zh")
    assert plan(hub, "zjunlp/OneKE").folder == store / "oneke"


def test_include_takes_exactly_what_matches(hub: HubServer, store: Path) -> None:
    publish(hub)
    planned = plan(hub, include=["*.bin", "original/*"])
    assert [file.path for file in planned.files] == ["pytorch_model.bin", "original/params.json"]
    with pytest.raises(UsageError, match="no file of owner/tiny matches"):
        plan(hub, include=["*.gguf"])


def test_pickles_alone_are_not_taken_silently(hub: HubServer, store: Path) -> None:
    hub.add(REPOSITORY, {"pytorch_model.bin": b"x", "config.json": b"{}"})
    with pytest.raises(UsageError) as caught:
        plan(hub)
    assert "--include" in caught.value.hint
    assert "pytorch_model.bin" in caught.value.hint


def test_several_gguf_files_ask_for_a_choice(hub: HubServer, store: Path) -> None:
    hub.add(REPOSITORY, {"m.q4_k_m.gguf": b"GGUF", "m.q8_0.gguf": b"GGUF", "README.md": b""})
    with pytest.raises(UsageError, match="holds 2 models"):
        plan(hub)
    download(plan(hub, include=["*q4_k_m*"]), Quiet())
    assert resolve_model(REPOSITORY).path == store / "owner--tiny" / "m.q4_k_m.gguf"
    download(plan(hub, include=["*q8_0*"]), Quiet())
    assert len(installed()[0].files) == 2


def test_parts_of_one_gguf_belong_together(hub: HubServer, store: Path) -> None:
    parts = {f"m-0000{n}-of-00002.gguf": b"GGUF%d" % n for n in (1, 2)}
    hub.add(REPOSITORY, parts)
    download(plan(hub), Quiet())
    assert resolve_model(REPOSITORY).path.name == "m-00001-of-00002.gguf"


def test_cut_line_goes_on_by_itself(hub: HubServer, store: Path) -> None:
    publish(hub)
    hub.cut["model.safetensors"] = [HALF]
    download(plan(hub), Quiet())
    assert hub.starts("model.safetensors") == [0, HALF]
    assert hub.sent("model.safetensors") == len(BIG)


def test_next_run_goes_on_from_half(hub: HubServer, store: Path) -> None:
    publish(hub)
    hub.cut["model.safetensors"] = [HALF]
    threading.Thread(target=fail_after_first_answer, args=(hub,), daemon=True).start()
    with pytest.raises(DownloadError, match="503"):
        download(plan(hub), Quiet())
    with pytest.raises(NotInstalled):
        resolve_model(REPOSITORY)
    hub.status.clear()
    hub.log.clear()
    watch = Quiet()
    download(plan(hub), watch)
    assert hub.starts("model.safetensors") == [HALF]
    assert hub.sent("model.safetensors") == len(BIG) - HALF
    assert watch.begun >= HALF
    assert watch.begun + watch.come == watch.total
    assert (store / "owner--tiny" / "model.safetensors").read_bytes() == BIG


def test_server_that_cannot_go_on_is_read_from_the_start(hub: HubServer, store: Path) -> None:
    publish(hub)
    hub.cut["model.safetensors"] = [HALF]
    hub.ignores_range = True
    watch = Quiet()
    download(plan(hub), watch)
    assert set(hub.starts("model.safetensors")) == {0}
    assert (store / "owner--tiny" / "model.safetensors").read_bytes() == BIG
    assert watch.come == watch.total


def test_mirror_that_gives_no_sizes_and_hashes(hub: HubServer, store: Path) -> None:
    publish(hub)
    hub.tells_nothing = True
    download(plan(hub), Quiet())
    assert (store / "owner--tiny" / "model.safetensors").read_bytes() == BIG
    hub.log.clear()
    download(plan(hub), Quiet())
    assert hub.log == []


def fail_after_first_answer(hub: HubServer) -> None:
    while not hub.starts("model.safetensors"):
        time.sleep(0.005)
    hub.status["model.safetensors"] = (503, {})


def test_damaged_file_is_refused_and_fetched_again(hub: HubServer, store: Path) -> None:
    publish(hub)
    hub.damage["model.safetensors"] = 1
    hub.damage["config.json"] = 1
    watch = Quiet()
    download(plan(hub), watch)
    assert hub.starts("model.safetensors") == [0, 0]
    assert (store / "owner--tiny" / "model.safetensors").read_bytes() == BIG
    assert (store / "owner--tiny" / "config.json").read_bytes() == b'{"model_type": "llama"}\n'
    assert watch.come == watch.total


def test_file_damaged_twice_is_an_error_and_leaves_nothing(hub: HubServer, store: Path) -> None:
    publish(hub)
    hub.damage["model.safetensors"] = 9
    with pytest.raises(DownloadError, match=r"model\.safetensors: damaged twice .* sha256"):
        download(plan(hub), Quiet())
    assert not (store / "owner--tiny" / "model.safetensors").exists()
    assert not any(path.stat().st_size for path in (store / "owner--tiny").rglob("*.part"))


def test_damage_on_disk_is_found_and_mended(hub: HubServer, store: Path) -> None:
    publish(hub)
    download(plan(hub), Quiet())
    folder = store / "owner--tiny"
    (folder / "model.safetensors").write_bytes(BIG[:-1] + b"\0")
    (folder / "iepile-download.json").unlink()
    hub.log.clear()
    download(plan(hub), Quiet())
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert [path for path, *_ in hub.log] == ["model.safetensors"]


def test_new_commit_replaces_what_changed_and_drops_what_went(hub: HubServer, store: Path) -> None:
    publish(hub)
    download(plan(hub), Quiet())
    hub.commit = "b" * 40
    hub.repositories[REPOSITORY]["config.json"] = b'{"new": 1}'
    del hub.repositories[REPOSITORY]["tokenizer.json"]
    hub.log.clear()
    download(plan(hub), Quiet())
    assert [path for path, *_ in hub.log] == ["config.json"]
    assert not (store / "owner--tiny" / "tokenizer.json").exists()
    assert installed()[0].revision == "b" * 40


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {}, "only with a token"),
        (401, {"X-Error-Code": "GatedRepo"}, "denies access"),
        (403, {"X-Error-Code": "GatedRepo"}, "denies access"),
        (403, {}, "denies access"),
        (404, {"X-Error-Code": "RepoNotFound"}, "not found at http://"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no such revision"),
        (404, {}, "not found at http://"),
        (429, {"Retry-After": "7"}, "too many requests"),
        (500, {}, "server error at http://"),
        (503, {}, "server error at http://"),
    ],
)
def test_refusals_are_one_clear_line(
    hub: HubServer, store: Path, status: int, headers: dict[str, str], words: str
) -> None:
    publish(hub)
    hub.status[REPOSITORY] = (status, headers)
    with pytest.raises(DownloadError) as caught:
        plan(hub)
    assert words in caught.value.message
    assert REPOSITORY in caught.value.message
    assert "\n" not in caught.value.message + caught.value.hint
    if status == 429:
        assert "try again in 7 seconds" in caught.value.hint


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refused_file_is_named(hub: HubServer, store: Path, status: int) -> None:
    publish(hub)
    hub.status["model.safetensors"] = (status, {})
    with pytest.raises(DownloadError, match=r"owner/tiny/model\.safetensors: .*\b" + str(status)):
        download(plan(hub), Quiet())


def test_token_opens_a_gated_repository(hub: HubServer, store: Path) -> None:
    publish(hub)
    hub.token = "hf_secret"
    with pytest.raises(DownloadError, match="denies access"):
        plan(hub)
    planned = plan(hub, token="hf_secret")
    assert "hf_secret" not in repr(planned)
    download(planned, Quiet())


def test_login_is_not_shown_to_a_mirror(
    hub: HubServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub)
    hub.token = "hf_login"
    monkeypatch.setenv("HF_TOKEN", "hf_login")
    with pytest.raises(DownloadError, match="denies access"):
        plan(hub)


def test_both_forms_of_weights(hub: HubServer, store: Path) -> None:
    index = json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}).encode()
    hub.add(
        REPOSITORY,
        {
            "model.safetensors": b"x",
            "pytorch_model-1.bin": b"x",
            "pytorch_model.bin.index.json": index,
        },
    )
    download(plan(hub), Quiet())
    assert resolve_model(REPOSITORY).format == "safetensors"


def test_tampered_manifest_deletes_nothing_outside(hub: HubServer, store: Path) -> None:
    publish(hub)
    download(plan(hub), Quiet())
    (store / "precious").write_text("x")
    path = store / "owner--tiny" / "iepile-download.json"
    content = json.loads(path.read_text())
    content["files"]["../precious"] = content["files"][str(store / "precious")] = {"size": 1}
    path.write_text(json.dumps(content))
    hub.commit = "c" * 40
    download(plan(hub), Quiet())
    assert (store / "precious").exists()


def test_space_is_checked_before_the_start(
    hub: HubServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub)
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"needs 4\.0 MB more .* has 1\.0 MB free"):
        download(plan(hub), Quiet())
    assert hub.log == []


def test_no_answer_ends_the_wait(
    hub: HubServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.silent = True
    monkeypatch.setattr(listing_module, "PATIENCE", 0.3)
    with pytest.raises(DownloadError, match="cannot reach") as caught:
        plan(hub)
    assert "--model smollm2" in caught.value.hint


def test_unreachable_hub_names_what_still_works(hub: HubServer, store: Path) -> None:
    publish(hub)
    download(plan(hub), Quiet())
    with pytest.raises(DownloadError, match=r"cannot reach http://127\.0\.0\.1:9") as caught:
        plan_download("owner/other", source="http://127.0.0.1:9")
    assert caught.value.hint.startswith("works without a network: --model smollm2, owner/tiny")
    kept = plan_download(REPOSITORY, source="http://127.0.0.1:9")
    assert kept.listing is None
    assert "is on this machine" in kept.remarks[0]


@pytest.mark.parametrize(
    "path",
    [
        "../evil.json",
        "/tmp/evil.json",
        "a/../../b.json",
        "C:\\x.json",
        "\x1b[2Jx.json",
        "\ud800.json",
    ],
)
def test_unsafe_paths_of_a_hub_are_refused(hub: HubServer, store: Path, path: str) -> None:
    hub.add("datasets/owner/bad", {path: b"{}"})
    with pytest.raises(DownloadError, match="not safe to write"):
        plan(hub, "datasets/owner/bad")


def test_hub_that_sends_more_than_promised_is_stopped(
    hub: HubServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub)
    planned = plan(hub)
    hub.repositories[REPOSITORY]["model.safetensors"] = BIG * 2
    with pytest.raises(DownloadError, match="more than the 4000000 bytes"):
        download(planned, Quiet())


def test_remove_deletes_only_downloads(hub: HubServer, store: Path) -> None:
    publish(hub)
    size = download(plan(hub), Quiet()).size
    assert remove(REPOSITORY) >= size
    assert not (store / "owner--tiny").exists()
    with pytest.raises(DownloadError, match="not downloaded"):
        remove(REPOSITORY)
    (store / "mine").mkdir()
    (store / "mine" / "notes.txt").write_text("keep")
    for name in ("mine", "..", ".", ".locks"):
        with pytest.raises((DownloadError, UsageError)):
            remove(name)
    assert (store / "mine" / "notes.txt").exists()
    with pytest.raises(UsageError, match="comes with the installation"):
        remove("smollm2")


def test_adapter_names_the_base_that_is_missing(hub: HubServer, store: Path) -> None:
    hub.add(
        "zjunlp/llama3-8b-iepile-lora", {"adapter_model.bin": b"x", "adapter_config.json": b"{}"}
    )
    planned = plan(hub, "llama3-8b-iepile-lora")
    download(planned, Quiet())
    missing = planned.missing_base()
    assert missing is not None
    assert (missing.name, missing.size) == ("llama3-8b-instruct", 16_060_000_000)


def test_base_of_an_unlisted_adapter_comes_from_its_settings(hub: HubServer, store: Path) -> None:
    config = json.dumps({"base_model_name_or_path": "Owner/Base"}).encode()
    hub.add("owner/lora", {"adapter_model.safetensors": b"x", "adapter_config.json": config})
    planned = plan(hub, "owner/lora")
    download(planned, Quiet())
    missing = planned.missing_base()
    assert missing is not None
    assert missing.name == "Owner/Base"

"""From a name to files: embedded, installed, Hugging Face cache, path, hub id; wrong pairs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from iepile_cli import models
from iepile_cli.errors import ModelError, UnknownName, UsageError
from iepile_cli.models import (
    NO_ADAPTER,
    Manifest,
    ModelEntry,
    NotInstalled,
    catalogue,
    resolve_model,
)
from iepile_cli.registry import Registry


@pytest.fixture
def known() -> Registry:
    registry = Registry()
    catalogue.register(registry)
    return registry


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IEPILE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


def install(store: Path, name: str, kind: str, **files: str) -> Path:
    place = folder(store / name.replace("/", "--"), **files)
    facts = {path.name: {"size": path.stat().st_size} for path in place.iterdir()}
    Manifest(place, name, kind, "hf", "owner/x", "c0ffee", facts).write()
    return place


def adapter_settings(base: str) -> str:
    return json.dumps({"base_model_name_or_path": base})


def test_default_is_the_embedded_model(known: Registry, store: Path) -> None:
    found = resolve_model(registry=known)
    assert (found.name, found.format, found.template) == ("smollm2", "gguf", "auto")
    assert found.path.read_bytes()[:4] == b"GGUF"
    assert found == resolve_model("smollm2", registry=known)


def test_the_embedded_model_has_an_adapter_unless_none_is_wanted(
    known: Registry, store: Path
) -> None:
    usual = resolve_model(registry=known)
    (adapter,) = usual.adapters
    assert adapter.read_bytes()[:4] == b"GGUF"
    assert adapter.stat().st_size < 15_000_000
    assert usual == resolve_model(adapters=["smollm2-iepile-lora"], registry=known)
    assert 0 < usual.by_task["NER"].min_score < 1
    bare = resolve_model(adapters=[NO_ADAPTER], registry=known)
    assert (bare.adapters, bare.by_task, bare.path) == ((), {}, usual.path)
    with pytest.raises(UsageError, match="name it alone"):
        resolve_model(adapters=[NO_ADAPTER, "smollm2-iepile-lora"], registry=known)


def test_embedded_model_that_is_gone_names_the_package(known: Registry, store: Path) -> None:
    known.add("model", "gone", ModelEntry("gone", "gguf", file="no_such_package:model.gguf"))
    with pytest.raises(ModelError) as caught:
        resolve_model("gone", registry=known)
    assert caught.value.hint == "install it with: pip install no-such-package"


def test_missing_model_names_command_and_size(known: Registry, store: Path) -> None:
    with pytest.raises(NotInstalled) as caught:
        resolve_model("oneke", registry=known)
    assert caught.value.message == "model 'oneke' is not on this machine"
    assert caught.value.hint == "get it with: iepile download oneke (26.5 GB)"
    with pytest.raises(NotInstalled, match="zjunlp/other"):
        resolve_model("zjunlp/other", registry=known)
    with pytest.raises(NotInstalled, match="'oneke'"):
        resolve_model("zjunlp/oneke", registry=known)


def test_installed_by_name_and_by_hub_id(known: Registry, store: Path) -> None:
    place = install(store, "oneke", "base", model__safetensors="x", config__json="{}")
    for name in ("oneke", "zjunlp/OneKE", str(place)):
        found = resolve_model(name, registry=known)
        assert (found.path, found.format, found.template) == (place, "safetensors", "llama2_zh")
        assert found.entry is not None
        assert found.entry.name == "oneke"


def test_incomplete_download_is_not_installed(known: Registry, store: Path) -> None:
    place = install(store, "oneke", "base", model__safetensors="x", config__json="{}")
    (place / "model.safetensors").unlink()
    with pytest.raises(NotInstalled):
        resolve_model("oneke", registry=known)


def test_broken_manifest_is_no_manifest(known: Registry, store: Path) -> None:
    place = install(store, "oneke", "base", model__safetensors="x")
    for content in ("", "[]", "{", '{"name": "oneke"}', '{"files": 3}', "\udce4"):
        text = content.encode("utf-8", "surrogateescape")
        (place / "iepile-download.json").write_bytes(text)
        assert models.installed() == []
        with pytest.raises(NotInstalled):
            resolve_model("oneke", registry=known)


def test_hugging_face_cache_counts_as_installed(
    known: Registry, store: Path, tmp_path: Path
) -> None:
    stored = tmp_path / "hf" / "hub" / "models--zjunlp--OneKE"
    folder(stored / "refs", main="c0ffee\n")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index = json.dumps({"weight_map": shards})
    place = folder(stored / "snapshots" / "c0ffee", model__safetensors__index__json=index)
    (place / "model-1.safetensors").write_text("x")
    with pytest.raises(NotInstalled):
        resolve_model("oneke", registry=known)
    (place / "model-2.safetensors").write_text("x")
    assert resolve_model("oneke", registry=known).path == place
    assert resolve_model("oneke", registry=known).template == "llama2_zh"


def test_local_paths(known: Registry, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(b"GGUF")
    assert resolve_model("own.gguf", registry=known).path == Path("own.gguf")
    assert resolve_model(str(file), registry=known).format == "gguf"
    assert resolve_model("./own.gguf", registry=known).template is None
    place = folder(tmp_path / "weights", pytorch_model__bin="x", config__json="{}")
    assert resolve_model(str(place), registry=known).format == "pytorch"
    with pytest.raises(ModelError, match="no such file or folder"):
        resolve_model("./oneke", registry=known)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match="no model in it"):
        resolve_model("notes.txt", registry=known)
    with pytest.raises(ModelError, match="no model in it"):
        resolve_model(str(folder(tmp_path / "empty")), registry=known)


def test_folder_with_several_gguf_files_asks_which(
    known: Registry, store: Path, tmp_path: Path
) -> None:
    place = folder(tmp_path / "two", a__gguf="x", b__gguf="x")
    with pytest.raises(UsageError, match=r"several models in it \(a\.gguf, b\.gguf\)"):
        resolve_model(str(place), registry=known)


def test_unknown_name_suggests(known: Registry, store: Path) -> None:
    with pytest.raises(UnknownName) as caught:
        resolve_model("onek", registry=known)
    assert "oneke" in caught.value.hint
    with pytest.raises(ModelError, match="no such file or folder"):
        resolve_model("missing.gguf", registry=known)


def test_adapter_or_corpus_as_model_is_refused(
    known: Registry, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_model("llama2-13b-iepile-lora", registry=known)
    assert caught.value.hint == "use --model llama2-13b-chat --adapter llama2-13b-iepile-lora"
    with pytest.raises(UsageError, match="'iepile' is a corpus"):
        resolve_model("iepile", registry=known)
    own = folder(tmp_path / "lora", adapter_config__json=adapter_settings("me/base"))
    with pytest.raises(UsageError) as caught:
        resolve_model(str(own), registry=known)
    assert caught.value.hint == f"use --model me/base --adapter {own}"
    with pytest.raises(UsageError, match="is a model, not an adapter"):
        resolve_model("smollm2", ["oneke"], registry=known)


def test_adapter_brings_base_and_template(known: Registry, store: Path) -> None:
    place = install(
        store, "llama3-8b-iepile-lora", "adapter", adapter_config__json="{}", adapter_model__bin="x"
    )
    with pytest.raises(NotInstalled, match="llama3-8b-instruct"):
        resolve_model(adapters=["llama3-8b-iepile-lora"], registry=known)
    base = install(store, "llama3-8b-instruct", "base", model__safetensors="x")
    found = resolve_model(adapters=["llama3-8b-iepile-lora"], registry=known)
    assert (found.path, found.adapters, found.template) == (base, (place,), "alpaca")
    assert resolve_model("llama3-8b-instruct", registry=known).template == "llama3"


def test_adapter_of_another_base_is_refused(known: Registry, store: Path, tmp_path: Path) -> None:
    install(store, "llama3-8b-iepile-lora", "adapter", adapter_config__json="{}")
    install(store, "oneke", "base", model__safetensors="x")
    with pytest.raises(UsageError) as caught:
        resolve_model("oneke", ["llama3-8b-iepile-lora"], registry=known)
    assert caught.value.message == (
        "adapter 'llama3-8b-iepile-lora' belongs to 'llama3-8b-instruct', not to 'oneke'"
    )
    assert "--model llama3-8b-instruct" in caught.value.hint
    own = folder(tmp_path / "own", adapter_config__json=adapter_settings("Qwen/Qwen1.5-14B-Chat"))
    with pytest.raises(UsageError, match=r"belongs to 'qwen1\.5-14b-chat', not to 'oneke'"):
        resolve_model("oneke", [str(own)], registry=known)
    foreign = folder(tmp_path / "foreign", adapter_config__json=adapter_settings("/their/disk/x"))
    assert resolve_model("oneke", [str(foreign)], registry=known).adapters == (foreign,)


def test_missing_adapter_names_its_download(known: Registry, store: Path) -> None:
    with pytest.raises(NotInstalled) as caught:
        resolve_model("smollm2", ["qwen1.5-14b-iepile-lora"], registry=known)
    assert caught.value.message == "adapter 'qwen1.5-14b-iepile-lora' is not on this machine"
    assert caught.value.hint.endswith("iepile download qwen1.5-14b-iepile-lora (499 MB)")


def test_entry_may_name_its_own_adapter(known: Registry, store: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "lora.gguf").write_bytes(b"GGUF")
    base = ModelEntry(
        "b", "gguf", file=str(tmp_path / "model.gguf"), adapters=("a",), template="qwen"
    )
    known.add("model", "b", base)
    lora = ModelEntry("a", "adapter", file=str(tmp_path / "lora.gguf"), base="b", template="alpaca")
    known.add("model", "a", lora)
    found = resolve_model("b", registry=known)
    assert (found.adapters, found.template) == ((tmp_path / "lora.gguf",), "alpaca")


def test_of_a_model_s_adapters_the_one_for_the_language_is_taken(
    known: Registry, store: Path, tmp_path: Path
) -> None:
    for name, languages in (("b", ()), ("a", ("en",)), ("c", ("zh", "ja"))):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
        kind, file = "adapter" if languages else "gguf", str(tmp_path / f"{name}.gguf")
        entry = ModelEntry(name, kind, file=file, languages=languages)
        known.add("model", name, entry if languages else replace(entry, adapters=("a", "c")))
    for language, taken in ((None, "a"), ("en", "a"), ("ja", "c"), ("zh", "c"), ("fr", "a")):
        found = resolve_model("b", language=language, registry=known)
        assert found.adapters == (tmp_path / f"{taken}.gguf",)
        assert found.languages == known.get("model", taken).languages
    assert resolve_model("b", ["a"], language="zh", registry=known).adapters == (
        tmp_path / "a.gguf",
    )
    assert resolve_model("b", ["none"], language="zh", registry=known).adapters == ()


@pytest.mark.parametrize(
    ("model", "adapters", "others"),
    [
        ("instructi", (), {"instructie", "iepile", "smollm2-iepile-lora"}),
        ("smollm2-iepile", (), {"smollm2-iepile-lora", "llama2-13b-iepile-lora"}),
        ("smollm2", ("smollm",), {"smollm2", "oneke", "instructie"}),
    ],
)
def test_only_names_that_fit_the_option_are_offered(
    known: Registry, store: Path, model: str, adapters: tuple[str, ...], others: set[str]
) -> None:
    with pytest.raises(UnknownName) as raised:
        resolve_model(model, adapters, registry=known)
    assert not others & set(re.findall(r"[\w.-]+", raised.value.hint))

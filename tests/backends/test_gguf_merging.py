"""The embedded model and its adapter as one file: the same answers, made once, never in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf_files import lora, random_gguf

from iepile_cli.backends import Options
from iepile_cli.backends.gguf import GgufFile
from iepile_cli.backends.gguf_merging import merge_adapters, merged_form
from iepile_cli.backends.llamacpp import Context, load_model
from iepile_cli.backends.opening import open_model
from iepile_cli.backends.scheduler import Feed
from iepile_cli.errors import ModelError

TOKENS = list(range(100, 140))


def logits(path: Path, adapters: list[Path]) -> np.ndarray:
    context = Context(load_model(path), size=256, parallel=1, threads=1, adapters=adapters)
    try:
        return np.array(context.decode([Feed(0, 0, TOKENS, True)])[0])
    finally:
        context.close()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("parts")
    base = random_gguf(folder / "base.gguf")
    return base, lora(folder, base)[1]


@pytest.mark.parametrize(("weight_format", "apart"), [("f16", 0.005), ("q8_0", 0.05)])
def test_a_merged_file_computes_what_its_parts_compute(
    parts: tuple[Path, Path], tmp_path: Path, weight_format: str, apart: float
) -> None:
    base, adapter = parts
    merge_adapters(base, [adapter, adapter], tmp_path / "merged.gguf", weight_format)
    expected = logits(base, [adapter, adapter])
    found = logits(tmp_path / "merged.gguf", [])
    assert np.abs(found - expected).max() < apart * np.abs(expected).max()
    assert np.abs(logits(base, []) - expected).max() > 2 * apart * np.abs(expected).max()


def test_the_header_keeps_the_vocabulary_and_tells_the_format(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = parts
    merge_adapters(base, [adapter], tmp_path / "merged.gguf", "q8_0")
    with GgufFile(base) as before, GgufFile(tmp_path / "merged.gguf") as after:
        assert set(before.keys) <= set(after.keys)
        for name, key in before.keys.items():
            if name.startswith("tokenizer."):
                now = after.keys[name]
                assert after.bytes[now.start : now.end] == before.bytes[key.start : key.end]
        assert after.value("general.file_type") == 7


def test_an_adapter_of_another_model_is_refused(parts: tuple[Path, Path], tmp_path: Path) -> None:
    other = random_gguf(tmp_path / "other.gguf", width=128)
    with pytest.raises(ModelError, match="does not fit"):
        merge_adapters(other, [parts[1]], tmp_path / "merged.gguf")
    assert not (tmp_path / "merged.gguf").exists()


def test_what_is_no_gguf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match=r"odd\.gguf: not a GGUF file"):
        GgufFile(tmp_path / "odd.gguf")


def test_the_merged_form_is_made_once_for_several_processes(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from iepile_cli.backends.gguf_merging import merged_form;"
        "p = merged_form(Path(sys.argv[1]), [Path(sys.argv[2])]); print(p, p.stat().st_mtime_ns)"
    )
    command = [sys.executable, "-c", code, *map(str, parts)]
    env = os.environ | {"IEPILE_CACHE": str(tmp_path)}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=env) for _ in range(3)]
    told = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(told) == 1
    assert len(list((tmp_path / "merged").glob("*.gguf"))) == 1


def test_a_cache_that_cannot_be_written_leaves_the_parts(
    parts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setenv("IEPILE_CACHE", str(tmp_path / "cache"))
    notes: list[str] = []
    assert merged_form(parts[0], [parts[1]], notes.append) is None
    assert len(notes) == 1
    assert "slower form" in notes[0]
    assert "\n" not in notes[0]


def test_a_full_disk_leaves_the_parts_and_no_rest(parts: tuple[Path, Path], tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    code = (
        "import resource, sys; from pathlib import Path;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        "from iepile_cli.backends.gguf_merging import merged_form;"
        "print(merged_form(Path(sys.argv[1]), [Path(sys.argv[2])], print))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, parts)],
        env=os.environ | {"IEPILE_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert resource
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert done.stdout.endswith("None\n")
    assert not [path for path in (tmp_path / "merged").iterdir() if path.suffix != ".lock"]


def test_the_embedded_model_is_opened_merged(merged_models: Path) -> None:
    notes: list[str] = []
    opened = open_model(options=Options(on_note=notes.append))
    opened.runner.close()
    assert [path.name for path in merged_models.glob("SmolLM2*q8_0.gguf")]
    assert notes == []
    assert opened.model is not None
    assert json.dumps(opened.model.adapters, default=str).count("adapter.gguf") == 1


def test_a_format_without_a_fast_kernel_is_named_once() -> None:
    notes: list[str] = []
    opened = open_model(adapters=["none"], options=Options(on_note=notes.append))
    opened.runner.close()
    assert len(notes) == 1
    assert "Q4_1" in notes[0]
    assert "iepile export" in notes[0]

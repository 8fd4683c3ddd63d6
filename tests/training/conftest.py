"""A tiny Llama with a tokenizer of its own, and training lines, made for each test run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from tiny_llama import tiny_llama, training_rows

from iepile_cli.training.options import TrainOptions
from iepile_cli.training.recipes import options_from


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 24 training lines of different lengths."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_text(training_rows(24), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, lines: Path) -> Path:
    """A Llama of two layers with random weights, in safetensors, with a byte-level tokenizer."""
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama", lines)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for the whole run: unpacked models and encoded data are made once."""
    cache = tmp_path_factory.getbasetemp() / "iepile-cache"
    monkeypatch.setenv("IEPILE_CACHE", str(cache))


@pytest.fixture(autouse=True)
def _library_warnings() -> Iterator[None]:
    """peft and transformers deprecate parts of each other; ours stay errors."""
    with warnings.catch_warnings():
        for name in ("peft", "transformers", "torch", "accelerate", "bitsandbytes"):
            warnings.filterwarnings("ignore", module=rf"{name}(\..*)?$")
        yield


@pytest.fixture
def options(tiny: Path, lines: Path, tmp_path: Path) -> TrainOptions:
    """A run of a few seconds in fp32."""
    return options_from(
        {
            "model": str(tiny),
            "data": str(lines),
            "output": str(tmp_path / "out"),
            "template": "alpaca",
            "dtype": "fp32",
            "device": "cpu",
            "epochs": 2,
            "batch_size": 4,
            "learning_rate": 3e-2,
            "lora_r": 4,
            "lora_dropout": 0.1,
            # All of the few lines are trained on unless a test says otherwise.
            "val_size": 0,
        }
    )

"""The embedded model, trained and exported for real: minutes each, so only with ``-m slow``."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from training.runs import Recorder, run

from iepile_cli.backends import Options, Request
from iepile_cli.backends.llamacpp import LlamaRunner
from iepile_cli.backends.tokenizers import hf_tokenizer
from iepile_cli.models import NO_ADAPTER
from iepile_cli.models.adapter_settings import read_adapter_settings
from iepile_cli.training.export import export
from iepile_cli.training.finetune import train
from iepile_cli.training.model import find_base
from iepile_cli.training.options import ExportOptions
from iepile_cli.training.recipes import options_from
from iepile_cli.training.reporting import Stopped

pytestmark = [pytest.mark.slow, pytest.mark.model]
RECORDS, PASSAGES = 64, 50
WANTED_F1 = 95


def iepile(*words: object) -> None:
    """Run a command as a user does; it must succeed."""
    command = [sys.executable, "-m", "iepile_cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 64 annotated tweets, converted for training and for testing."""
    source = shared / "data" / "IE-en" / "NER" / "WNUT17"
    folder = tmp_path_factory.mktemp("real")
    with (source / "train.json").open(encoding="utf-8") as file:
        text = "".join(itertools.islice(file, RECORDS))
    (folder / "records.json").write_text(text, encoding="utf-8")
    for split in ("train", "test"):
        iepile(
            *("convert", folder / "records.json", "--task", "NER", "--split", split),
            *("--schema", source / "schema.json", "-o", folder / f"{split}.jsonl"),
        )
    return folder


@pytest.mark.parametrize("bits", [16, 4])
def test_64_real_records_are_learnt_by_heart(real: Path, tmp_path: Path, bits: int) -> None:
    """Train, extract in each backend at once from the result's folder, and score."""
    if bits == 4:
        pytest.importorskip("bitsandbytes")
    adapter = tmp_path / "adapter"
    iepile(
        *("train", "--data", real / "train.jsonl", "-o", adapter, "--bits", bits),
        *("--adapter", "none", "--val-size", 0),
        *("--lora-r", 32, "--lora-alpha", 32, "--lora-dropout", 0, "--batch-size", 4),
        *("--learning-rate", "2e-3", "--scheduler", "linear", "--epochs", 20),
    )
    exported = tmp_path / "exported.gguf"
    iepile("export", "--adapter", adapter, "--to", "gguf-adapter", "-o", exported)
    # The base is opened as it was in training where the backend can: llama.cpp has its own weights.
    ways: dict[str, tuple[object, ...]] = {
        "llama-cpp": ("--adapter", exported),
        "transformers": ("--adapter", adapter, *(("--bits", 4) if bits == 4 else ())),
    }
    for backend, flags in ways.items():
        answers = tmp_path / f"{backend}.jsonl"
        iepile(
            *("extract", "--instructions", real / "test.jsonl", "--backend", backend),
            *(*flags, "-o", answers),
        )
        iepile("eval", answers, "--fail-under", WANTED_F1)


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(real: Path, tmp_path: Path) -> None:
    options = options_from(
        {
            "data": str(real / "train.jsonl"),
            "output": str(tmp_path / "whole"),
            "batch_size": 2,
            "grad_accum": 2,
            "max_steps": 6,
            "learning_rate": 1e-3,
            "adapter": "none",
            "val_size": 0,
        }
    )
    _, whole = run(options)

    class Interrupting(Recorder):
        def step(self, record: Any) -> None:
            import signal

            super().step(record)
            if record["step"] == 2:
                signal.raise_signal(signal.SIGINT)

    parts = dataclasses.replace(options, output=str(tmp_path / "parts"))
    first = Interrupting()
    with pytest.raises(Stopped, match="step 3 of 6"):
        train(parts, reporter=first)
    _, rest = run(dataclasses.replace(parts, resume=True))
    assert sorted(rest.losses) == [4, 5, 6]
    assert {**first.losses, **rest.losses} == pytest.approx(whole.losses, rel=1e-6)


@pytest.fixture(scope="module")
def passages(shared: Path) -> list[str]:
    """Instructions about 50 sentences of another corpus."""
    source = shared / "data" / "IE-en" / "NER" / "wikigold" / "test.json"
    with source.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in itertools.islice(file, PASSAGES)]
    from iepile_cli.task.instruction import instruction_json
    from iepile_cli.task.shape import SchemaItem
    from iepile_cli.task.table import TASKS

    items = [SchemaItem(name) for name in ("location", "organization", "person")]
    return [instruction_json(TASKS["NER"], items, text, "en") for text in texts]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with its adapter merged, as safetensors."""
    made = tmp_path_factory.mktemp("merged") / "model"
    export(ExportOptions("merged", str(made), adapter=(ADAPTER,)))
    return made


ADAPTER = "smollm2-iepile-lora"
LONGEST = 48


def greedy_in_transformers(folder: Path, passages: list[str]) -> Iterator[str]:
    import torch
    from transformers import AutoModelForCausalLM

    from iepile_cli.templates import encode

    base = find_base(str(folder), [NO_ADAPTER])
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    spelled = hf_tokenizer(folder)
    ends = sorted(base.template.stop_ids(base.tokenizer))
    for text in passages:
        ids = torch.tensor([encode(base.template.prompt(text), base.tokenizer)])
        said = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=LONGEST,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        yield spelled.decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.fixture(scope="module")
def wanted(merged: Path, passages: list[str]) -> list[str]:
    """What transformers answers."""
    said = list(greedy_in_transformers(merged, passages))
    assert len(set(said)) > PASSAGES // 2
    return said


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_a_gguf_file_answers_as_transformers_with_the_same_weights(
    merged: Path, passages: list[str], wanted: list[str], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "model.gguf"
    export(ExportOptions(model=str(merged), to="gguf", quantise=kind, output=str(path)))
    settings = read_adapter_settings(path)
    assert settings is not None
    base = find_base(str(merged), [NO_ADAPTER])
    with closing(LlamaRunner(path, Options())) as runner:
        asked = [Request(base.template.prompt(text), None, LONGEST) for text in passages]
        said = [answer.text.strip() for answer in runner.generate(asked)]
    differing = [pair for pair in zip(said, wanted, strict=True) if pair[0] != pair[1]]
    assert differing == []


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m"])
def test_smaller_files_and_ollama_folders_extract(real: Path, tmp_path: Path, kind: str) -> None:
    made = tmp_path / "made"
    iepile(
        *("export", "--adapter", ADAPTER, "--to", "ollama", "--quantise", kind, "-o", made),
    )
    modelfile = (made / "Modelfile").read_text(encoding="utf-8")
    assert "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n" in modelfile
    lines = (real / "test.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    (tmp_path / "few.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    answers = tmp_path / "answers.jsonl"
    iepile(
        *("extract", "--instructions", tmp_path / "few.jsonl"),
        *("--model", made / "model.gguf", "-o", answers),
    )
    rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert all(isinstance(json.loads(row["output"]), dict) for row in rows)

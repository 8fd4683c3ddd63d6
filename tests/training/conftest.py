"""A tiny Llama with a tokenizer of its own, and training lines, made for each test run."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from iepile_cli.task.instruction import answer_json, dumps, instruction_json
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.recipes import options_from

PEOPLE = ("Ann", "Bob Lee", "Zoé", "王芳", "Carl")
PLACES = ("Rome", "New York", "北京", "Oslo")
ITEMS = (SchemaItem("person"), SchemaItem("location"))


def line(random_: random.Random) -> dict[str, str]:
    """One training line about somebody somewhere."""
    task = TASKS["NER"]
    person, place = random_.choice(PEOPLE), random_.choice(PLACES)
    text = f"{person} went to {place}" + " again" * random_.randrange(4) + "."
    found = [(ITEMS[0], [(("mention", person),)]), (ITEMS[1], [(("mention", place),)])]
    return {
        "task": task.name,
        "source": "made",
        "instruction": instruction_json(task, ITEMS, text, "en"),
        "output": dumps(answer_json(task, found, text)),
    }


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 24 training lines of different lengths."""
    random_ = random.Random(7)
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = [dumps(line(random_)) for _ in range(24)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, lines: Path) -> Path:
    """A Llama of two layers with random weights, in safetensors, with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [json.loads(row)["instruction"] for row in lines.read_text("utf-8").splitlines()]
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


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

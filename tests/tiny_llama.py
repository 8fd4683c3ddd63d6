"""A tiny Llama with a tokenizer of its own, and lines to train it on."""

from __future__ import annotations

import json
import random
from pathlib import Path

from iepile_cli.task.instruction import answer_json, dumps, instruction_json
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS

PEOPLE = ("Ann", "Bob Lee", "Zoé", "王芳", "Carl")
PLACES = ("Rome", "New York", "北京", "Oslo")
ITEMS = (SchemaItem("person"), SchemaItem("location"))


def training_rows(count: int) -> str:
    """So many training lines of different lengths."""
    random_ = random.Random(7)
    return "\n".join(dumps(line(random_)) for _ in range(count)) + "\n"


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


def tiny_llama(folder: Path, lines: Path) -> Path:
    """Write a Llama of two layers with random weights; its tokenizer is of the lines' words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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

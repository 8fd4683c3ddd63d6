"""What training reaches on a GPU: tokens a second, share of the device's rate, memory, losses.

Nothing is read: models have random weights in the shapes of the embedded model and of a 7B model,
examples random tokens with a common beginning. For each shape the same examples are computed

* packed, with one variable-length attention call a layer (what ``iepile train`` does on a GPU),
* packed, with a call for each example (what it does elsewhere),
* padded, with transformers' own attention,

first for their losses, which must agree, then for their speed. One JSON line is printed for each
measurement. All of it takes less than ten minutes; ``--minutes`` ends it earlier::

    python tests/bench/train_gpu.py [--tokens 32768] [--minutes 9] [--compile] [--tiny]

``--tiny`` takes shapes of a few thousand weights, to try the script on a CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import torch

from iepile_cli.training import attention
from iepile_cli.training.attention import collator_for
from iepile_cli.training.encoding import IGNORED
from iepile_cli.training.packing import BatchSampler, PackedCollator, PaddedCollator

SHAPES: dict[str, dict[str, Any]] = {
    "embedded": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
}
TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 512}
Rows = list[dict[str, list[int]]]
WAYS = ("varlen", "each", "padded")


def examples(count: int, vocabulary: int) -> Rows:
    """Random examples: a common instruction, a text of its own, and an answer that is learnt."""
    draw = random.Random(0)
    common = [draw.randrange(3, vocabulary) for _ in range(70)]
    made = []
    for _ in range(count):
        text = [
            draw.randrange(3, vocabulary)
            for _ in range(int(min(900, draw.lognormvariate(4.8, 0.6))))
        ]
        answer = [draw.randrange(3, vocabulary) for _ in range(draw.randrange(10, 60))]
        ids = [*common, *text, *answer]
        made.append({"input_ids": ids, "labels": [IGNORED] * (len(ids) - len(answer)) + answer})
    return made


def lora_model(shape: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    """A model with LoRA of rank 16 on every linear layer."""
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        config = LlamaConfig(**shape, max_position_embeddings=4096, dtype=dtype)
        model = LlamaForCausalLM(config).to(dtype)
        model.config.use_cache = False
        settings = peft.LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        made = peft.get_peft_model(model, settings)
    for weight in made.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return made


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second that the device reaches in a large product of matrices."""
    size = 8192 if device == "cuda" else 512
    one = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(3):
        one @ one
    wait(device)
    began = time.perf_counter()
    for _ in range(20):
        one @ one
    wait(device)
    return 20 * 2 * size**3 / (time.perf_counter() - began)


def wait(device: str) -> None:
    """Wait for the device to be done."""
    if device == "cuda":
        torch.cuda.synchronize()


def batches(
    rows: list[dict[str, list[int]]], tokens: int, collate: Any
) -> Iterator[dict[str, Any]]:
    """Batches by tokens, again and again."""
    sampler = BatchSampler([len(row["input_ids"]) for row in rows], tokens=tokens, seed=1)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        for batch in sampler:
            yield collate([rows[at] for at in batch])
        epoch += 1


def on_device(batch: dict[str, Any], device: str) -> tuple[dict[str, Any], int]:
    """A batch on the device, and the tokens of its whole examples."""
    tokens = batch.pop("tokens")
    moved = {
        key: value.to(device, non_blocking=True) if hasattr(value, "to") else value
        for key, value in batch.items()
    }
    return moved, tokens


def prepared(model: Any, way: str) -> Any:
    """The collator of a way to compute, with the model set for it."""
    inner = model.get_base_model()
    if way == "padded":
        inner.set_attn_implementation("sdpa")
        return PaddedCollator()
    collate = collator_for(model)
    assert isinstance(collate, PackedCollator)
    known = KERNEL if way == "varlen" else None
    attention.varlen_kernel = lambda: known
    return collate


def measure(
    model: Any, way: str, rows: Any, tokens: int, device: str, dtype: torch.dtype, seconds: float
) -> dict[str, Any]:
    """Steps for some seconds: tokens a second (of whole examples, and in rows), and memory."""
    collate = prepared(model, way)
    stream = batches(rows, tokens, collate)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    model.train()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    whole = in_rows = steps = 0
    began = 0.0
    while True:
        batch, count = on_device(next(stream), device)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        if steps == 5:
            wait(device)
            began, whole, in_rows = time.perf_counter(), 0, 0
        elif steps > 5:
            whole += count
            in_rows += batch["input_ids"].numel()
            if time.perf_counter() - began > seconds:
                break
    wait(device)
    spent = time.perf_counter() - began
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {
        "steps": steps - 5,
        "tokens_per_second": round(whole / spent),
        "row_tokens_per_second": round(in_rows / spent),
        "memory_gb": round(memory / 1e9, 1),
    }


def losses(model: Any, rows: Any, tokens: int, device: str, dtype: torch.dtype) -> dict[str, float]:
    """The loss of the same examples by each way."""
    found = {}
    model.eval()
    for way in WAYS:
        batch, _ = on_device(next(batches(rows, tokens, prepared(model, way))), device)
        with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            found[way] = float(model(**batch).loss)
    return found


def say(**record: Any) -> None:
    """Print a measurement as a line of JSON."""
    print(json.dumps(record), flush=True)


KERNEL = attention.varlen_kernel()


def measure_shape(
    name: str, shape: dict[str, Any], given: argparse.Namespace, deadline: float
) -> None:
    """Losses and speed of all ways for one shape."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    rate = matmul_rate(device, dtype)
    model = lora_model(shape, device, dtype)
    rows = examples(400 if given.tiny else 6000, shape["vocab_size"])
    tokens = 2048 if given.tiny else given.tokens // (2 if name == "7b" else 1)
    agreed = losses(model, rows, min(tokens, 8192), device, dtype)
    apart = max(agreed.values()) - min(agreed.values())
    allowed = 0.02 if dtype == torch.bfloat16 else 1e-4
    say(shape=name, losses=agreed, apart=apart, equal=apart < allowed)
    # Forward, and back through the frozen weights: two operations a weight and token each.
    used = sum(one.numel() for key, one in model.named_parameters() if "embed" not in key)
    used += shape["vocab_size"] * shape["hidden_size"] if "tie_word_embeddings" in shape else 0
    seconds = 1.0 if given.tiny else 25.0
    for way in (*WAYS, *(["compiled"] if given.compile else [])):
        if deadline - time.perf_counter() < 2 * seconds:
            say(shape=name, way=way, skipped="out of time")
            continue
        if way == "compiled":
            for layer in model.get_base_model().model.layers:
                layer.compile(dynamic=True)
        computed = "varlen" if way == "compiled" else way
        try:
            found = measure(model, computed, rows, tokens, device, dtype, seconds)
        except torch.OutOfMemoryError:
            say(shape=name, way=way, skipped="out of memory")
            continue
        # Logits are computed on a part of the tokens only, so this is a little too high.
        share = round(4 * used * found["row_tokens_per_second"] / rate, 3)
        say(shape=name, way=way, batch_tokens=tokens, share_of_rate=share, **found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--compile", action="store_true", help="compile the layers, too")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    deadline = time.perf_counter() + 60 * given.minutes
    torch.backends.cuda.matmul.allow_tf32 = True
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    say(
        device=torch.cuda.get_device_name() if cuda else "cpu",
        torch=torch.__version__,
        matmul_tflops=round(matmul_rate(device, dtype) / 1e12, 2),
        kernel=str(KERNEL),
    )
    for name, shape in SHAPES.items():
        measure_shape(name, shape | TINY if given.tiny else shape, given, deadline)
        if cuda:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

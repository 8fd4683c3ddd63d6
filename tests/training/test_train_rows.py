"""Rows with shared beginnings: the same loss and gradients as example by example."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from training.runs import run

from iepile_cli.training.attention import collator_for, packed_attention, varlen_attention
from iepile_cli.training.encoding import IGNORED
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.packing import (
    Layout,
    PackedCollator,
    PaddedCollator,
    Segments,
    arrange,
)

Rows = list[tuple[list[int], int]]


def example(ids: list[int], prompt: int) -> dict[str, list[int]]:
    """An example whose first ``prompt`` tokens are not learnt."""
    return {"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]}


def drawn(seed: int, count: int) -> list[int]:
    random_ = random.Random(seed)
    return [random_.randrange(4, 200) for _ in range(count)]


COMMON, OTHER, DEEPER = drawn(1, 20), drawn(2, 12), drawn(3, 9)

CASES: dict[str, Rows] = {
    "one": [(drawn(4, 30), 20)],
    "two": [(COMMON + drawn(5, 9), 24), (COMMON + drawn(6, 17), 30)],
    "mixed": [
        (COMMON + drawn(7, 9), 24),
        (OTHER + drawn(8, 9), 15),
        (COMMON + DEEPER + drawn(9, 14), 35),
        (drawn(10, 11), 5),
        (OTHER + drawn(11, 20), 25),
        (COMMON + DEEPER + drawn(12, 3), 30),
        (COMMON + drawn(13, 30), 40),
        (COMMON + DEEPER[:4] + drawn(14, 8), 28),
    ],
    # The whole of the first, answer and all, begins the prompt of the second and third.
    "within another": [
        (COMMON, 14),
        (COMMON + drawn(15, 10), 25),
        (COMMON + drawn(15, 10) + [7, 8], 31),
    ],
    # Alike beyond where the loss begins: the answers' states stay their own.
    "same prompt": [([*COMMON, 9, 9, 1], 20), ([*COMMON, 9, 9, 2], 20), ([*COMMON, 9, 9, 1], 20)],
    "several turns": [],
    "nothing learnt": [([*COMMON, 5], 21), ([*COMMON, 6, 7], 20)],
    "prompts learnt": [(COMMON + drawn(16, 9), 0), (COMMON + drawn(17, 9), 0)],
    "one token": [([5], 0), (COMMON, 15)],
}


def examples(case: str) -> list[dict[str, list[int]]]:
    if case == "several turns":
        rows = [example(COMMON + drawn(n, 25), 21) for n in (18, 19)]
        for row in rows:
            row["labels"][25:38] = [IGNORED] * 13
        return rows
    return [example(ids, prompt) for ids, prompt in CASES[case]]


def model_of(kind: str) -> Any:
    """Two random layers with LoRA on all that is linear; ``sliding`` sees six positions back."""
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    shape = {
        "vocab_size": 200,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
    }
    torch.manual_seed(0)
    if kind == "sliding":
        # Its own attention is the reference, so it must be one that knows windows.
        config = MistralConfig(**shape, sliding_window=6, attn_implementation="eager")
        model: Any = MistralForCausalLM(config)
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape))
    settings = peft.LoraConfig(
        r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    return peft.get_peft_model(model, settings).float()


def learnt(model: Any, batches: list[dict[str, Any]], count: int) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of some batches, summed and divided by ``count``."""
    model.zero_grad()
    total = 0.0
    for given in batches:
        batch = {key: value for key, value in given.items() if key != "tokens"}
        loss = model(**batch, use_cache=False, num_items_in_batch=count).loss
        loss.backward()
        total += float(loss.detach())
    return total, {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


@pytest.mark.parametrize("kind", ["full", "sliding"])
@pytest.mark.parametrize("case", CASES)
def test_a_row_has_the_loss_and_gradients_of_its_examples_one_by_one(case: str, kind: str) -> None:
    model, given = model_of(kind), examples(case)
    count = sum(label != IGNORED for one in given for label in one["labels"][1:])
    apart = [PaddedCollator(0)([one]) for one in given]
    wanted, gradients = learnt(model, apart, count)
    collate = collator_for(model)
    assert collate == PackedCollator()
    row = collate(given)
    loss, found = learnt(model, [row], count)
    assert loss == pytest.approx(wanted, abs=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def reference_kernel(
    query: Any, key: Any, value: Any, at: Segments, scaling: float | None, window: int | None
) -> Any:
    """What a GPU's variable-length attention computes, by its definition."""
    outputs = []
    for first, last, begin, end in zip(
        at.queries[:-1].tolist(),
        at.queries[1:].tolist(),
        at.keys[:-1].tolist(),
        at.keys[1:].tolist(),
        strict=True,
    ):
        q, k, v = query[first:last], key[begin:end], value[begin:end]
        assert len(q) <= at.longest_query
        assert len(k) <= at.longest_key
        grouped = q.shape[1] // k.shape[1]
        k, v = (one.repeat_interleave(grouped, dim=1) for one in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * scaling
        # Queries are at the end of their keys.
        back = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
        seen = (back >= 0) & (back < (window or len(k)))
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("case", CASES)
def test_one_call_over_gathered_keys_is_the_attention_of_each_example(
    case: str, window: int | None
) -> None:
    """The way of GPUs, with the call that only they have written out."""
    row = PackedCollator()(examples(case))
    layout, length = row["layout"], row["input_ids"].shape[1]
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, length, 8, requires_grad=True) for heads in (4, 2, 2)
    )
    results = []
    for one_call in (False, True):
        for one in (query, key, value):
            one.grad = None
        if one_call:
            made = varlen_attention(reference_kernel, query, key, value, layout, 0.3, window)
        else:
            made, _ = packed_attention(
                None, query, key, value, None, scaling=0.3, layout=layout, sliding_window=window
            )
        (made * torch.arange(made.numel()).view_as(made).sin()).sum().backward()
        results.append([made, *(one.grad for one in (query, key, value))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "length"),
    [
        ("one", 30),
        ("two", 66 - 20),
        # 20 tokens six times, nine after them three times, and 12 twice, each but once.
        ("mixed", 29 + 21 + 43 + 11 + 32 + 32 + 50 + 32 - 4 * 20 - 9 - 4 - 12),
        ("within another", 20 + 10 + 2),
        # The state before the first token of an answer is its own example's.
        ("same prompt", 23 * 3 - 2 * 19),
        ("several turns", 45 * 2 - 20),
        ("prompts learnt", 58),
        ("one token", 21),
    ],
)
def test_what_is_shared_is_in_a_row_once(case: str, length: int) -> None:
    given = examples(case)
    row = PackedCollator()(given)
    assert row["input_ids"].shape == row["position_ids"].shape == (1, length)
    assert row["tokens"] == sum(len(one["input_ids"]) for one in given)
    assert sum(row["layout"].own) == length
    whole = PackedCollator(shares=False)(given)
    assert whole["input_ids"].shape == (1, row["tokens"])
    assert sorted(whole["labels"][0].tolist()) == sorted(row["labels"][0].tolist())


def test_the_order_is_the_tokens_own() -> None:
    given = examples("mixed")
    row = PackedCollator()(given)
    random.Random(3).shuffle(given)
    again = PackedCollator()(given)
    for name in ("input_ids", "position_ids", "logits_to_keep", "labels"):
        assert torch.equal(row[name], again[name])
    assert row["layout"].chains == again["layout"].chains


def test_chains_lead_to_every_token_of_an_example() -> None:
    import numpy as np

    random_ = random.Random(5)
    for _ in range(50):
        ids = [
            np.array([random_.randrange(2) for _ in range(random_.randrange(1, 60))])
            for _ in range(8)
        ]
        ids += [np.concatenate([ids[0], one]) for one in ids]
        limits = [random_.randrange(len(one)) for one in ids]
        order = arrange(ids, limits)
        assert sorted(at for at, _ in order) == list(range(len(ids)))
        assert all(shared <= limits[at] for at, shared in order)
        layout = Layout([len(ids[at]) - shared for at, shared in order], [s for _, s in order])
        own = [ids[at][shared:] for at, shared in order]
        for (at, _), chain in zip(order, layout.chains, strict=True):
            assert list(itertools.chain(*(own[j][:n] for j, n in chain))) == list(ids[at])


def test_a_run_counts_whole_examples(options: TrainOptions, tmp_path: Path) -> None:
    import dataclasses

    _, rows = run(options)
    _, padded = run(dataclasses.replace(options, output=str(tmp_path / "p"), packing=False))
    assert rows.records[-1]["tokens"] == padded.records[-1]["tokens"]


def test_a_model_that_mixes_the_examples_of_a_row_gets_padded_batches() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    heads = {"head_dim": 8}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    mixing = {
        "lfm2": {"layer_types": ["conv", "full_attention"]},
        "gpt_oss": heads | experts,
        "gemma2": heads,
        "mamba": {},
    }
    for kind, more in mixing.items():
        config = AutoConfig.for_model(kind, **shape, **more)
        collator = collator_for(AutoModelForCausalLM.from_config(config))
        assert isinstance(collator, PaddedCollator), kind
    apart = AutoConfig.for_model("qwen3", **shape, **heads)
    assert collator_for(AutoModelForCausalLM.from_config(apart)) == PackedCollator()

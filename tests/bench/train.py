"""Tokens a second of ``iepile train`` against a plain loop, side by side on the same data.

The plain loop is what IEPile's training script comes down to: batches padded to their longest
example, logits and loss over all positions, no packing; the same model in the same number format,
the same LoRA, optimizer and examples in a step. Both are timed in turn, step by step, and the
ratio of real (not padding) tokens a second is printed. Run it on an otherwise idle machine::

    python tests/bench/train.py TRAIN.jsonl [--steps 6] [--batch 8] [--model NAME]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from typing import Any

from iepile_cli.training.attention import collator_for
from iepile_cli.training.model import load_trainable, quiet_libraries
from iepile_cli.training.options import options_from
from iepile_cli.training.packing import PackedCollator, PaddedCollator
from iepile_cli.training.prepare import prepare
from iepile_cli.training.reporting import Reporter


def stepper(model: Any, dtype: Any, batch: Callable[[int], dict[str, Any]]) -> Any:
    """One optimizer step as a function of the step's number."""
    import torch

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    model.train()

    def step(number: int) -> None:
        inputs = batch(number)
        inputs.pop("tokens")
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--checkpointing", action="store_true", help="as upstream does, in plain")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        options = options_from(
            {
                "model": given.model,
                "data": given.data,
                "output": folder,
                "device": "cpu",
                "adapter": "none",
                "val_size": "0",
            }
        )
        prepared = prepare(options, Reporter())
        store, device = prepared.train, prepared.device
        ours, theirs = (load_trainable(prepared.base, options, device) for _ in range(2))
        collate, pad = collator_for(ours), PaddedCollator()
        if not isinstance(collate, PackedCollator):
            raise SystemExit("this model brings its own attention")
        if given.checkpointing:
            theirs.enable_input_require_grads()
            theirs.gradient_checkpointing_enable()

        # In a drawn order, as training sees them: lines about one text do not lie together.
        order = random.Random(options.seed).sample(range(len(store)), len(store))

        def chosen(number: int) -> list[Any]:
            at = number * given.batch
            return [store[order[(at + k) % len(order)]] for k in range(given.batch)]

        runs = {
            "iepile train": stepper(ours, device.torch_dtype, lambda n: collate(chosen(n))),
            "plain loop": stepper(theirs, device.torch_dtype, lambda n: pad(chosen(n))),
        }
        wall, cpu = dict.fromkeys(runs, 0.0), dict.fromkeys(runs, 0.0)
        tokens = 0
        for number in range(-1, given.steps):
            for name, step in runs.items():
                started, used = time.perf_counter(), time.process_time()
                step(max(0, number))
                if number >= 0:
                    wall[name] += time.perf_counter() - started
                    cpu[name] += time.process_time() - used
            if number >= 0:
                tokens += sum(len(example["input_ids"]) for example in chosen(number))
    for name in runs:
        print(
            f"{name}: {tokens / wall[name]:.0f} tokens/s, {tokens / cpu[name]:.0f} per CPU second"
        )
    print(f"ratio {wall['plain loop'] / wall['iepile train']:.2f}", end=", ")
    print(f"by CPU time {cpu['plain loop'] / cpu['iepile train']:.2f}")


if __name__ == "__main__":
    main()

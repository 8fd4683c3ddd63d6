"""Tokens a second of ``iepile train`` against a plain loop, side by side on the same data.

The plain loop is what IEPile's training script comes down to: batches padded to their longest
example, logits and loss over all positions, no packing; the same model, LoRA, optimizer and
examples in a step, all in 32 bits. Beside it ``iepile train`` runs as it is on this machine and,
where that rounds frozen weights to bf16, with ``--dtype fp32`` too. They are timed in turn, step by
step, and the ratios of real (not padding) tokens a second and the mean losses are printed. Run it
on an otherwise idle machine::

    python tests/bench/train.py TRAIN.jsonl [--steps 6] [--batch 8] [--model NAME]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from iepile_cli.training.attention import collator_for
from iepile_cli.training.device import Device
from iepile_cli.training.model import load_trainable, quiet_libraries
from iepile_cli.training.packing import PackedCollator, PaddedCollator
from iepile_cli.training.prepare import prepare
from iepile_cli.training.recipes import options_from
from iepile_cli.training.reporting import Reporter


def stepper(model: Any, batch: Callable[[int], dict[str, Any]]) -> Callable[[int], float]:
    """One optimizer step as a function of the step's number, which gives its loss."""
    import torch

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    model.train()

    def step(number: int) -> float:
        inputs = batch(number)
        inputs.pop("tokens")
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

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
    from transformers import set_seed

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
        plain = replace(device, rounds_frozen=False)

        def made(device: Device) -> Any:
            set_seed(options.seed)
            return load_trainable(prepared.base, options, device)

        ours = {"iepile train": made(device)}
        if device.rounds_frozen:
            ours["iepile train --dtype fp32"] = made(plain)
        theirs, pad = made(plain), PaddedCollator()
        collators = {name: collator_for(model) for name, model in ours.items()}
        if not all(isinstance(one, PackedCollator) for one in collators.values()):
            raise SystemExit("this model brings its own attention")
        if given.checkpointing:
            theirs.enable_input_require_grads()
            theirs.gradient_checkpointing_enable()

        # In a drawn order, as training sees them: lines about one text do not lie together.
        order = random.Random(options.seed).sample(range(len(store)), len(store))

        def chosen(number: int) -> list[Any]:
            at = number * given.batch
            return [store[order[(at + k) % len(order)]] for k in range(given.batch)]

        def batches(collate: Any) -> Callable[[int], dict[str, Any]]:
            return lambda number: collate(chosen(number))

        runs = {name: stepper(ours[name], batches(collators[name])) for name in ours}
        runs["plain loop"] = stepper(theirs, batches(pad))
        wall, cpu, losses = (dict.fromkeys(runs, 0.0) for _ in range(3))
        tokens = 0
        for number in range(-1, given.steps):
            for name, step in runs.items():
                started, used = time.perf_counter(), time.process_time()
                loss = step(max(0, number))
                if number >= 0:
                    wall[name] += time.perf_counter() - started
                    cpu[name] += time.process_time() - used
                    losses[name] += loss / given.steps
            if number >= 0:
                tokens += sum(len(example["input_ids"]) for example in chosen(number))
    print(f"{device}: {device.reason}")
    for name in runs:
        print(
            f"{name}: {tokens / wall[name]:.0f} tokens/s, {tokens / cpu[name]:.0f} per CPU second, "
            f"{wall['plain loop'] / wall[name]:.2f} times the plain loop, "
            f"{cpu['plain loop'] / cpu[name]:.2f} by CPU time, mean loss {losses[name]:.4f}"
        )


if __name__ == "__main__":
    main()

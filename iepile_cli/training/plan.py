"""What a run will do, said before it starts."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from iepile_cli.formatting import readable_size
from iepile_cli.training.base import Base, hf_tokenizer
from iepile_cli.training.device import Place
from iepile_cli.training.encoding import Encoded, decoded
from iepile_cli.training.estimate import Batch, Estimate
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.rows import PaddedCollator, RowCollator
from iepile_cli.training.store import Report, Store

# What part of its speed in large products a device reaches in a training step.
_REACHED = 0.5
# Examples looked at for what rows share.
_SAMPLE = 256


@dataclass(frozen=True)
class Work:
    """What is computed for a token of the examples: tokens in rows, positions with logits."""

    tokens: float
    said: float


def work(store: Store, examples: int, options: TrainOptions) -> Work:
    """Measured on some batches of ``examples``, drawn by the seed."""
    count = min(len(store), max(_SAMPLE, examples))
    drawn = random.Random(options.seed).sample(range(len(store)), count)
    collate = RowCollator() if options.packing else PaddedCollator(0)
    whole = tokens = said = 0
    for at in range(0, count, examples):
        batch = collate([store[index] for index in drawn[at : at + examples]])
        whole += batch["tokens"]
        tokens += batch["input_ids"].numel()
        said += batch["logits_to_keep"].numel() if options.packing else batch["input_ids"].numel()
    return Work(tokens / whole, said / whole)


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the first step."""

    options: TrainOptions
    base: Base
    place: Place
    report: Report
    examples: int
    held_out: int
    guess: Estimate
    batch: Batch
    processes: int
    work: Work

    @property
    def examples_per_step(self) -> int:
        """Examples between two updates of the weights, over all processes."""
        return self.batch.examples * self.batch.accumulated * self.processes

    @property
    def steps(self) -> int:
        """Updates of the weights in the whole run."""
        if self.options.max_steps:
            return self.options.max_steps
        per_epoch = math.ceil(
            math.ceil(self.examples / (self.batch.examples * self.processes))
            / self.batch.accumulated
        )
        return math.ceil(per_epoch * self.options.epochs)

    def lines(self) -> list[str]:
        """The plan for people, a fact a line."""
        options, guess = self.options, self.guess
        said = [
            f"model      {self.base.name}, template {self.base.template.name}",
            f"device     {self.place.device}, {self.place.dtype} ({self.place.why})"
            + (f", {self.processes} processes" if self.processes > 1 else ""),
            f"training   {self._method()}: {guess.trained:,} of {guess.parameters:,} weights",
            f"batch      {self.batch.examples} examples x {self.batch.accumulated} accumulated"
            + (f" x {self.processes} processes" if self.processes > 1 else "")
            + f" = {self.examples_per_step} a step",
            f"steps      {self.steps} ({options.epochs:g} epochs of {self.examples:,} examples)"
            if not options.max_steps
            else f"steps      {self.steps}",
            f"memory     about {readable_size(guess.total(self.batch.examples, self.report))}, "
            f"{readable_size(self.place.free_memory())} free",
            f"time       {self._time()}",
        ]
        said += [f"data       {line}" for line in self.report.lines()]
        if self.held_out:
            said.append(f"held out   {self.held_out:,} examples")
        return said

    def summary(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines())

    def _method(self) -> str:
        options = self.options
        if options.method != "lora":
            return options.method
        bits = "" if options.bits == 16 else f" on {options.bits}-bit weights"
        return f"LoRA r {options.lora_r}, alpha {options.alpha:g}{bits}"

    def _time(self) -> str:
        """Two operations a weight and token on the way there, and as many for each way back."""
        options, guess = self.options, self.guess
        passes = (4 if options.method == "lora" else 6) + 2 * options.grad_checkpointing
        tokens = self.report.tokens / max(1, self.report.examples)
        tokens *= self.steps * self.examples_per_step
        each = guess.in_layers * self.work.tokens + guess.in_output * self.work.said
        rate = _REACHED * self.place.rate()
        if self.place.device != "cpu":
            rate *= self.processes
        seconds = passes * each * tokens / rate
        return f"about {readable_time(seconds)} for {tokens:,.0f} tokens (a rough guess)"


def readable_time(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def shown_example(store: Store, base: Base) -> list[tuple[str, bool]]:
    """The first example as runs of text, each with whether it is learnt."""
    example = store[0]
    ids = [int(token) for token in example["input_ids"]]
    tokenizer: Any = hf_tokenizer(base.folder, base.remote_code)
    encoded = Encoded(ids, [int(label) for label in example["labels"]], len(ids))
    runs: list[tuple[str, bool]] = []
    at = 0
    for text, learnt in decoded(encoded, dict.fromkeys(ids, "x")):
        # Whole runs are decoded at once: a character may be spread over several tokens.
        runs.append((str(tokenizer.decode(ids[at : at + len(text)])), learnt))
        at += len(text)
    return runs

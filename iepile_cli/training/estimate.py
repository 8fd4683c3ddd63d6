"""Before a run: about how much memory it takes, how large a batch fits, what would fit instead.

Counts are made on a model without weights (torch's ``meta`` device). Activations are estimated
for a decoder of the Llama kind: per token and layer about twelve values of hidden and four of
intermediate width kept for the way back, and on the answers' positions three times the
vocabulary in 32 bits. The figures are rough, within a factor of about one and a half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iepile_cli.errors import ModelError
from iepile_cli.formatting import readable_size
from iepile_cli.training.base import Base, empty_model
from iepile_cli.training.device import Place
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.scaling import Shares
from iepile_cli.training.store import Report

# More tokens at once than this bring nothing on a CPU.
_CPU_TOKENS = 4096
# What the libraries themselves take.
_RUNTIME = 400 << 20


@dataclass(frozen=True)
class Estimate:
    """Bytes: ``weights``, ``training`` (trained weights' gradients and optimizer), per token.

    ``parameters`` counts all weights, ``in_layers`` and ``in_output`` those of the matrices that
    every token and every said token passes, and ``trained`` those that change.
    """

    parameters: int
    in_layers: int
    in_output: int
    trained: int
    weights: int
    training: int
    per_token: int
    per_answer_token: int

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the batch."""
        return self.weights + self.training + _RUNTIME

    def batch(self, examples: int, report: Report) -> int:
        """Bytes of a batch of the longest examples."""
        share = report.answer_tokens / max(1, report.tokens)
        tokens = examples * report.longest
        return int(tokens * (self.per_token + share * self.per_answer_token))

    def total(self, examples: int, report: Report) -> int:
        """Bytes of everything with such a batch."""
        return self.fixed + self.batch(examples, report)


def estimate(base: Base, options: TrainOptions, place: Place, shares: Shares) -> Estimate:
    """The memory that a process of a run takes, from the model's configuration alone."""
    import torch

    model = empty_model(base.folder, base.remote_code)
    config = model.config
    parameters = sum(weight.numel() for weight in model.parameters())
    output = model.get_output_embeddings()
    in_layers = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    ]
    linear = sum(module.weight.numel() for module in in_layers)
    width = 4 if place.dtype == "fp32" or options.method != "lora" else 2
    weights = (parameters - linear) * width + int(linear * _bytes_per_weight(options, width))
    trained = parameters
    if options.method == "lora":
        trained = _lora_weights(in_layers, options)
    elif options.method == "freeze":
        layers = max(1, int(config.num_hidden_layers))
        trained = linear * min(layers, abs(options.trainable_layers)) // layers
    # LoRA's own weights come on top; a gradient and two moments for each trained weight.
    own = 4 * trained if options.method == "lora" else 0
    return Estimate(
        parameters=parameters,
        in_layers=linear,
        in_output=output.weight.numel() if output is not None else 0,
        trained=trained,
        weights=int(weights * shares.weights),
        training=int((own + 12 * trained) * shares.training),
        per_token=_per_token(config, options, place),
        per_answer_token=3 * 4 * int(config.vocab_size),
    )


def _bytes_per_weight(options: TrainOptions, width: int) -> float:
    return {4: 0.56, 8: 1.05}.get(options.bits, width)


def _lora_weights(linear: list[Any], options: TrainOptions) -> int:
    return sum(options.lora_r * (module.in_features + module.out_features) for module in linear)


def _per_token(config: Any, options: TrainOptions, place: Place) -> int:
    hidden, layers = int(config.hidden_size), int(config.num_hidden_layers)
    inner = int(getattr(config, "intermediate_size", 4 * hidden))
    value = 4 if place.dtype == "fp32" else 2.5
    one_layer = (12 * hidden + 4 * inner) * value
    if options.grad_checkpointing:
        return int(layers * hidden * value + one_layer)
    return int(layers * one_layer)


@dataclass(frozen=True)
class Batch:
    """Examples on one device at once, and how many times their gradients are accumulated."""

    examples: int
    accumulated: int


def choose_batch(
    guess: Estimate,
    options: TrainOptions,
    place: Place,
    report: Report,
    processes: int,
    here: int,
) -> Batch:
    """The batch for some options: as asked, or the largest that fits.

    With ``auto`` batch and accumulation together make ``global_batch``, whatever the machine.
    ``here`` of the ``processes`` are on this machine and share its memory. Raises ``ModelError``
    that names what would fit when not even one example does.
    """
    free = place.free_memory()
    if place.device != "cuda":
        free //= here
    if options.fixed_batch:
        if guess.total(options.fixed_batch, report) > free:
            raise _too_large(guess, options, place, report, free)
        return Batch(options.fixed_batch, options.grad_accum or 1)
    share = max(1, options.global_batch // processes)
    size = 1 << (share.bit_length() - 1)
    while size > 1 and not _suits(guess, size, report, place, free):
        size //= 2
    if guess.total(size, report) > free:
        raise _too_large(guess, options, place, report, free)
    return Batch(size, options.grad_accum or max(1, round(share / size)))


def _suits(guess: Estimate, size: int, report: Report, place: Place, free: int) -> bool:
    if place.device == "cpu" and size * report.longest > _CPU_TOKENS:
        return False
    return guess.total(size, report) <= 0.9 * free


def _too_large(
    guess: Estimate, options: TrainOptions, place: Place, report: Report, free: int
) -> ModelError:
    size = options.fixed_batch or 1
    needed = guess.total(size, report)
    ways = []
    if options.method != "lora":
        ways.append("--method lora")
    elif options.bits > 4 and 0.35 * guess.weights + needed - guess.weights <= free:
        ways.append("--bits 4")
    if size > 1 and guess.total(1, report) <= free:
        ways.append(f"--batch-size {largest_fitting(guess, report, free, size)}")
    if not options.grad_checkpointing:
        ways.append("--grad-checkpointing")
    if report.longest > 256:
        ways.append("a smaller --max-length")
    return ModelError(
        f"this run needs about {readable_size(needed)} of memory with {size} examples at once, "
        f"and {readable_size(free)} are free on {place.device}",
        hint="what would help: " + (", ".join(ways) or "a smaller model"),
    )


def largest_fitting(guess: Estimate, report: Report, free: int, limit: int) -> int:
    """The largest batch below ``limit`` that fits into ``free`` bytes, at least 1."""
    return next((size for size in range(limit, 0, -1) if guess.total(size, report) <= free), 1)

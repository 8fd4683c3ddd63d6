"""The memory that a run takes, and the largest batch that fits.

Memory is counted on a model without weights (torch's ``meta`` device). Activations are estimated
for a decoder of the Llama kind: per token and layer about twelve values of hidden and four of
intermediate width kept for the backward pass, and on the answers' positions three times the
vocabulary in 32 bits. The figures are rough, within a factor of about one and a half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import ModelError, UsageError
from iepile_cli.formatting import readable_size
from iepile_cli.training.dataset import EncodedDataset, Report
from iepile_cli.training.device import Device
from iepile_cli.training.distributed import Shares
from iepile_cli.training.model import Base, empty_model
from iepile_cli.training.options import TrainOptions

if TYPE_CHECKING:
    from pathlib import Path

# More tokens at once than this bring nothing on a CPU.
_CPU_TOKENS = 4096
# What the libraries themselves take.
_RUNTIME = 400 << 20
# How much more a batch takes on a CPU: blocks that were freed and do not fit the next lengths stay
# with the process. Measured: 8 GB where 6.1 would do; returning them takes a fifth of the time.
_CPU_HEAP = 1.4
# The share of answers' tokens where no data has been read.
_USUAL_SHARE = 0.2


# ---------------------------------------------------------------------------------------- memory


@dataclass(frozen=True)
class Estimate:
    """Bytes: ``weights``, ``training`` (trained weights' gradients and optimizer), per token.

    ``parameters`` counts all weights and ``trained`` those that change.
    """

    parameters: int
    trained: int
    weights: int
    training: int
    per_token: int
    per_answer_token: int

    def total(self, tokens: int, answers: float) -> int:
        """Bytes of everything with a batch of so many tokens, of which a share are answers'."""
        batch = int(tokens * (self.per_token + answers * self.per_answer_token))
        return self.weights + self.training + _RUNTIME + batch


@dataclass(frozen=True)
class Shape:
    """What of a model its memory depends on: numbers of weights, widths and layers.

    ``linear`` counts the weights of the layers' linear modules, ``widths`` the values that go into
    and out of them, ``output`` the weights of the output; it may be ``tied`` to the embedding.
    """

    parameters: int
    linear: int
    widths: int
    output: int
    tied: bool
    hidden: int
    inner: int
    layers: int
    vocabulary: int

    @classmethod
    def of(cls, model: Any) -> Shape:
        """The shape of a model, with weights or without."""
        import torch

        config, output = model.config, model.get_output_embeddings()
        in_layers = [
            module
            for module in model.modules()
            if isinstance(module, torch.nn.Linear) and module is not output
        ]
        hidden = int(config.hidden_size)
        return cls(
            parameters=sum(weight.numel() for weight in model.parameters()),
            linear=sum(module.weight.numel() for module in in_layers),
            widths=sum(module.in_features + module.out_features for module in in_layers),
            output=output.weight.numel() if output is not None else 0,
            tied=bool(getattr(config, "tie_word_embeddings", False)),
            hidden=hidden,
            inner=int(getattr(config, "intermediate_size", 4 * hidden)),
            layers=max(1, int(config.num_hidden_layers)),
            vocabulary=int(config.vocab_size),
        )

    @classmethod
    def guessed(cls, parameters: int) -> Shape:
        """The shape of a model of which only the size is known: that of a Llama in proportion."""
        # Layers of 12.1 hidden**2 weights, and a layer for each 128 of hidden width, as in 7B, 13B.
        hidden = max(1, round((128 * parameters / 12.1) ** (1 / 3)))
        layers, inner = max(1, hidden // 128), hidden * 27 // 10
        vocabulary = 32_000
        return cls(
            parameters=parameters,
            linear=max(0, parameters - 2 * vocabulary * hidden),
            widths=layers * (11 * hidden + 3 * inner),
            output=vocabulary * hidden,
            tied=False,
            hidden=hidden,
            inner=inner,
            layers=layers,
            vocabulary=vocabulary,
        )


def estimate(base: Base, options: TrainOptions, device: Device, shares: Shares) -> Estimate:
    """The memory that a process of a run takes, from the model's configuration alone."""
    shape = Shape.of(empty_model(base.folder, base.remote_code))
    trained = adapter_weights(base.adapter) if base.adapter else None
    return estimate_of(shape, options, device, shares, trained)


def estimate_of(
    shape: Shape, options: TrainOptions, device: Device, shares: Shares, trained: int | None = None
) -> Estimate:
    """The same from a shape; ``trained`` are the weights of an adapter that is gone on from."""
    width = 4 if device.dtype == "fp32" or options.method != "lora" else 2
    of_linear = {4: 0.56, 8: 1.05}.get(options.bits, 2 if device.rounds_frozen else width)
    weights = (shape.parameters - shape.linear) * width + int(shape.linear * of_linear)
    if device.rounds_frozen:
        # The output's own copy where it is tied to the embedding, which stays in 32 bits.
        weights += 2 * shape.output if shape.tied else -2 * shape.output
    if options.method == "full":
        trained = shape.parameters
    elif options.method == "freeze":
        part = min(shape.layers, abs(options.trainable_layers)) / shape.layers
        trained = int(shape.linear * part)
    elif trained is None:
        trained = options.lora_r * shape.widths
    # LoRA's own weights come on top; a gradient and two moments for each trained weight.
    own = 4 * trained if options.method == "lora" else 0
    heap = _CPU_HEAP if device.kind == "cpu" else 1
    return Estimate(
        parameters=shape.parameters,
        trained=trained,
        weights=int(weights * shares.weights),
        training=int((own + 12 * trained) * shares.training),
        per_token=int(_per_token(shape, options, device) * heap),
        per_answer_token=int(3 * 4 * shape.vocabulary * heap),
    )


def rough_memory(parameters: int, options: TrainOptions, device: Device, shares: Shares) -> int:
    """Bytes that a process of a run takes with the smallest batch, by the model's size alone."""
    guess = estimate_of(Shape.guessed(parameters), options, device, shares)
    return guess.total((options.fixed_batch or 1) * options.max_length, _USUAL_SHARE)


def adapter_weights(folder: Path) -> int:
    """How many weights the adapter in a folder has; 0 when its file cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return 0


def _per_token(shape: Shape, options: TrainOptions, device: Device) -> int:
    value = 4 if device.dtype == "fp32" else 2.5
    one_layer = (12 * shape.hidden + 4 * shape.inner) * value
    if options.grad_checkpointing:
        return int(shape.layers * shape.hidden * value + one_layer)
    return int(shape.layers * one_layer)


# ----------------------------------------------------------------------------------------- batch


@dataclass(frozen=True)
class Batch:
    """A batch on one device: so many ``examples``, or at most so many ``tokens``; and for one
    step, how many times its gradients are ``accumulated`` on how many ``processes``.
    """

    examples: int
    accumulated: int
    processes: int = 1
    tokens: int = 0

    @property
    def per_step(self) -> int:
        """Examples between two updates of the weights (of a batch by tokens: 0)."""
        return self.examples * self.accumulated * self.processes

    def largest(self, report: Report) -> int:
        """Tokens of a batch of the longest examples."""
        return max(self.tokens, report.longest) if self.tokens else self.examples * report.longest

    def __str__(self) -> str:
        what = f"at most {self.tokens:,} tokens" if self.tokens else f"{self.examples} examples"
        shown = f"{what} x {self.accumulated} accumulated"
        if self.processes > 1:
            shown += f" x {self.processes} processes"
        return shown if self.tokens else f"{shown} = {self.per_step} a step"


def choose_batch(
    guess: Estimate,
    options: TrainOptions,
    device: Device,
    report: Report,
    processes: int,
    here: int,
) -> Batch:
    """The batch for some options: as asked, or the largest that fits.

    With ``auto`` batch and accumulation together make exactly ``global_batch`` examples, whatever
    the machine. ``here`` of the ``processes`` are on this machine and share its memory. Raises
    ``UsageError`` for a number that the processes cannot share equally, and ``ModelError`` that
    names what would fit when not even one example does.
    """
    free = device.free_memory()
    if device.kind != "cuda":
        free //= here
    if options.tokens_per_batch:
        batch = Batch(0, options.grad_accum or 1, processes, options.tokens_per_batch)
    elif options.fixed_batch:
        batch = Batch(options.fixed_batch, options.grad_accum or 1, processes)
    else:
        batch = _shared_out(guess, options, device, report, processes, free)
    if guess.total(batch.largest(report), report.answers) > free:
        raise _too_large(guess, options, device, report, batch, free)
    return batch


def _shared_out(
    guess: Estimate,
    options: TrainOptions,
    device: Device,
    report: Report,
    processes: int,
    free: int,
) -> Batch:
    """The largest batch that fits among those that make ``global_batch`` exactly."""
    wanted = options.examples_per_step(processes)
    accumulated = options.grad_accum or 1
    unit = processes * accumulated
    if wanted % unit:
        below, above = wanted // unit * unit, -(-wanted // unit) * unit
        near = f"{below} or {above}" if below else f"{above}"
        by = f"{processes} processes" if processes > 1 else f"--grad-accum {accumulated}"
        raise UsageError(
            f"--global-batch {wanted} cannot be divided equally by {by}", hint=f"nearest: {near}"
        )
    share = wanted // unit
    if options.grad_accum:
        return Batch(share, accumulated, processes)

    def suits(size: int) -> bool:
        tokens = size * report.longest
        fits = guess.total(tokens, report.answers) <= 0.9 * free
        return fits and (device.kind != "cpu" or tokens <= _CPU_TOKENS)

    sizes = (size for size in range(share, 0, -1) if share % size == 0)
    size = next(filter(suits, sizes), 1)
    return Batch(size, share // size, processes)


def _too_large(
    guess: Estimate,
    options: TrainOptions,
    device: Device,
    report: Report,
    batch: Batch,
    free: int,
) -> ModelError:
    def needed(examples: int) -> int:
        return guess.total(examples * report.longest, report.answers)

    size, whole = batch.examples or 1, guess.total(batch.largest(report), report.answers)
    ways = []
    if options.method != "lora":
        ways.append("--method lora")
    elif options.bits > 4 and 0.35 * guess.weights + whole - guess.weights <= free:
        ways.append("--bits 4")
    if size > 1 and needed(1) <= free:
        fits = next(count for count in range(size, 0, -1) if needed(count) <= free)
        ways.append(f"--batch-size {fits}")
    if batch.tokens > report.longest:
        ways.append("a smaller --tokens-per-batch")
    if not options.grad_checkpointing:
        ways.append("--grad-checkpointing")
    if report.longest > 256:
        ways.append("a smaller --max-length")
    what = f"{batch.tokens:,} tokens" if batch.tokens else f"{size} examples"
    return ModelError(
        f"this run needs about {readable_size(whole)} of memory with {what} at once, "
        f"and {readable_size(free)} are free on {device.kind}",
        hint="what would help: " + (", ".join(ways) or "a smaller model"),
    )


def largest_batch(
    model: Any, collator: Any, train: EncodedDataset, most: int, device: Device
) -> int:
    """The largest batch of at most ``most`` of the longest examples for which memory is enough."""
    import torch
    from accelerate import find_executable_batch_size

    order = sorted(range(len(train)), key=lambda row: -int(train.lengths[row]))
    if device.kind == "cuda" and not getattr(model, "hf_device_map", None):
        model.to(device.kind)

    @find_executable_batch_size(  # type: ignore[untyped-decorator]
        starting_batch_size=most, reduce_batch_size_fn=None
    )
    def tried(size: int) -> int:
        given = collator([train[row] for row in order[:size]])
        given.pop("tokens")
        inputs = {
            key: value.to(device.kind) if hasattr(value, "to") else value
            for key, value in given.items()
        }
        model.train()
        with torch.autocast(device.kind, device.torch_dtype, enabled=device.dtype != "fp32"):
            loss = model(**inputs).loss
        loss.backward()
        model.zero_grad(set_to_none=True)
        return size

    return int(tried())

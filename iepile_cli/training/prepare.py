"""All that is settled before weights are loaded: what can be refused, data, device, batch."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_cli.backends.tokenizers import hf_tokenizer, open_tokenizer
from iepile_cli.backends.transformers_loading import adapter_config
from iepile_cli.config import cache_folder
from iepile_cli.errors import UsageError
from iepile_cli.formatting import readable_size
from iepile_cli.parallel import set_torch_threads
from iepile_cli.templates import Template, Tokenizer
from iepile_cli.training.arguments import check_libraries
from iepile_cli.training.batch import Batch, Estimate, choose_batch, estimate
from iepile_cli.training.dataset import EncodedDataset, check_examples, dataset_key, encode_dataset
from iepile_cli.training.device import Device, choose_device
from iepile_cli.training.distributed import check_sharding, local_processes, planned, shares
from iepile_cli.training.encoding import IGNORED, Encoder, Limits
from iepile_cli.training.gguf_export import adapter_obstacle
from iepile_cli.training.model import (
    Base,
    base_to_train,
    check_continued,
    quiet_libraries,
    tokenizer_digest,
)
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.output import CONFIG, LOG, check_output
from iepile_cli.training.packing import BatchSampler
from iepile_cli.training.reporting import Reporter
from iepile_cli.writing import refuse_overwriting


@dataclass(frozen=True)
class Prepared:
    """All that is settled before weights are loaded."""

    options: TrainOptions
    base: Base
    device: Device
    train: EncodedDataset
    held_out: EncodedDataset | None
    guess: Estimate
    batch: Batch
    gguf_obstacle: str = ""

    @functools.cached_property
    def steps(self) -> int:
        """Updates of the weights in the whole run."""
        options, batch = self.options, self.batch
        sampler = BatchSampler(
            self.train.lengths.tolist(),
            examples=batch.examples,
            tokens=batch.tokens,
            seed=options.seed,
            processes=batch.processes,
        )
        per_epoch = math.ceil(len(sampler) / batch.accumulated)
        return options.max_steps or math.ceil(per_epoch * options.epochs)

    def summary(self) -> str:
        """What will be done, for people, a fact a line."""
        options, guess, report = self.options, self.guess, self.train.report
        epochs = f" ({options.epochs:g} epochs of {len(self.train):,} examples)"
        several = f", {self.batch.processes} processes" if self.batch.processes > 1 else ""
        memory = readable_size(guess.total(self.batch.largest(report), report.answers))
        shown = [f"model      {self.base.name}, template {self.base.template.name}"]
        if options.method == "lora":
            adapter = (
                f"going on from {self.base.adapter_name}" if self.base.adapter else "a new one"
            )
            shown.append(f"adapter    {adapter}")
        shown += [
            f"device     {self.device} ({self.device.reason}){several}",
            f"training   {self._method()}: {guess.trained:,} of {guess.parameters:,} weights",
            f"batch      {self.batch}",
            f"steps      {self.steps:,}" + ("" if options.max_steps else epochs),
            f"memory     about {memory}, {readable_size(self.device.free_memory())} free",
            *(f"data       {line}" for line in report.lines()),
        ]
        if self.held_out is not None:
            shown.append(f"held out   {len(self.held_out):,} examples")
        if self.gguf_obstacle:
            shown.append(
                "warning    llama.cpp cannot open the result beside the model: "
                f"{self.gguf_obstacle}; use it with --backend transformers, or merge it: "
                "iepile export --to gguf"
            )
        return "\n".join(shown)

    def _method(self) -> str:
        options = self.options
        if options.method != "lora":
            return options.method
        rank, alpha = options.lora_r, options.alpha
        if self.base.adapter:
            config = adapter_config(self.base.adapter)
            rank, alpha = int(config.get("r", 0)), float(config.get("lora_alpha", 0))
        bits = "" if options.bits == 16 else f" on {options.bits}-bit weights"
        return f"LoRA r {rank}, alpha {alpha:g}{bits}"

    @property
    def mark(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be gone on from."""
        options = self.options
        return {
            "data": self.train.folder.name,
            "base_model": self.base.name,
            "method": options.method,
            "lora_r": options.lora_r,
            "seed": options.seed,
            "epochs": [options.epochs, options.max_steps],
            "learning_rate": options.learning_rate,
            "examples_per_step": self.batch.per_step or self.batch.tokens,
            "held_out": 0 if self.held_out is None else len(self.held_out),
        }


def check_before(options: TrainOptions, *, given: Iterable[str], reporter: Reporter) -> None:
    """Find what can be wrong, and encode the data, before several processes are started.

    Nothing here touches a GPU.
    """
    options = options.checked()
    check_output(options)
    _check_data_is_kept(options)
    base, _ = _checked_base(options, given, reporter)
    _encoded(options.data, base, options, reporter)
    if options.eval_data:
        _encoded([options.eval_data], base, options, reporter)


def prepare(options: TrainOptions, reporter: Reporter, *, given: Iterable[str] = ()) -> Prepared:
    """Find the model, encode the data, settle device and batch; nothing large is loaded."""
    _check_data_is_kept(options)
    set_torch_threads(options.threads, processes=local_processes())
    base, obstacle = _checked_base(options, given, reporter)
    device = choose_device(options)
    count, here = planned(options)
    train = _encoded(options.data, base, options, reporter)
    held_out: EncodedDataset | None = None
    if options.eval_data:
        held_out = _encoded([options.eval_data], base, options, reporter)
    elif wanted := options.held_out(len(train)):
        train, held_out = _held_out(train, wanted, options)
    guess = estimate(base, options, device, shares(options, count))
    batch = choose_batch(guess, options, device, train.report, count, here)
    return Prepared(options, base, device, train, held_out, guess, batch, obstacle)


def _check_data_is_kept(options: TrainOptions) -> None:
    """Refuse to write over the data; before the libraries are loaded, which takes seconds."""
    written = (Path(options.output, name) for name in (CONFIG, LOG))
    refuse_overwriting(written, [*options.data, options.eval_data or None])


def _checked_base(
    options: TrainOptions, given: Iterable[str], reporter: Reporter
) -> tuple[Base, str]:
    """The base model, and why its adapter cannot be written as GGUF; all that can be refused."""
    check_examples(options.data)
    if options.eval_data:
        check_examples([options.eval_data])
    # Importing them can warn, of kernels that are not for this machine for one.
    with quiet_libraries():
        check_libraries(options)
    check_sharding(options)
    base = base_to_train(options, on_note=reporter.note)
    check_continued(base, options, given)
    own = (base.path, base.folder, *base.adapters)
    refuse_overwriting([options.output], own)
    obstacle = ""
    if base.is_gguf and options.method == "lora":
        planned_adapter = {"modules_to_save": options.modules_to_save}
        obstacle = adapter_obstacle(
            base, adapter_config(base.adapter) if base.adapter else planned_adapter
        )
    if obstacle and options.eval_f1:
        raise UsageError(
            f"--eval-f1 extracts with the adapter as GGUF, and there can be none: {obstacle}",
            hint="leave it out: the held-out loss is taken all the same",
        )
    return base, obstacle


def _held_out(
    train: EncodedDataset, wanted: int, options: TrainOptions
) -> tuple[EncodedDataset, EncodedDataset | None]:
    if wanted >= len(train):
        raise UsageError(f"--val-size {wanted} leaves nothing of {len(train)} examples to train on")
    kept, out = train.split(wanted, options.seed)
    if len(out):
        return kept, out
    if options.val_size == "auto":
        return train, None
    raise UsageError(
        f"--val-size {wanted}: every text has more examples than that", hint="give a larger one"
    )


def dry_run(
    options: TrainOptions, *, given: Iterable[str] = (), reporter: Reporter | None = None
) -> tuple[Prepared, list[tuple[str, bool]]]:
    """What was settled, and the first example as runs of text with whether each is learnt."""
    prepared = prepare(options.checked(), reporter or Reporter(), given=given)
    tokenizer = hf_tokenizer(prepared.base.folder, remote_code=prepared.base.remote_code)
    example = prepared.train[0]
    learnt = [int(label) != IGNORED for label in example["labels"]]
    runs: list[tuple[str, bool]] = []
    # Whole runs are decoded at once: a character may be spread over several tokens.
    for is_learnt, run in itertools.groupby(
        zip(example["input_ids"].tolist(), learnt, strict=True), key=lambda pair: pair[1]
    ):
        runs.append((str(tokenizer.decode([token for token, _ in run])), is_learnt))
    return prepared, runs


# ------------------------------------------------------------------------------------------ data


def build_encoder(tokenizer: Tokenizer, template: Template, options: TrainOptions) -> Encoder:
    """The encoder of a base model's examples."""
    return Encoder(
        tokenizer,
        template,
        Limits.of(options),
        system=options.system,
        learns_prompt=options.train_on_prompt,
    )


def encoder_elsewhere(
    model: Path, remote_code: bool, template: Template, options: TrainOptions
) -> Encoder:
    """The same encoder, made in another process."""
    tokenizer = open_tokenizer(model, remote_code=remote_code)
    return build_encoder(tokenizer, template.bind(tokenizer), options)


def _encoded(
    files: Iterable[str], base: Base, options: TrainOptions, reporter: Reporter
) -> EncodedDataset:
    paths = [Path(file) for file in files]
    encoder = build_encoder(base.tokenizer, base.template, options)
    return encode_dataset(
        cache_folder() / "encoded",
        dataset_key(paths, encoder, tokenizer_digest(base)),
        paths,
        encoder,
        workers=options.workers,
        factory=functools.partial(
            encoder_elsewhere, base.path, base.remote_code, base.template, options
        ),
        on_example=reporter.encoding,
    )

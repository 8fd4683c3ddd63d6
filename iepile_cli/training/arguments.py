"""Options in the words of transformers' Trainer."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import UsageError, first_line
from iepile_cli.training.distributed import DEEPSPEED, processes
from iepile_cli.training.model import training_library
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.output import CHECKPOINTS

if TYPE_CHECKING:
    from iepile_cli.training.batch import Batch
    from iepile_cli.training.device import Device

# Arguments of the Trainer that an option of ours sets.
_OWN = {
    "output_dir": "--output",
    "per_device_train_batch_size": "--batch-size",
    "per_device_eval_batch_size": "--batch-size",
    "gradient_accumulation_steps": "--grad-accum",
    "num_train_epochs": "--epochs",
    "max_steps": "--max-steps",
    "learning_rate": "--learning-rate",
    "weight_decay": "--weight-decay",
    "max_grad_norm": "--max-grad-norm",
    "warmup_ratio": "--warmup",
    "warmup_steps": "--warmup",
    "gradient_checkpointing": "--grad-checkpointing",
    "activation_checkpointing": "--grad-checkpointing",
    "save_total_limit": "--keep-checkpoints",
    "resume_from_checkpoint": "--resume",
    "seed": "--seed",
    "bf16": "--dtype",
    "fp16": "--dtype",
    "use_cpu": "--device",
    "save_strategy": "--save-every",
    "save_steps": "--save-every",
    "eval_strategy": "--eval-every",
    "eval_steps": "--eval-every",
    "logging_steps": "--log-every",
    "deepspeed": "--deepspeed",
    "fsdp": "--fsdp",
    "optim": "--optim",
}
PATIENCE = "early_stopping_patience"


def training_arguments(
    options: TrainOptions,
    device: Device,
    batch: Batch,
    *,
    steps: int,
    evaluates: bool,
    sharding: dict[str, Any],
) -> Any:
    """Options in the words of transformers' Trainer; raises ``UsageError`` for what it refuses.

    ``steps`` are those of the whole run.
    """
    import transformers

    # A share of warm-up is rounded down. transformers rounds it up, and the first step of a warm-up
    # has a rate of 0: of a run of three steps one would learn nothing.
    warmup = options.warmup * steps if options.warmup < 1 else options.warmup
    extra = extra_arguments(options)
    extra.pop(PATIENCE, None)
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(Path(options.output, "runs")))
    settings: dict[str, Any] = {
        "output_dir": str(Path(options.output, CHECKPOINTS)),
        "per_device_train_batch_size": batch.examples or 1,
        "gradient_accumulation_steps": batch.accumulated,
        "num_train_epochs": options.epochs,
        "max_steps": options.max_steps or -1,
        "learning_rate": options.learning_rate,
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.max_grad_norm,
        "warmup_steps": int(warmup),
        "lr_scheduler_type": options.scheduler,
        "optim": options.optim,
        "seed": options.seed,
        "logging_steps": options.log_every or (10 if device.kind == "cuda" else 1),
        # Looking at each step's loss would wait for the device.
        "logging_nan_inf_filter": False,
        "save_total_limit": options.keep_checkpoints,
        "report_to": "none",
        "run_name": Path(options.output).resolve().name,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "log_level": "error",
        "ddp_find_unused_parameters": False,
    }
    settings |= (
        _computing(device)
        | _saving(options, evaluates)
        | _checkpointing(options)
        | sharding
        | extra
    )
    try:
        arguments = transformers.TrainingArguments(**settings)
    except (ValueError, TypeError) as error:
        raise UsageError(f"transformers refuses these options: {first_line(error)}") from None
    # Several GPUs in one process would cut a row in pieces; --nproc uses them all.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _computing(device: Device) -> dict[str, Any]:
    """Number formats, and what the kind of device decides."""
    import torch

    cuda = device.kind == "cuda"
    return {
        "bf16": device.dtype == "bf16",
        "fp16": device.dtype == "fp16",
        "tf32": True if cuda and torch.cuda.get_device_capability()[0] >= 8 else None,
        "use_cpu": device.kind == "cpu",
        "dataloader_pin_memory": cuda,
        "dataloader_num_workers": 2 if cuda else 0,
        "ddp_backend": "gloo" if device.kind == "cpu" and processes() > 1 else None,
    }


def _saving(options: TrainOptions, evaluates: bool) -> dict[str, Any]:
    """When checkpoints are saved and the model is evaluated, and which checkpoint is the best."""
    if not evaluates:
        saves = "steps" if options.save_every else "epoch"
        return {"save_strategy": saves, "save_steps": options.save_every or 500}
    # A best checkpoint can only be kept where one is saved at each evaluation; the log callback
    # saves those of --save-every beside them.
    when = "steps" if options.eval_every else "epoch"
    return {
        "save_strategy": when,
        "save_steps": options.eval_every or 500,
        "eval_strategy": when,
        "eval_steps": options.eval_every or None,
        "eval_on_start": not options.resume,
        "load_best_model_at_end": True,
        "metric_for_best_model": "f1" if options.eval_f1 else "loss",
        "greater_is_better": bool(options.eval_f1),
    }


def extra_arguments(options: TrainOptions) -> dict[str, Any]:
    """What ``--train-arg`` sets, typed; raises ``UsageError`` for a key that is not known or ours.

    Beside the Trainer's arguments there is ``early_stopping_patience``: after so many evaluations
    that bring nothing the run ends.
    """
    import transformers

    kinds = typing.get_type_hints(transformers.TrainingArguments)
    known = {item.name for item in dataclasses.fields(transformers.TrainingArguments)} | {PATIENCE}
    extra: dict[str, Any] = {}
    for text in options.train_arg:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--train-arg {text}: give KEY=VALUE")
        if key in _OWN:
            raise UsageError(f"--train-arg {key} is set by {_OWN[key]}", hint=f"use {_OWN[key]}")
        if key not in known:
            near = ", ".join(difflib.get_close_matches(key, sorted(known)))
            raise UsageError(
                f"--train-arg {key}: transformers' TrainingArguments have no {key!r}",
                hint=f"do you mean {near}?" if near else "",
            )
        try:
            extra[key] = json.loads(value)
        except ValueError:
            extra[key] = value
        kind = int if key == PATIENCE else kinds.get(key)
        if _is_number(kind) and not isinstance(extra[key], (int, float)):
            raise UsageError(f"--train-arg {text}: {value} is not a number, true or false")
    return extra


def _is_number(kind: Any) -> bool:
    """Whether a field's type takes numbers and truth values alone."""
    options = set(typing.get_args(kind)) or {kind}
    return options <= {int, float, bool, type(None)}


def _checkpointing(options: TrainOptions) -> dict[str, Any]:
    """Activation checkpointing; transformers 5 renamed it on its way."""
    if not options.grad_checkpointing:
        return {}
    import transformers

    known = {item.name for item in dataclasses.fields(transformers.TrainingArguments)}
    kind = "activation" if "activation_checkpointing" in known else "gradient"
    return {f"{kind}_checkpointing": True, f"{kind}_checkpointing_kwargs": {"use_reentrant": False}}


def check_libraries(options: TrainOptions) -> None:
    """Raise ``ModelError`` for a library that is asked for and not there, ``UsageError`` for an
    optimizer or ``--train-arg`` that is not known.
    """
    for name in ("torch", "transformers", "accelerate"):
        training_library(name)
    from transformers.training_args import OptimizerNames

    known = sorted(str(name.value) for name in OptimizerNames)
    if options.optim not in known:
        raise UsageError(f"--optim {options.optim} is not known", hint=f"one of {', '.join(known)}")
    reporters = extra_arguments(options).get("report_to") or ()
    for name in [reporters] if isinstance(reporters, str) else reporters:
        if name not in ("none", "all"):
            module = "torch.utils.tensorboard" if name == "tensorboard" else name
            training_library(module, f"pip install {name}")
    if options.deepspeed:
        training_library("deepspeed", DEEPSPEED)
    if options.bits < 16:
        training_library("bitsandbytes")

"""The options of ``iepile train``, made from the fields of ``TrainOptions``.

A default is written in ``TrainOptions`` alone; here stands what people are told of each field.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from iepile_cli.training.options import CHOICES, TrainOptions

_SHORT = {"model": "-m", "adapter": "-a", "output": "-o"}
_ENVIRONMENT = {"model": "IEPILE_MODEL", "template": "IEPILE_TEMPLATE"}
HELP: dict[str, str] = {
    "model": "Base model: a name from `iepile list models`, a path or a hub id. Default: the "
    "adapter's, else the embedded model.",
    "data": "Training lines (JSONL, also .gz or .zst), from `iepile convert`; may be repeated.",
    "output": "Folder of the result: adapter, tokenizer, log, loss curve and model card.",
    "eval_data": "Lines to evaluate on at each epoch, or as --eval-every says.",
    "val_size": "Hold out so many of the training lines instead.",
    "template": "Chat template, or auto: the model's own. Default: what fits the model.",
    "system": "A system text instead of the template's own.",
    "adapter": "Go on from this adapter; of several, all but the last are merged first.",
    "fresh_lora": "Merge every --adapter and start a new one.",
    "method": "What is trained: lora, full (all weights) or freeze (some layers).",
    "bits": "Bits of the base weights: 16, or 8 or 4 (QLoRA).",
    "quant_type": "Form of 4-bit weights: nf4 or fp4.",
    "double_quant": "Quantise the constants of 4-bit weights too.",
    "dtype": "Format of computation: auto, bf16, fp16 or fp32.",
    "device": "auto, cpu, cuda or mps.",
    "lora_r": "Rank of a new LoRA adapter.",
    "lora_alpha": "Its alpha; 0: twice the rank.",
    "lora_dropout": "Its dropout.",
    "target_modules": "Its modules, with commas; all: every linear layer.",
    "modules_to_save": "Modules trained whole beside LoRA, with commas.",
    "trainable_layers": "For --method freeze: the last N layers, or the first ones if negative.",
    "trainable_modules": "For --method freeze: parts of these layers, with commas, or all.",
    "upcast_layernorm": "Keep norms in 32 bits.",
    "epochs": "How often all examples are seen.",
    "max_steps": "Stop after so many steps, whatever --epochs says; 0: do not.",
    "learning_rate": "The highest learning rate.",
    "weight_decay": "Weight decay.",
    "max_grad_norm": "Clip gradients to this norm; 0: do not.",
    "batch_size": "Examples at once on one device, or auto: as many as fit.",
    "grad_accum": "Batches for one step; 0: what --global-batch asks for, or 1 with a fixed "
    "--batch-size.",
    "global_batch": "With --batch-size auto: examples for one step over all devices.",
    "max_length": "Longest example, prompt and answer together, in tokens.",
    "max_source": "Longest prompt in tokens; 0: what --max-length leaves.",
    "max_target": "Longest answer in tokens; 0: what fits. Examples with longer ones are left out.",
    "too_long": "What happens to longer examples: cut (the end of the text; the answer stays "
    "whole), drop, or refuse.",
    "train_on_prompt": "Learn the prompt too, not the answer alone.",
    "warmup": "Steps of warm-up; below 1: that share of all steps.",
    "scheduler": "Course of the learning rate: cosine, linear, constant, constant_with_warmup "
    "or polynomial.",
    "optim": "Optimizer, by transformers' names: adamw_torch, adamw_8bit, adafactor ...",
    "grad_checkpointing": "Compute activations again on the way back: less memory, more time.",
    "neftune": "Noise on embeddings (NEFTune's alpha); 0: none.",
    "packing": "Lay examples end to end instead of padding them.",
    "seed": "Seed of everything random.",
    "resume": "Go on from the last checkpoint in --output.",
    "overwrite": "Replace what is in --output.",
    "log_every": "Write the log every N steps.",
    "save_every": "Checkpoint every N steps; 0: every epoch.",
    "keep_checkpoints": "How many checkpoints to keep.",
    "eval_every": "Evaluate every N steps; 0: every epoch.",
    "eval_f1": "At each evaluation, extract on N held-out records and log F1; the best "
    "checkpoint by F1 becomes the result.",
    "nproc": "Processes on this machine: one for each GPU.",
    "deepspeed": "zero2, zero3, or a DeepSpeed configuration file.",
    "fsdp": "Shard the model over processes with PyTorch FSDP.",
    "workers": "Processes that tokenise large data; 0: one for each core.",
    "trust_remote_code": "Run code that comes with the model.",
    "report_to": "Also report to tensorboard or wandb, or none.",
}


def taking_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes ``**values`` an option for each field of ``TrainOptions``."""
    own = [
        parameter.replace(kind=parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    made = [_parameter(field) for field in dataclasses.fields(TrainOptions)]
    parameters = [own[0], *made, *own[1:]]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    return command


def _parameter(field: dataclasses.Field[Any]) -> inspect.Parameter:
    name, kind = field.name, str(field.type)
    flag = "--" + name.replace("_", "-")
    flags = [f"{flag}/--no-{flag[2:]}"] if kind == "bool" else [flag]
    flags += [_SHORT[name]] if name in _SHORT else []
    option = typer.Option(
        *flags,
        help=HELP[name],
        envvar=_ENVIRONMENT.get(name),
        show_default=bool(field.default) or kind == "bool" or name == "seed",
        metavar="|".join(map(str, CHOICES[name])) if name in CHOICES else None,
    )
    default: Any = field.default
    if kind.startswith("tuple"):
        annotation: Any = list[str] | None
        default = None
    else:
        types = {"str": str, "bool": bool, "int": int, "float": float, "str | None": str | None}
        annotation = types[kind]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[annotation, option],
    )


def given_values(context: typer.Context, values: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Values out of the user's configuration file, and those given by the command line."""
    by_file: dict[str, Any] = {}
    by_hand: dict[str, Any] = {}
    for name, value in values.items():
        source = context.get_parameter_source(name)
        if source is None or source.name == "DEFAULT":
            continue
        kept = tuple(value) if isinstance(value, list) else value
        (by_file if source.name == "DEFAULT_MAP" else by_hand)[name] = kept
    return by_file, by_hand

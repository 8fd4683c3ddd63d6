"""What a training run can be told: the one place where a training default is written.

The same fields are the options of ``iepile train``, the keys of a configuration file and of a
recipe, and what is written into the output folder as ``train.toml``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from iepile_cli.config import read_toml
from iepile_cli.errors import DataError, UsageError

CHOICES: dict[str, tuple[Any, ...]] = {
    "method": ("lora", "full", "freeze"),
    "bits": (4, 8, 16),
    "quant_type": ("nf4", "fp4"),
    "dtype": ("auto", "bf16", "fp16", "fp32"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "too_long": ("cut", "drop", "refuse"),
    "scheduler": ("cosine", "linear", "constant", "constant_with_warmup", "polynomial"),
    "report_to": ("none", "tensorboard", "wandb"),
}
# What they must at least be.
_LEAST: dict[str, float] = {
    "val_size": 0,
    "lora_r": 1,
    "lora_alpha": 0,
    "lora_dropout": 0,
    "trainable_layers": -1000,
    "epochs": 0,
    "max_steps": 0,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "grad_accum": 0,
    "global_batch": 1,
    "max_length": 8,
    "max_source": 0,
    "max_target": 0,
    "warmup": 0,
    "neftune": 0,
    "seed": 0,
    "log_every": 1,
    "save_every": 0,
    "keep_checkpoints": 1,
    "eval_every": 0,
    "eval_f1": 0,
    "nproc": 1,
    "workers": 0,
}


@dataclass(frozen=True)
class TrainOptions:
    """One training run.

    Empty texts and zeros mean "not asked for", or that the program decides, as the help says.
    Lengths are in tokens. ``batch_size`` counts examples on one device; with ``"auto"`` the
    largest that fits is taken and gradients are accumulated up to ``global_batch`` examples.
    """

    model: str = ""
    data: tuple[str, ...] = ()
    output: str = ""
    eval_data: str = ""
    val_size: int = 0
    template: str = ""
    system: str | None = None
    adapter: tuple[str, ...] = ()
    fresh_lora: bool = False
    method: str = "lora"
    bits: int = 16
    quant_type: str = "nf4"
    double_quant: bool = True
    dtype: str = "auto"
    device: str = "auto"
    lora_r: int = 16
    lora_alpha: float = 0
    lora_dropout: float = 0.05
    target_modules: str = "all"
    modules_to_save: str = ""
    trainable_layers: int = 3
    trainable_modules: str = "mlp"
    upcast_layernorm: bool = False
    epochs: float = 3
    max_steps: int = 0
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    batch_size: str = "auto"
    grad_accum: int = 0
    global_batch: int = 32
    max_length: int = 1024
    max_source: int = 0
    max_target: int = 0
    too_long: str = "cut"
    train_on_prompt: bool = False
    warmup: float = 0.03
    scheduler: str = "cosine"
    optim: str = "adamw_torch"
    grad_checkpointing: bool = False
    neftune: float = 0
    packing: bool = True
    seed: int = 42
    resume: bool = False
    overwrite: bool = False
    log_every: int = 1
    save_every: int = 0
    keep_checkpoints: int = 2
    eval_every: int = 0
    eval_f1: int = 0
    nproc: int = 1
    deepspeed: str = ""
    fsdp: bool = False
    workers: int = 0
    trust_remote_code: bool = False
    report_to: str = "none"

    @property
    def alpha(self) -> float:
        """LoRA's alpha: twice the rank unless it is given."""
        return self.lora_alpha or 2 * self.lora_r

    @property
    def fixed_batch(self) -> int:
        """Examples in a batch on one device; 0 when the program is to find out."""
        return 0 if self.batch_size == "auto" else int(self.batch_size)

    def checked(self) -> TrainOptions:
        """The options themselves; raises ``UsageError`` for a value or pair that cannot be."""
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{flag(name)} {getattr(self, name)} is not known",
                    hint=f"one of {', '.join(map(str, known))}",
                )
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UsageError(f"{flag(name)} must be at least {least:g}")
        _check_batch(self.batch_size)
        _check_pairs(self)
        return self


def _check_batch(size: str) -> None:
    if size != "auto" and not (size.isascii() and size.isdecimal() and int(size) > 0):
        raise UsageError(f"--batch-size {size} is not a number of examples", hint="or 'auto'")


def _check_pairs(options: TrainOptions) -> None:
    if not options.data:
        raise UsageError("no training data", hint="give --data FILE.jsonl (from iepile convert)")
    if not options.output:
        raise UsageError("no folder to write to", hint="give -o FOLDER")
    if not options.epochs and not options.max_steps:
        raise UsageError("--epochs 0 trains nothing", hint="give --epochs or --max-steps")
    if options.eval_data and options.val_size:
        raise UsageError("--eval-data and --val-size cannot be used together")
    if options.eval_f1 and not (options.eval_data or options.val_size):
        raise UsageError("--eval-f1 needs held-out records", hint="give --eval-data or --val-size")
    if options.lora_dropout >= 1:
        raise UsageError("--lora-dropout must be below 1")
    if options.method != "lora" and options.bits < 16:
        raise UsageError(
            f"--method {options.method} trains the weights themselves, which --bits "
            f"{options.bits} freezes",
            hint="use --method lora, or --bits 16",
        )
    if options.method != "lora" and options.adapter and not options.fresh_lora:
        raise UsageError(
            f"--method {options.method} does not go on from an adapter",
            hint="merge it first: iepile export --to merged",
        )
    if options.deepspeed and options.fsdp:
        raise UsageError("--deepspeed and --fsdp cannot be used together")
    if options.deepspeed == "zero3" and options.bits < 16:
        raise UsageError("ZeRO-3 cannot shard 4-bit or 8-bit weights", hint="use --deepspeed zero2")


def flag(name: str) -> str:
    """The command line's name of a field."""
    return "--" + name.replace("_", "-")


# ------------------------------------------------------------------------------- TOML and tables


def read_table(path: Path) -> dict[str, Any]:
    """Read a configuration or recipe file as fields of ``TrainOptions``.

    Keys are option names, ``-`` or ``_`` alike. Raises ``DataError`` that names the file.
    """
    try:
        return typed(read_toml(path))
    except UsageError as error:
        raise DataError(error.message, path=path, hint=error.hint) from None


def typed(table: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``TrainOptions`` from a table; raises ``UsageError`` for what is not one."""
    kinds = {item.name: str(item.type) for item in fields(TrainOptions)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in kinds:
            raise UsageError(f"no training option is called {key!r}", hint="see iepile train -h")
        values[name] = _value(name, value, kinds[name])
    return values


def _value(name: str, value: Any, kind: str) -> Any:
    if kind.startswith("tuple"):
        if isinstance(value, str):
            return (value,)
        if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
            return tuple(value)
    elif kind == "bool":
        if isinstance(value, bool):
            return value
    elif kind in ("int", "float"):
        if isinstance(value, int if kind == "int" else (int, float)) and value is not True:
            return value
    elif isinstance(value, str) or (name == "batch_size" and type(value) is int):
        return str(value)
    raise UsageError(f"{name}: {kind} is expected, not {value!r}")


def options_from(*tables: Mapping[str, Any]) -> TrainOptions:
    """Options from tables of fields, later ones over earlier ones."""
    options = TrainOptions()
    for table in tables:
        options = replace(options, **typed(table))
    return options


def as_toml(options: TrainOptions) -> str:
    """The options as a configuration file that ``--config`` reads back."""
    lines = ["# The configuration of this run: iepile train --config train.toml -o FOLDER"]
    for name, value in asdict(options).items():
        if value is None or (isinstance(value, tuple) and not value):
            continue
        shown = list(value) if isinstance(value, tuple) else value
        # TOML's strings, numbers, booleans and lists of strings are written as in JSON.
        lines.append(f"{name} = {json.dumps(shown, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"

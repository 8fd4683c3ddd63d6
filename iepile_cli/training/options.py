"""What a training run and an export can be told: the one place where their defaults are written.

The same fields are the options of ``iepile train``, the keys of a configuration file and of a
recipe, and what is written into the output folder as ``train.toml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from iepile_cli.errors import UsageError
from iepile_cli.fields import check_fields, option

_DEFAULT_GLOBAL_BATCH = 32
_DEVICE, _MODEL, _DATA = "Device and processes", "Model and adapter", "Data"
_STEPS, _BATCH, _RESULT = "Optimisation", "Batches", "Result and evaluation"
_BASE_MODEL: dict[str, Any] = {
    "help": "Base model: a name from `iepile list models`, a path or a hub id. Default: the "
    "adapter's, else the embedded model.",
    "flags": ("-m",),
    "env": "IEPILE_MODEL",
    "completes": "model",
}


@dataclass(frozen=True)
class TrainOptions:
    """One training run.

    Empty texts and zeros mean that nothing is asked for, or that the program decides, as the help
    says. Lengths are in tokens. ``batch_size`` counts examples on one device; with ``"auto"`` the
    largest that fits is taken and gradients are accumulated up to ``global_batch`` examples.
    """

    model: str = option("", group=_MODEL, **_BASE_MODEL)
    data: tuple[str, ...] = option(
        (),
        help="Training lines (JSONL, also compressed), from `iepile convert`; may be repeated.",
        group=_DATA,
    )
    output: str = option(
        "",
        help="Folder of the result: adapter, tokenizer, log, loss curve and model card.",
        group=_RESULT,
        flags=("-o",),
    )
    eval_data: str = option(
        "", help="Lines to evaluate on at each epoch, or as --eval-every says.", group=_RESULT
    )
    val_size: str = option(
        "auto",
        help="Hold out so many training lines for evaluation; auto: a tenth of 20 to 5,000 lines.",
        group=_RESULT,
    )
    template: str = option(
        "",
        help="Chat template, or auto: the model's own. Default: what fits the model.",
        group=_MODEL,
        env="IEPILE_TEMPLATE",
        completes="template",
    )
    system: str | None = option(
        None, help="A system text instead of the template's own.", group=_MODEL
    )
    adapter: str = option(
        "",
        help="Go on from this adapter. Default without --model: the one that comes with the "
        "embedded model; none: start a new one.",
        group=_MODEL,
        flags=("-a",),
        completes="adapter",
    )
    method: Literal["lora", "full", "freeze"] = option(
        "lora", help="What is trained: lora, full (all weights) or freeze (some layers)."
    )
    bits: Literal[4, 8, 16] = option(
        16, help="Bits of the base weights: 16, or 8 or 4 (QLoRA).", group=_MODEL
    )
    quant_type: Literal["nf4", "fp4"] = option(
        "nf4", help="Form of 4-bit weights: nf4 or fp4.", group=_MODEL
    )
    double_quant: bool = option(
        True, help="Quantise the constants of 4-bit weights too.", group=_MODEL
    )
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto",
        help="Number format of computation; auto: the fastest that learns as well. fp32: frozen "
        "weights too.",
        group=_DEVICE,
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto", help="Device to train on.", group=_DEVICE
    )
    threads: int = option(
        0, help="Processor threads of a CPU run; 0: one for each core.", group=_DEVICE, least=0
    )
    lora_r: int = option(16, help="Rank of a new LoRA adapter.", group="LoRA", least=1)
    lora_alpha: float = option(0, help="Its alpha; 0: twice the rank.", group="LoRA", least=0)
    lora_dropout: float = option(0.05, help="Its dropout.", group="LoRA", least=0)
    target_modules: str = option(
        "all", help="Its modules, with commas; all: every linear layer.", group="LoRA"
    )
    modules_to_save: str = option(
        "", help="Modules trained whole beside LoRA, with commas.", group="LoRA"
    )
    trainable_layers: int = option(
        3, help="For --method freeze: the last N layers, or the first ones if negative."
    )
    trainable_modules: str = option(
        "mlp", help="For --method freeze: parts of these layers, with commas, or all."
    )
    upcast_layernorm: bool = option(False, help="Keep norms in 32 bits.", group=_MODEL)
    epochs: float = option(3, help="How often all examples are seen.", group=_STEPS, least=0)
    max_steps: int = option(
        0,
        help="Stop after so many steps, whatever --epochs says; 0: do not.",
        group=_STEPS,
        least=0,
    )
    learning_rate: float = option(2e-4, help="The highest learning rate.", group=_STEPS, least=0)
    weight_decay: float = option(0.0, help="Weight decay.", group=_STEPS, least=0)
    max_grad_norm: float = option(
        1.0, help="Clip gradients to this norm; 0: do not.", group=_STEPS, least=0
    )
    batch_size: str = option(
        "auto", help="Examples at once on one device, or auto: as many as fit.", group=_BATCH
    )
    grad_accum: int = option(
        0,
        help="Batches for one step; 0: what --global-batch needs, or 1 with a fixed --batch-size.",
        group=_BATCH,
        least=0,
    )
    global_batch: int = option(
        0,
        help="With --batch-size auto: examples for one step over all devices; 0: 32, or what "
        "the processes can share equally.",
        group=_BATCH,
        least=0,
    )
    tokens_per_batch: int = option(
        0,
        help="Make batches of at most so many tokens on one device, of examples of about the "
        "same length; 0: count examples.",
        group=_BATCH,
        least=0,
    )
    max_length: int = option(
        1024, help="Longest example, prompt and answer together, in tokens.", group=_DATA, least=8
    )
    max_source: int = option(
        0, help="Longest prompt in tokens; 0: what --max-length leaves.", group=_DATA, least=0
    )
    max_target: int = option(
        0, help="Longest answer in tokens; 0: what fits.", group=_DATA, least=0
    )
    too_long: Literal["split", "drop", "refuse"] = option(
        "split",
        help="What happens to longer examples: split (their text into passages, each with the "
        "answers found in it), drop, or refuse.",
        group=_DATA,
    )
    train_on_prompt: bool = option(
        False, help="Learn the prompt too, not the answer alone.", group=_DATA
    )
    warmup: float = option(
        0.03, help="Steps of warm-up; below 1: that share of all steps.", group=_STEPS, least=0
    )
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup", "polynomial"] = (
        option("cosine", help="Learning-rate schedule.", group=_STEPS)
    )
    optim: str = option(
        "adamw_torch_fused",
        help="Optimizer, by transformers' names: adamw_torch_fused, adamw_8bit, adafactor ...",
        group=_STEPS,
    )
    grad_checkpointing: bool = option(
        False, help="Compute activations again in the backward pass: less memory, more time."
    )
    packing: bool = option(
        True, help="Pack the examples of a batch into one row instead of padding.", group=_BATCH
    )
    attn_implementation: str = option(
        "",
        help="Attention by transformers' names, such as flash_attention_2 or sdpa. Default: "
        "packed attention.",
        group=_MODEL,
    )
    seed: int = option(42, help="Seed of everything random.", least=0, show_default=True)
    resume: bool = option(False, help="Go on from the last checkpoint in --output.", group=_RESULT)
    overwrite: bool = option(False, help="Replace what is in --output.", group=_RESULT)
    log_every: int = option(
        0, help="Write the log every N steps; 0: 1, on a GPU 10.", group=_RESULT, least=0
    )
    save_every: int = option(
        0, help="Save a checkpoint every N steps too; 0: at each epoch or evaluation.",
        group=_RESULT, least=0,
    )  # fmt: skip
    keep_checkpoints: int = option(2, help="How many checkpoints to keep.", group=_RESULT, least=1)
    eval_every: int = option(
        0, help="Evaluate every N steps; 0: every epoch.", group=_RESULT, least=0
    )
    eval_f1: int = option(
        0,
        help="At each evaluation, extract on N held-out records and log F1; the best checkpoint "
        "by F1 becomes the result.",
        group=_RESULT,
        least=0,
    )
    nproc: int = option(
        1, help="Processes on this machine: one for each GPU.", group=_DEVICE, least=1
    )
    deepspeed: str = option(
        "", help="zero2, zero3, or a DeepSpeed configuration file.", group=_DEVICE
    )
    fsdp: bool = option(
        False, help="Shard the model over processes with PyTorch FSDP.", group=_DEVICE
    )
    workers: int = option(
        0, help="Processes that tokenise large data; 0: one for each core.", group=_DATA, least=0
    )
    trust_remote_code: bool = option(
        False, help="Run code that comes with the model.", group=_MODEL
    )
    train_arg: tuple[str, ...] = option(
        (),
        help="KEY=VALUE for transformers' TrainingArguments, such as report_to=wandb or "
        "lr_scheduler_type=cosine_with_restarts; may be repeated.",
        group=_STEPS,
        metavar="KEY=VALUE",
    )

    @property
    def alpha(self) -> float:
        """LoRA's alpha: twice the rank unless it is given."""
        return self.lora_alpha or 2 * self.lora_r

    @property
    def fixed_batch(self) -> int:
        """Examples in a batch on one device; 0 when the program is to find out."""
        return 0 if self.batch_size == "auto" else int(self.batch_size)

    def examples_per_step(self, processes: int) -> int:
        """``global_batch``, or the multiple of ``processes`` nearest to the usual one."""
        usual = max(1, round(_DEFAULT_GLOBAL_BATCH / processes)) * processes
        return self.global_batch or usual

    def held_out(self, examples: int) -> int:
        """How many of so many examples are held out for evaluation."""
        if self.eval_data:
            return 0
        if self.val_size != "auto":
            return int(self.val_size)
        return min(100, max(4, examples // 10)) if 20 <= examples <= 5000 else 0

    def checked(self) -> TrainOptions:
        """The options themselves; raises ``UsageError`` for a value or pair that cannot be."""
        check_fields(self)
        _check_number(self, "batch_size", least=1)
        _check_number(self, "val_size", least=0)
        _check_pairs(self)
        return self


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, to which form and where; ``quantise`` is a type of llama.cpp's."""

    to: Literal["merged", "gguf-adapter", "gguf", "ollama"] = option(help="What to make.")
    output: str = option(help="Where to write it.", flags=("-o",))
    model: str = option("", **_BASE_MODEL)
    adapter: tuple[str, ...] = option(
        (),
        help="An adapter to export, or to merge; may be repeated.",
        flags=("-a",),
        completes="adapter",
    )
    quantise: str = option(
        "f16",
        help="Type of the weights of a GGUF model: f16, q8_0, f32, or one of llama.cpp's, such "
        "as q4_k_m.",
        flags=("--quantise", "--quantize"),
    )
    template: str = option(
        "",
        help="Chat template. Default: what the adapter records, else what fits the model.",
        env="IEPILE_TEMPLATE",
        completes="template",
    )
    overwrite: bool = option(False, help="Replace what is at --output.")
    trust_remote_code: bool = option(False, help="Run code that comes with the model.")


def _check_number(options: TrainOptions, name: str, *, least: int) -> None:
    value: str = getattr(options, name)
    if value != "auto" and not (value.isascii() and value.isdecimal() and int(value) >= least):
        raise UsageError(f"{flag(name)} {value} is not a number of examples", hint="or 'auto'")


def _check_pairs(options: TrainOptions) -> None:
    if not options.data:
        raise UsageError("no training data", hint="give --data FILE.jsonl (from iepile convert)")
    if not options.output:
        raise UsageError("no folder to write to", hint="give -o FOLDER")
    if not options.epochs and not options.max_steps:
        raise UsageError("--epochs 0 trains nothing", hint="give --epochs or --max-steps")
    if options.eval_data and options.val_size not in ("auto", "0"):
        raise UsageError("--eval-data and --val-size cannot be used together")
    if options.eval_f1 and not options.eval_data and options.val_size == "0":
        raise UsageError("--eval-f1 needs held-out records", hint="give --eval-data or --val-size")
    if options.lora_dropout >= 1:
        raise UsageError("--lora-dropout must be below 1")
    if options.tokens_per_batch and (options.fixed_batch or options.global_batch):
        raise UsageError(
            "--tokens-per-batch cannot be used with --batch-size or --global-batch",
            hint="--grad-accum sets how many batches make a step",
        )
    _check_method(options)
    _check_sharding(options)


def _check_method(options: TrainOptions) -> None:
    if options.method == "lora":
        return
    if options.bits < 16:
        raise UsageError(
            f"--method {options.method} trains the weights themselves, which --bits "
            f"{options.bits} freezes",
            hint="use --method lora, or --bits 16",
        )
    if options.adapter not in ("", "none"):
        raise UsageError(
            f"--method {options.method} does not go on from an adapter",
            hint="merge it first: iepile export --to merged",
        )


def _check_sharding(options: TrainOptions) -> None:
    if options.deepspeed and options.fsdp:
        raise UsageError("--deepspeed and --fsdp cannot be used together")
    if options.fsdp and options.bits < 16:
        raise UsageError(
            "--fsdp cannot shard 4-bit or 8-bit weights", hint="use --deepspeed zero2, or --bits 16"
        )
    if options.deepspeed == "zero3":
        check_zero3(options)


def check_zero3(options: TrainOptions) -> None:
    """Raise ``UsageError`` for what cannot be done with weights that ZeRO-3 shards."""
    if options.bits < 16:
        raise UsageError("ZeRO-3 cannot shard 4-bit or 8-bit weights", hint="use --deepspeed zero2")
    if options.eval_f1:
        raise UsageError(
            "--eval-f1 cannot be used with ZeRO-3, which writes no whole model while it trains",
            hint="use --deepspeed zero2, or leave --eval-f1 out",
        )


def flag(name: str) -> str:
    """The command line's name of a field."""
    return "--" + name.replace("_", "-")

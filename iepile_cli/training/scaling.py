"""More than one process: torchrun, DeepSpeed and FSDP, as their libraries provide them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from iepile_cli.errors import DataError, UsageError
from iepile_cli.training.base import training_library
from iepile_cli.training.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

_STAGES = {"zero2": 2, "zero3": 3}
DEEPSPEED = "pip install deepspeed"


def processes() -> int:
    """How many processes this run has, as torchrun told this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_processes() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def launched() -> bool:
    """Whether this is one of the processes that torchrun or ``--nproc`` started."""
    return "WORLD_SIZE" in os.environ


def planned(options: TrainOptions) -> tuple[int, int]:
    """How many processes a run has, and how many of them on this machine.

    Before they are started, those that will be.
    """
    if launched():
        return processes(), local_processes()
    return options.nproc, options.nproc


def own_gpu() -> int:
    """The number of the GPU that is this process's own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


class Shares(NamedTuple):
    """What part of the base weights, and of gradients and optimizer, one process holds."""

    weights: float = 1.0
    training: float = 1.0


def shares(options: TrainOptions, count: int) -> Shares:
    """What one of ``count`` processes holds of the model."""
    if options.fsdp:
        return Shares(1 / count, 1 / count)
    if not options.deepspeed:
        return Shares()
    zero = deepspeed_config(options).get("zero_optimization") or {}
    stage = int(zero.get("stage", 0))
    training = 0.0 if _offloaded(zero, "offload_optimizer") else 1 / count if stage else 1.0
    weights = 0.0 if _offloaded(zero, "offload_param") else 1 / count
    return Shares(weights if stage == 3 else 1.0, training)


def _offloaded(zero: dict[str, Any], what: str) -> bool:
    return bool((zero.get(what) or {}).get("device", "none") != "none")


def scaling_arguments(options: TrainOptions, layers: Iterable[str]) -> dict[str, Any]:
    """Trainer's arguments for DeepSpeed or FSDP; none for a plain run.

    ``layers`` names the classes of the model's layers. Raises ``UsageError`` where more processes
    are needed or a file is not there, and ``ModelError`` without DeepSpeed.
    """
    if options.deepspeed:
        config = deepspeed_config(options)
        training_library("deepspeed", DEEPSPEED)
        return {"deepspeed": config}
    if options.fsdp:
        if processes() == 1:
            raise UsageError(
                "--fsdp shards over several processes, and this is one", hint="add --nproc N"
            )
        settings: dict[str, Any] = {"version": 2, "reshard_after_forward": True}
        if wrapped := sorted(layers):
            settings |= {
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "transformer_layer_cls_to_wrap": wrapped,
            }
        return {"fsdp": True, "fsdp_config": settings}
    return {}


def join_deepspeed() -> None:
    """Tell DeepSpeed of the processes, after Trainer's arguments and before weights are loaded.

    On a CPU nobody else does, and it would take itself for the only one.
    """
    import torch

    deepspeed = training_library("deepspeed", DEEPSPEED)
    if torch.distributed.is_initialized() and not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(torch.distributed.get_backend(), verbose=False)


def deepspeed_config(options: TrainOptions) -> dict[str, Any]:
    """DeepSpeed's configuration: for ``zero2`` or ``zero3``, or out of a file of the user's."""
    if options.deepspeed in _STAGES:
        return zero_config(_STAGES[options.deepspeed])
    path = Path(options.deepspeed)
    if not path.is_file():
        raise UsageError(f"--deepspeed {path}: no such file", hint="or zero2, or zero3")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise DataError(f"not a DeepSpeed configuration: {error}", path=path) from None
    zero = config.get("zero_optimization") or {}
    if zero.get("stage") == 3:
        # Without it the result would be pieces that only DeepSpeed can join.
        zero.setdefault("stage3_gather_16bit_weights_on_model_save", True)
    return config


def zero_config(stage: int) -> dict[str, Any]:
    """A ZeRO configuration whose sizes the Trainer fills in."""
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto",
    }
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }

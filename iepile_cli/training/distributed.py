"""More than one process: torch.distributed.run, DeepSpeed and FSDP, as their libraries have them.

Of a run's processes the first one speaks for all. What the others say is kept aside and shown only
when one of them ends the run and the first has not said why.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from iepile_cli.errors import DataError, IEPileError, ModelError, UsageError
from iepile_cli.parallel import physical_cores
from iepile_cli.training.options import TrainOptions, check_zero3, flag
from iepile_cli.training.recipes import as_toml

INTERRUPTED = 130
# A step may be long; the processes finish it and write a checkpoint before they end.
_PATIENCE = "600"
# Compared with an adapter's own settings, so they must stay the user's own words.
_COMPARED = ("lora_r", "lora_alpha", "target_modules")
_STAGES = {"zero2": 2, "zero3": 3}
DEEPSPEED = "pip install deepspeed"


class LostProcess(IEPileError):
    """Another process of the run has ended, and so this one must."""

    # Told apart by the process that started both.
    exit_code = 69


class WorkersFailed(IEPileError):
    """A process of the run ended it; the first process has not said why."""


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


# --------------------------------------------------------------------------------------- sharding


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


def check_sharding(options: TrainOptions) -> None:
    """Raise ``UsageError`` or ``DataError`` for sharding that cannot be; before anything is loaded.

    A DeepSpeed file is read for it.
    """
    if options.deepspeed:
        deepspeed_config(options)
    if options.fsdp and planned(options)[0] == 1:
        raise UsageError(
            "--fsdp shards over several processes, and this is one", hint="add --nproc N"
        )


def sharding_arguments(options: TrainOptions, layers: Iterable[str]) -> dict[str, Any]:
    """Trainer's arguments for DeepSpeed or FSDP; none for a plain run.

    ``layers`` names the classes of the model's layers.
    """
    if options.deepspeed:
        return {"deepspeed": deepspeed_config(options)}
    if options.fsdp:
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
    import deepspeed
    import torch

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
        check_zero3(options)
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


# ---------------------------------------------------------------------------------------- --nproc


def launch(options: TrainOptions, *, given: Iterable[str] = (), quiet: bool = False) -> int:
    """Run a training in ``options.nproc`` processes by torch.distributed.run; gives the exit code.

    ``given`` names the options that the user set. Raises ``WorkersFailed`` for a process that
    was killed or failed alone.
    """
    try:
        from torch.distributed import run
    except ImportError as error:
        raise ModelError(f"training needs torch: {error}") from None
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _PATIENCE)
    # torchrun sets one thread a process unless it is told otherwise.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, physical_cores() // options.nproc)))
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.run")):
            # It warns of processes that we asked to end.
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="iepile-") as folder:
        config = Path(folder, "train.toml")
        config.write_text(as_toml(replace(options, nproc=1)), encoding="utf-8")
        aside = ",".join(f"{rank}:3" for rank in range(1, options.nproc)) or "0"
        words = ["--standalone", f"--nproc-per-node={options.nproc}", f"--log-dir={folder}"]
        words += [f"--redirects={aside}", "-m", "iepile_cli", *(["--quiet"] if quiet else [])]
        words += ["train", "--config", str(config)]
        for name in set(given).intersection(_COMPARED):
            words += [flag(name), str(getattr(options, name))]
        try:
            run.run(run.parse_args(words))
        except SignalException:
            return INTERRUPTED
        except ChildFailedError as error:
            return _exit_code(error.failures, Path(folder))
    return 0


def _exit_code(failures: Mapping[int, Any], folder: Path) -> int:
    """The exit code of a failed run; raises where the first process cannot have said why."""
    first = failures.get(0)
    if first is not None and first.exitcode > 0 and first.exitcode != LostProcess.exit_code:
        return int(first.exitcode)
    others = {rank: one for rank, one in failures.items() if rank} or failures
    rank, failure = min(others.items(), key=lambda pair: pair[1].timestamp)
    if failure.exitcode < 0:
        raise WorkersFailed(
            f"process {rank} was ended by signal {-failure.exitcode}",
            hint="signal 9 is often memory that ran out: try a smaller --batch-size",
        )
    shown = [
        line.strip()
        for path in sorted(folder.glob(f"**/{rank}/stderr.log"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    last = shown[-1].removeprefix("iepile: ") if shown else f"exit code {failure.exitcode}"
    error = WorkersFailed(f"process {rank}: {last}")
    error.exit_code = min(int(failure.exitcode), 3)
    raise error

"""More than one process: torchrun, DeepSpeed and FSDP, as their libraries provide them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from iepile_cli.errors import IEPileError, UsageError
from iepile_cli.training.base import training_library
from iepile_cli.training.options import TrainOptions, as_toml


def processes() -> int:
    """How many processes this run has, as torchrun told this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def scaling_arguments(options: TrainOptions, model: Any) -> dict[str, Any]:
    """Trainer's arguments for DeepSpeed or FSDP; none for a plain run.

    Raises ``UsageError`` where they need more processes or a file that is not there.
    """
    if options.deepspeed:
        return {"deepspeed": deepspeed_config(options)}
    if options.fsdp:
        if processes() == 1:
            raise UsageError(
                "--fsdp shards over several processes, and this is one", hint="add --nproc N"
            )
        layers = sorted(getattr(model, "_no_split_modules", None) or ())
        config: dict[str, Any] = {"version": 2, "reshard_after_forward": True}
        if layers:
            config |= {
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "transformer_layer_cls_to_wrap": layers,
            }
        return {"fsdp": True, "fsdp_config": config}
    return {}


def deepspeed_config(options: TrainOptions) -> dict[str, Any] | str:
    """DeepSpeed's configuration: ``zero2``, ``zero3``, or a file of the user's."""
    stages = {"zero2": 2, "zero3": 3}
    if options.deepspeed not in stages:
        if not Path(options.deepspeed).is_file():
            raise UsageError(
                f"--deepspeed {options.deepspeed}: no such file", hint="or zero2, or zero3"
            )
        training_library("deepspeed")
        return options.deepspeed
    training_library("deepspeed")
    return zero_config(stages[options.deepspeed])


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


class WorkersFailed(IEPileError):
    """A process of the run failed; it has said why itself."""


def launch(options: TrainOptions, *, quiet: bool = False) -> None:
    """Run the same training in ``options.nproc`` processes of this machine, by torchrun.

    Raises ``WorkersFailed`` with the processes' exit code.
    """
    training_library("torch")
    with tempfile.TemporaryDirectory(prefix="iepile-") as folder:
        config = Path(folder, "train.toml")
        config.write_text(as_toml(replace(options, nproc=1)), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(options.nproc)),
            *("-m", "iepile_cli", *(["--quiet"] if quiet else []), "train"),
            *("--config", str(config)),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(_threads(options.nproc))}
        code = _wait(subprocess.Popen(command, env=environment))
    if code:
        error = WorkersFailed(f"the run failed (exit code {code})", hint="see the lines above")
        error.exit_code = code if 0 < code < 128 else 1
        raise error


def _threads(count: int) -> int:
    return max(1, (os.cpu_count() or 1) // count)


def _wait(running: subprocess.Popen[bytes]) -> int:
    """Wait for the processes; Ctrl-C reaches them too, so that they write their checkpoint."""
    while True:
        try:
            return running.wait()
        except KeyboardInterrupt:
            continue

"""More than one process: the same losses as one, at the same number of examples a step."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from training.runs import run

from iepile_cli.errors import ModelError, UsageError
from iepile_cli.training.options import TrainOptions, as_toml
from iepile_cli.training.scaling import deepspeed_config, zero_config

replace = dataclasses.replace


def launched(options: TrainOptions, folder: Path, *flags: str) -> dict[int, float]:
    """The losses of ``iepile train`` in another process."""
    config = folder / "options.toml"
    config.write_text(as_toml(options), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "iepile_cli", "train", "--config", str(config), *flags],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    log = Path(options.output, "train_log.jsonl").read_text(encoding="utf-8")
    records = [json.loads(row) for row in log.splitlines()]
    return {record["step"]: record["loss"] for record in records if "loss" in record}


def test_two_processes_have_the_losses_of_one(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, lora_dropout=0, epochs=1, optim="sgd", learning_rate=1.0)
    _, one = run(replace(options, output=str(tmp_path / "one"), batch_size="4", grad_accum=2))
    two = launched(options, tmp_path, "--nproc", "2")
    assert two == pytest.approx(one.losses, rel=1e-4)
    assert (Path(options.output) / "adapter_config.json").is_file()


@pytest.mark.slow
def test_sharded_weights_have_the_same_losses(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, lora_dropout=0, epochs=1, optim="sgd", learning_rate=1.0)
    _, one = run(replace(options, output=str(tmp_path / "one"), batch_size="4", grad_accum=2))
    two = launched(options, tmp_path, "--nproc", "2", "--fsdp")
    assert two == pytest.approx(one.losses, rel=1e-4)
    assert (Path(options.output) / "adapter_model.safetensors").is_file()


def test_fsdp_needs_processes(options: TrainOptions) -> None:
    with pytest.raises(UsageError, match="several processes"):
        run(replace(options, fsdp=True))


def test_zero_configurations_leave_sizes_to_the_trainer(options: TrainOptions) -> None:
    assert zero_config(2)["zero_optimization"]["stage"] == 2
    third = zero_config(3)
    assert third["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    assert third["train_micro_batch_size_per_gpu"] == "auto"
    with pytest.raises(UsageError, match="no such file"):
        deepspeed_config(replace(options, deepspeed="there-is-none.json"))


def test_a_missing_deepspeed_is_a_line(options: TrainOptions) -> None:
    try:
        import deepspeed  # noqa: F401
    except ImportError:
        with pytest.raises(ModelError, match="training needs deepspeed"):
            deepspeed_config(replace(options, deepspeed="zero2"))

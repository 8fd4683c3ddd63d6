"""More than one process: the same losses as one, at the same number of examples a step."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from training.runs import run

from iepile_cli.errors import DataError, ModelError, UsageError
from iepile_cli.training import output
from iepile_cli.training.distributed import Shares, deepspeed_config, shares, zero_config
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.prepare import dry_run
from iepile_cli.training.recipes import as_toml, options_from, read_table

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
    # The log counts the tokens of both.
    last = Path(options.output, "train_log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["tokens"] == one.records[-1]["tokens"]


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


def test_a_deepspeed_file_of_ones_own_is_read(options: TrainOptions, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    mine = replace(options, deepspeed=str(file))
    file.write_text('{"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}')
    zero = deepspeed_config(mine)["zero_optimization"]
    assert zero["stage3_gather_16bit_weights_on_model_save"] is True
    assert shares(mine, 4) == Shares(0.25, 0)
    for broken in ("{", "[1]"):
        file.write_text(broken)
        with pytest.raises(DataError, match="not a DeepSpeed configuration") as caught:
            deepspeed_config(mine)
        assert str(file) in str(caught.value)


def test_a_missing_deepspeed_is_a_line(options: TrainOptions) -> None:
    if importlib.util.find_spec("deepspeed"):
        pytest.skip("it is there")
    with pytest.raises(ModelError, match="training needs deepspeed") as caught:
        run(replace(options, deepspeed="zero2"))
    assert caught.value.hint == "pip install deepspeed"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_deepspeed_has_the_losses_of_one(
    options: TrainOptions, tmp_path: Path, stage: str, method: str
) -> None:
    pytest.importorskip("deepspeed")
    options = replace(options, lora_dropout=0, method=method, max_steps=4, learning_rate=1e-3)
    _, one = run(replace(options, output=str(tmp_path / "one"), batch_size="4", grad_accum=2))
    two = launched(options, tmp_path, "--nproc", "2", "--deepspeed", stage)
    assert two == pytest.approx(one.losses, rel=1e-3)
    name = "adapter_model" if method == "lora" else "model"
    made = [load_file(tmp_path / at / f"{name}.safetensors") for at in ("one", "out")]
    assert {key: rows.shape for key, rows in made[0].items()} == {
        key: rows.shape for key, rows in made[1].items()
    }


def test_what_a_process_holds_of_sharded_weights() -> None:
    options = TrainOptions()
    assert shares(options, 8) == Shares(1, 1)
    assert shares(replace(options, deepspeed="zero2"), 8) == Shares(1, 1 / 8)
    assert shares(replace(options, deepspeed="zero3"), 8) == Shares(1 / 8, 1 / 8)
    assert shares(replace(options, fsdp=True), 4) == Shares(1 / 4, 1 / 4)


def test_all_weights_of_a_13b_model_fit_on_eight_gpus_when_sharded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaConfig

    from iepile_cli.registry import registry
    from iepile_cli.training.batch import choose_batch, estimate
    from iepile_cli.training.dataset import Report
    from iepile_cli.training.device import Device
    from iepile_cli.training.model import Base

    LlamaConfig(
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=40,
        num_attention_heads=40,
    ).save_pretrained(tmp_path)
    base = Base("13b", tmp_path, tmp_path, (), registry().get("template", "llama2_zh"))
    place = Device("cuda", "bf16")
    monkeypatch.setattr(Device, "free_memory", lambda self: 80 << 30)
    report = Report(1000, 500_000, 50_000, 700, 500, 0, 0)
    options = options_from(registry().get("recipe", "oneke-full").table)
    guess = estimate(base, options, place, shares(options, 8))
    assert choose_batch(guess, options, place, report, 8, 8).examples == 2
    whole = estimate(base, replace(options, deepspeed=""), place, Shares())
    with pytest.raises(ModelError, match="of memory"):
        choose_batch(whole, options, place, report, 8, 8)


def test_a_dry_run_plans_for_processes_that_are_not_there_yet(options: TrainOptions) -> None:
    one, _ = dry_run(options)
    two, _ = dry_run(replace(options, nproc=2))
    assert two.batch.per_step == 2 * one.batch.per_step
    assert two.steps == one.steps // 2
    assert "2 processes" in two.summary()


# ------------------------------------------------------------------------------- ends of a run


def started(options: TrainOptions, folder: Path) -> subprocess.Popen[str]:
    """A run of two processes that has made its first steps."""
    config = folder / "options.toml"
    config.write_text(as_toml(replace(options, nproc=2)), encoding="utf-8")
    running = subprocess.Popen(
        [sys.executable, "-m", "iepile_cli", "train", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
    )
    log, deadline = Path(options.output, "train_log.jsonl"), time.monotonic() + 120
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    return running


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_with_a_checkpoint_to_go_on_from(
    options: TrainOptions, tmp_path: Path, number: signal.Signals
) -> None:
    options = replace(options, epochs=3000)
    running = started(options, tmp_path)
    running.send_signal(number)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert said.count("a checkpoint is written") == 1
    assert "Traceback" not in said
    checkpoints = list(Path(options.output, "checkpoints").glob(f"*/{output.COMPLETE}"))
    assert checkpoints
    assert read_table(Path(options.output, "train.toml"))["nproc"] == 2


@pytest.mark.slow
def test_a_process_that_is_killed_is_named(options: TrainOptions, tmp_path: Path) -> None:
    import psutil

    running = started(replace(options, epochs=3000), tmp_path)
    ranks = {
        child.environ().get("RANK"): child
        for child in psutil.Process(running.pid).children(recursive=True)
    }
    ranks["1"].kill()
    _, said = running.communicate(timeout=120)
    assert running.returncode == 1, said
    assert "process 1 was ended by signal 9" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_f1_is_taken_by_the_first_process_for_all(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, val_size="4", eval_f1=2, max_steps=1)
    launched(options, tmp_path, "--nproc", "2", "--fsdp")
    log = Path(options.output, "train_log.jsonl").read_text(encoding="utf-8")
    scored = [row for row in map(json.loads, log.splitlines()) if "eval_f1" in row]
    # Before the first step, and after it.
    assert [row["step"] for row in scored] == [0, 1]

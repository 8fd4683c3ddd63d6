"""Whole runs on a tiny model: what is learnt, written, gone on with and refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from training.runs import Recorder, run

from iepile_cli.cli.app import run as run_command
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.models.adapter_settings import AdapterSettings, read_adapter_settings
from iepile_cli.registry import registry
from iepile_cli.training import output
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.recipes import as_toml, options_from, read_table
from iepile_cli.training.reporting import Stopped

replace = dataclasses.replace
# Adam divides noise by noise where a gradient is almost nothing; plain descent does not.
PLAIN: dict[str, Any] = {"lora_dropout": 0, "optim": "sgd", "learning_rate": 1.0}


def test_a_run_learns_and_leaves_all_that_is_needed(options: TrainOptions, tiny: Path) -> None:
    result, seen = run(options)
    folder = Path(options.output)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("adapter_config.json", "adapter_model.safetensors", "iepile.json", "train.toml"),
        *("tokenizer.json", "tokenizer_config.json", "train_log.jsonl", "loss.png", "README.md"),
        "checkpoints",
    }
    assert result.steps == 12
    assert list(seen.losses) == list(range(1, 13))
    assert seen.losses[12] < seen.losses[1] - 0.4
    logged = [json.loads(row) for row in (folder / "train_log.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in logged] == list(seen.losses.values())
    assert options_from(read_table(folder / "train.toml")) == options
    settings = read_adapter_settings(folder)
    assert settings is not None
    template = registry().get("template", "alpaca")
    assert (settings.template, settings.template_hash) == ("alpaca", template.hash())
    assert (settings.base_model, settings.lora_r, settings.lora_alpha) == (str(tiny), 4, 8)
    assert (settings.languages, settings.over) == (("en",), ())
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "alpaca" in card
    assert "24" in card


def test_each_step_of_a_short_run_learns(options: TrainOptions) -> None:
    # A share of warm-up is rounded up by transformers to a step with a rate of 0.
    _, recorder = run(replace(options, max_steps=2))
    rates = [record["learning_rate"] for record in recorder.records if "learning_rate" in record]
    assert len(rates) == 2
    assert min(rates) > 0


def test_the_same_seed_gives_the_same_losses_and_another_does_not(options: TrainOptions) -> None:
    _, first = run(options)
    _, second = run(replace(options, overwrite=True))
    _, other = run(replace(options, overwrite=True, seed=1))
    assert first.losses == second.losses
    assert first.losses != other.losses


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(
    options: TrainOptions, tmp_path: Path
) -> None:
    whole, straight = run(replace(options, output=str(tmp_path / "whole")))
    options = replace(options, save_every=5)

    class Interrupting(Recorder):
        def step(self, record: Any) -> None:
            super().step(record)
            if record["step"] == 7:
                signal.raise_signal(signal.SIGTERM)

    from iepile_cli.training.finetune import train

    first = Interrupting()
    with pytest.raises(Stopped, match="step 8 of 12"):
        train(options, reporter=first)
    assert max(first.losses) == 8
    assert not (Path(options.output) / "adapter_config.json").exists()
    result, rest = run(replace(options, resume=True))
    assert min(rest.losses) == 9
    assert {**first.losses, **rest.losses} == pytest.approx(straight.losses, rel=1e-6)
    assert result.steps == whole.steps
    log = Path(options.output, "train_log.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in log] == list(range(1, 13))


def test_a_checkpoint_cut_off_while_written_is_not_gone_on_from(options: TrainOptions) -> None:
    run(replace(options, save_every=5))
    broken = Path(options.output, "checkpoints", "checkpoint-12")
    (broken / output.COMPLETE).unlink()
    _, rest = run(replace(options, resume=True, save_every=5))
    assert min(rest.losses) == 11


def test_a_finished_run_is_not_trained_on(
    options: TrainOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    options = replace(options, max_steps=4, save_every=2)
    run(options)
    weights = Path(options.output, "adapter_model.safetensors")
    made = weights.read_bytes()
    weights.unlink()
    result, seen = run(replace(options, resume=True))
    assert (result.steps, seen.losses) == (4, {})
    assert weights.read_bytes() == made
    assert run_command(["train", "--resume", "-o", options.output]) == 0
    said = capsys.readouterr().err
    assert "4 steps, last loss" in said
    assert "tokens/s" not in said


def test_the_log_counts_on_after_a_resume(options: TrainOptions) -> None:
    options = replace(options, max_steps=4, save_every=2)
    _, whole = run(options)
    shutil.rmtree(Path(options.output, "checkpoints", "checkpoint-4"))
    _, rest = run(replace(options, resume=True))
    assert [row["tokens"] for row in rest.records] == [row["tokens"] for row in whole.records[2:]]


def test_a_folder_without_a_run_cannot_be_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["train", "--resume", "-o", str(tmp_path / "none")]) == 2
    assert "holds no run to go on with" in capsys.readouterr().err


def test_a_checkpoint_of_other_settings_is_refused(options: TrainOptions) -> None:
    run(replace(options, max_steps=2, save_every=1))
    with pytest.raises(ModelError, match="another learning-rate"):
        run(replace(options, resume=True, max_steps=2, learning_rate=1.0))


def test_a_result_is_not_overwritten_unasked(options: TrainOptions) -> None:
    run(replace(options, max_steps=1))
    with pytest.raises(UsageError, match="holds a trained model") as caught:
        run(options)
    assert "--overwrite" in caught.value.hint


def test_ctrl_c_ends_the_command_with_a_checkpoint_and_a_line(
    options: TrainOptions, tmp_path: Path
) -> None:
    config = tmp_path / "train.toml"
    config.write_text(as_toml(replace(options, epochs=400)), encoding="utf-8")
    command = [sys.executable, "-m", "iepile_cli", "train", "--config", str(config)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = Path(options.output, "train_log.jsonl")
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert "a checkpoint is written" in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert list(Path(options.output, "checkpoints").glob(f"*/{output.COMPLETE}"))


def test_going_on_from_an_adapter_takes_its_own_rank(options: TrainOptions, tmp_path: Path) -> None:
    run(options)
    more = replace(
        options, output=str(tmp_path / "more"), adapter=options.output, template="", lora_r=64
    )
    _, seen = run(more)
    first = json.loads(Path(options.output, "train_log.jsonl").read_text().splitlines()[-1])
    assert seen.losses[1] < 2 * first["loss"]
    config = json.loads(Path(more.output, "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    settings = read_adapter_settings(Path(more.output))
    assert settings is not None
    assert (settings.template, settings.lora_r) == ("alpaca", 4)
    with pytest.raises(UsageError, match="lora-r is 4, not 64; its lora-alpha is 8, not 16"):
        run(replace(more, overwrite=True, lora_alpha=16), ("lora_r", "lora_alpha"))


def test_going_on_with_another_template_is_allowed_only_when_asked(
    options: TrainOptions, tmp_path: Path
) -> None:
    run(replace(options, max_steps=1))
    file = Path(options.output, "iepile.json")
    changed = {**json.loads(file.read_text()), "template_hash": "0" * 64}
    file.write_text(json.dumps(changed))
    more = replace(
        options, output=str(tmp_path / "o2"), adapter=options.output, template="", max_steps=1
    )
    with pytest.raises(ModelError, match="with another form of the template 'alpaca'"):
        run(more)
    run(replace(more, template="alpaca"))


def test_an_adapter_of_another_size_is_refused_with_a_line(
    options: TrainOptions, tiny: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    run(replace(options, max_steps=1))
    wider = tmp_path / "wider"
    config = LlamaConfig.from_pretrained(tiny)
    config.hidden_size = 32
    LlamaForCausalLM(config).save_pretrained(wider)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(wider)
    with pytest.raises(ModelError, match="does not fit this base model: its weights have other"):
        run(
            replace(
                options,
                model=str(wider),
                adapter=options.output,
                output=str(tmp_path / "out2"),
            )
        )


def test_only_one_adapter_can_be_gone_on_from(options: TrainOptions, tmp_path: Path) -> None:
    run(replace(options, max_steps=1))
    file = Path(options.output, "iepile.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "over": ["another"]}))
    with pytest.raises(UsageError, match="needs other adapters below it") as caught:
        run(replace(options, adapter=options.output, output=str(tmp_path / "o"), template=""))
    assert "export --to merged" in caught.value.hint


@pytest.mark.parametrize("method", ["full", "freeze"])
def test_full_and_freeze_write_a_model(options: TrainOptions, tiny: Path, method: str) -> None:
    from safetensors.torch import load_file

    run(replace(options, method=method, trainable_layers=1, learning_rate=1e-3))
    folder = Path(options.output)
    assert not (folder / "adapter_config.json").exists()
    before = load_file(tiny / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    changed = {name for name in after if not after[name].equal(before[name])}
    if method == "full":
        assert changed == set(before)
    else:
        assert changed == {name for name in before if ".layers.1.mlp." in name}


@pytest.mark.parametrize("bits", [4, 8])
def test_lora_on_quantised_weights_learns(options: TrainOptions, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    _, seen = run(replace(options, bits=bits, dtype="auto"))
    assert seen.losses[12] < seen.losses[1] - 0.3


def test_held_out_examples_are_scored_and_not_trained_on(options: TrainOptions) -> None:
    _, seen = run(replace(options, val_size="8", epochs=2))
    scored = [record for record in seen.records if "eval_loss" in record]
    assert [record["step"] for record in scored] == [0, 4, 8]
    assert scored[2]["eval_loss"] < scored[1]["eval_loss"] < scored[0]["eval_loss"]


def test_a_batch_that_does_not_fit_is_refused_with_what_would(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iepile_cli.training.device import Device

    monkeypatch.setattr(Device, "free_memory", lambda self: 450 << 20)
    with pytest.raises(ModelError, match="of memory with 4000 examples") as caught:
        run(replace(options, batch_size="4000"))
    assert "--batch-size" in caught.value.hint
    assert "--grad-checkpointing" in caught.value.hint


def test_checkpointed_activations_give_the_same_losses(
    options: TrainOptions, tmp_path: Path
) -> None:
    options = replace(options, max_steps=3, **PLAIN)
    _, plain = run(options)
    _, again = run(replace(options, output=str(tmp_path / "g"), grad_checkpointing=True))
    assert again.losses == pytest.approx(plain.losses, rel=1e-5)


def test_packed_and_padded_runs_have_the_same_losses(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, **PLAIN)
    _, packed = run(options)
    _, padded = run(replace(options, output=str(tmp_path / "p"), packing=False))
    assert padded.losses == pytest.approx(packed.losses, rel=1e-5)


def test_accumulated_batches_are_one_large_batch(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, epochs=1, **PLAIN)
    _, one = run(replace(options, batch_size="8"))
    _, two = run(replace(options, output=str(tmp_path / "two"), batch_size="4", grad_accum=2))
    assert two.losses == pytest.approx(one.losses, rel=1e-5)


def test_a_full_disk_leaves_no_half_adapter(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AdapterSettings, "write", full)
    with pytest.raises(ModelError, match="No space left") as caught:
        run(replace(options, max_steps=1))
    assert "--resume" in caught.value.hint
    left = {path.name for path in Path(options.output).iterdir()}
    assert left == {"train.toml", "train_log.jsonl", "checkpoints"}


def test_what_was_trained_is_kept_when_the_curve_cannot_be_drawn(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, seen = run(replace(options, max_steps=1))
    names = {path.name for path in Path(options.output).iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= names
    assert "loss.png" not in names
    assert any("loss.png could not be written" in note for note in seen.notes)


@pytest.mark.parametrize("bytes_", [3_000, 20_000])
def test_a_disk_that_fills_up_while_training_is_a_line(
    options: TrainOptions, tmp_path: Path, bytes_: int
) -> None:
    """By a limit on the size of files: metadata, weights and optimizer are written differently."""
    config = tmp_path / "train.toml"
    config.write_text(as_toml(replace(options, max_steps=2, save_every=1)), encoding="utf-8")
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_}, {bytes_})); "
        f"from iepile_cli.cli import main; main(['train', '--config', {str(config)!r}])"
    )
    run(replace(options, output=str(tmp_path / "first"), max_steps=1))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(options.output, "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim": "adamm"}, "--optim adamm"),
        ({"epochs": 0}, "--epochs 0 trains nothing"),
        ({"train_arg": ("lr_schedular_type=linear",)}, "have no 'lr_schedular_type'"),
        ({"train_arg": ("learning_rate=1",)}, "is set by --learning-rate"),
        ({"train_arg": ("max_grad_norm=0.3",)}, "is set by --max-grad-norm"),
        ({"train_arg": ("adam_beta1=abc",)}, "adam_beta1=abc: abc is not a number"),
        ({"train_arg": ("early_stopping_patience=few",)}, "few is not a number"),
        ({"train_arg": ("report_to",)}, "give KEY=VALUE"),
        ({"train_arg": ("lr_scheduler_type=none-such",)}, "transformers refuses"),
    ],
)
def test_what_the_trainer_would_not_take_is_refused(
    options: TrainOptions, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(replace(options, **change))


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_reporter_is_a_line(options: TrainOptions, name: str) -> None:
    if importlib.util.find_spec(name):
        pytest.skip("it is there")
    with pytest.raises(ModelError, match=f"training needs .*{name}") as caught:
        run(replace(options, train_arg=(f"report_to={name}",)))
    assert caught.value.hint == f"pip install {name}"


def test_tensorboard_gets_the_losses(options: TrainOptions) -> None:
    pytest.importorskip("tensorboard")
    run(replace(options, train_arg=("report_to=tensorboard",), max_steps=1))
    assert list(Path(options.output, "runs").glob("events*"))


def test_a_damaged_adapter_is_a_line(options: TrainOptions, tmp_path: Path) -> None:
    run(replace(options, max_steps=1))
    weights = Path(options.output, "adapter_model.safetensors")
    more = replace(options, output=str(tmp_path / "more"), adapter=options.output, template="")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="its weights are damaged"):
        run(more)
    weights.unlink()
    with pytest.raises(ModelError, match="no adapter_model"):
        run(more)


def test_another_tokenizer_of_the_same_name_is_another_encoding(
    options: TrainOptions, tiny: Path, tmp_path: Path
) -> None:
    from iepile_cli.training.prepare import prepare

    def prepared(model: Path) -> Any:
        return prepare(replace(options, model=str(model)), Recorder()).train

    same, other = tmp_path / "a" / tiny.name, tmp_path / "b" / tiny.name
    for folder in (same, other):
        shutil.copytree(tiny, folder)
    file = other / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["merges"] = content["model"]["merges"][:5]
    file.write_text(json.dumps(content), encoding="utf-8")
    assert prepared(same).folder == prepared(tiny).folder
    assert prepared(other).folder != prepared(tiny).folder
    assert prepared(other).report.tokens > prepared(tiny).report.tokens


@pytest.mark.model
def test_f1_is_taken_by_extraction_and_the_best_checkpoint_kept(
    options: TrainOptions, tiny: Path, tmp_path: Path
) -> None:
    """On a GGUF base, so that llama.cpp decodes."""
    from iepile_cli.training.export import export
    from iepile_cli.training.options import ExportOptions

    base = tmp_path / "base.gguf"
    export(ExportOptions(model=str(tiny), to="gguf", output=str(base), template="alpaca"))
    options = replace(options, model=str(base), val_size="4", eval_f1=2, max_steps=2, eval_every=1)
    result, seen = run(options)
    scored = [record["eval_f1"] for record in seen.records if "eval_f1" in record]
    # Before the first step, and after each.
    assert len(scored) == 3
    assert all(0 <= score <= 100 for score in scored)
    assert result.best == max(scored)
    assert result.start == scored[0]

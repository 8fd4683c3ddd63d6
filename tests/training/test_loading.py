"""Bases and adapters are loaded whole or not at all; what is trained is in 32 bits."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training.runs import run

from iepile_cli.backends.transformers_loading import load_weights, merge_adapter
from iepile_cli.errors import DataError, ModelError, UsageError
from iepile_cli.models import resolve_model
from iepile_cli.training.device import Device
from iepile_cli.training.export import export
from iepile_cli.training.model import (
    base_to_train,
    load_trainable,
    quiet_libraries,
    training_library,
)
from iepile_cli.training.options import ExportOptions, TrainOptions
from iepile_cli.training.prepare import dry_run, prepare
from iepile_cli.training.reporting import Reporter

replace = dataclasses.replace
CPU = Device("cpu", "fp32")


def changed(folder: Path, copy: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of a model or adapter with other weights in its file."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoints"))
    (file,) = copy.glob("*.safetensors")
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return copy


def test_base_weights_that_are_missing_are_not_made_up(
    options: TrainOptions, tiny: Path, tmp_path: Path
) -> None:
    def without(weights: dict[str, Any]) -> dict[str, Any]:
        return {name: rows for name, rows in weights.items() if ".layers.1.mlp." not in name}

    broken = changed(tiny, tmp_path / "broken", without)
    with pytest.raises(ModelError, match="lacks 3 weights of this model") as caught:
        run(replace(options, model=str(broken)))
    assert "layers.1.mlp.down_proj" in str(caught.value)
    with pytest.raises(ModelError, match="lacks 3 weights"):
        export(ExportOptions("merged", str(tmp_path / "m"), model=str(broken), template="alpaca"))


def test_weights_of_another_shape_are_refused(
    options: TrainOptions, tiny: Path, tmp_path: Path
) -> None:
    def cut(weights: dict[str, Any]) -> dict[str, Any]:
        name = "model.layers.0.mlp.up_proj.weight"
        return {**weights, name: weights[name][:-8].clone()}

    broken = changed(tiny, tmp_path / "broken", cut)
    with pytest.raises(ModelError, match=r"has other shapes for|size mismatch|shape"):
        run(replace(options, model=str(broken)))


def test_a_tied_output_is_not_missing(tiny: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(tiny)
    config.tie_word_embeddings = True
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    load_weights(tmp_path / "tied")


@pytest.fixture(scope="module")
def adapter(tiny: Path, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny model."""
    folder = tmp_path_factory.mktemp("adapter") / "first"
    run(
        TrainOptions(
            model=str(tiny),
            data=(str(lines),),
            output=str(folder),
            template="alpaca",
            dtype="fp32",
            max_steps=2,
            batch_size="4",
            val_size="0",
            lora_r=4,
            learning_rate=3e-2,
        )
    )
    return folder


def test_an_adapter_of_a_smaller_model_is_refused(
    options: TrainOptions, adapter: Path, tmp_path: Path
) -> None:
    def smaller(weights: dict[str, Any]) -> dict[str, Any]:
        return {name: rows for name, rows in weights.items() if ".layers.0." in name}

    small = changed(adapter, tmp_path / "small", smaller)
    with pytest.raises(ModelError, match="weights that it should have are missing"):
        run(replace(options, adapter=str(small), template=""))


def test_an_adapter_with_no_weight_of_the_model_is_refused(
    options: TrainOptions, adapter: Path, tmp_path: Path
) -> None:
    def elsewhere(weights: dict[str, Any]) -> dict[str, Any]:
        return {name.replace(".layers.", ".blocks."): rows for name, rows in weights.items()}

    other = changed(adapter, tmp_path / "other", elsewhere)
    with pytest.raises(ModelError, match="28 of its weights are not in it"):
        run(replace(options, adapter=str(other), template=""))


def test_the_plan_says_the_rank_and_weights_of_the_adapter_gone_on_from(
    options: TrainOptions, adapter: Path
) -> None:
    plan, _ = dry_run(replace(options, adapter=str(adapter), lora_r=16, template=""))
    weights = load_file(adapter / "adapter_model.safetensors")
    count = sum(rows.numel() for rows in weights.values())
    assert f"LoRA r 4, alpha 8: {count:,} of" in plan.summary()
    assert f"going on from {adapter}" in plan.summary()


def test_modules_trained_whole_have_weights_in_32_bits(options: TrainOptions) -> None:
    options = replace(options, modules_to_save="lm_head", dtype="bf16")
    model = load_trainable(base_to_train(options), options, Device("cpu", "bf16"))
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert any("modules_to_save" in name for name in trained)
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert torch.bfloat16 in {weight.dtype for weight in model.parameters()}


def test_a_merge_is_rounded_once(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    merged = merge_adapter(load_weights(tiny, dtype=torch.bfloat16), adapter)
    exact = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).float(), str(adapter)
    ).merge_and_unload()
    wanted = dict(exact.named_parameters())
    for name, weight in merged.named_parameters():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, wanted[name].to(torch.bfloat16)), name


def test_without_a_model_the_shipped_adapter_is_gone_on_from() -> None:
    shipped = base_to_train(TrainOptions())
    assert (shipped.name, shipped.adapter_name) == ("smollm2", "smollm2-iepile-lora")
    assert shipped.adapter is not None
    # What is known of the adapter's passages is known of what is trained from it.
    assert shipped.passage_tokens == resolve_model("smollm2").passage_tokens > 0
    assert base_to_train(TrainOptions(adapter="none")).adapter is None
    assert base_to_train(TrainOptions(model="smollm2")).adapter is None
    assert base_to_train(TrainOptions(method="full")).adapter is None


def test_the_model_is_not_written_over_what_it_is_made_from(
    options: TrainOptions, tiny: Path, adapter: Path, tmp_path: Path
) -> None:
    before = {path.name for path in adapter.iterdir()}
    more = replace(options, adapter=str(adapter), template="", overwrite=True, max_steps=1)
    with pytest.raises(UsageError, match="would overwrite"):
        run(replace(more, output=str(adapter)))
    (tmp_path / "link").symlink_to(tiny)
    with pytest.raises(UsageError, match="would overwrite"):
        run(replace(options, output=str(tmp_path / "link"), overwrite=True))
    with pytest.raises(UsageError, match="would overwrite"):
        export(
            ExportOptions(
                "merged",
                str(adapter),
                model=str(tiny),
                adapter=(str(adapter),),
                overwrite=True,
            )
        )
    assert {path.name for path in adapter.iterdir()} == before
    assert (tiny / "config.json").is_file()


# ------------------------------------------------------------------------------- GGUF base models


@pytest.fixture(scope="module")
def gguf(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "base.gguf"
    export(ExportOptions("gguf", str(path), model=str(tiny), template="alpaca"))
    return path


def test_going_on_with_whole_modules_on_a_gguf_base_leaves_a_result(
    options: TrainOptions, gguf: Path, tmp_path: Path
) -> None:
    options = replace(options, model=str(gguf), max_steps=1, modules_to_save="lm_head")
    _, seen = run(replace(options, output=str(tmp_path / "first")))
    assert any("llama.cpp cannot open the result" in note for note in seen.notes)
    more = replace(options, adapter=str(tmp_path / "first"), modules_to_save="", template="")
    result, seen = run(more)
    assert any("modules trained whole" in note for note in seen.notes)
    names = {path.name for path in result.output.iterdir()}
    assert {"adapter_model.safetensors", "iepile.json", "loss.png"} <= names
    assert "adapter.gguf" not in names
    # Scoring would open the adapter in llama.cpp: refused before the first step.
    with pytest.raises(UsageError, match="--eval-f1 extracts with the adapter as GGUF"):
        prepare(replace(more, eval_f1=2, val_size="4", output=str(tmp_path / "o")), Reporter())


def test_a_family_without_a_form_in_gguf_is_found_before_training(
    options: TrainOptions, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iepile_cli.backends import gguf_layout

    known = {name: row for name, row in gguf_layout._FAMILIES.items() if name != "llama"}
    monkeypatch.setattr(gguf_layout, "_FAMILIES", known)
    result, seen = run(replace(options, model=str(gguf), max_steps=1))
    assert any("have no known form in GGUF" in note for note in seen.notes)
    assert (result.output / "adapter_model.safetensors").is_file()
    config = json.loads((result.output / "adapter_config.json").read_text())
    assert config["r"] == options.lora_r


def test_what_libraries_print_is_kept_from_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DeepSpeed prints a line when it is imported, and standard output is for data."""
    (tmp_path / "talkative_library.py").write_text("print('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with quiet_libraries():
        training_library("talkative_library")
    assert capsys.readouterr() == ("", "imported\n")


def test_data_that_can_be_read_only_once_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    """It is hashed, encoded and read for the card: a pipe would be empty the second time."""
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match=r"pipe\.jsonl.*only once"):
        prepare(dataclasses.replace(options, data=(str(pipe),)), Reporter())

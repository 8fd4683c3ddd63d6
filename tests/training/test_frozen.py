"""Frozen weights in bf16: the losses and gradients of 32 bits, and nothing else changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training.runs import Recorder, run

from iepile_cli.training import device
from iepile_cli.training.batch import estimate
from iepile_cli.training.device import Device, choose_device, round_frozen
from iepile_cli.training.distributed import Shares
from iepile_cli.training.finetune import train
from iepile_cli.training.model import base_to_train, load_trainable
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.prepare import dry_run
from iepile_cli.training.reporting import Stopped

replace = dataclasses.replace
ROUNDED = Device("cpu", "fp32", rounds_frozen=True)


@pytest.fixture
def bf16_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies in bf16; others only compute it more slowly."""
    monkeypatch.setattr(device, "multiplies_in_bf16", lambda: True)


def lora_model(kind: str, tied: bool, modules_to_save: list[str] | None = None) -> Any:
    """A small model whose answers are far from even, with an adapter that adds something."""
    import peft
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind,
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    settings = peft.LoraConfig(
        r=4,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        init_lora_weights=False,
        modules_to_save=modules_to_save,
    )
    made = peft.get_peft_model(model, settings)
    for name, weight in made.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(weight)
    return made


def loss_and_gradients(model: Any) -> tuple[float, torch.Tensor]:
    torch.manual_seed(2)
    ids = torch.randint(0, 96, (4, 40))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    trained = [weight.grad for weight in model.parameters() if weight.requires_grad]
    return loss.item(), torch.cat([one.flatten() for one in trained])


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("llama", True), ("qwen2", False)])
def test_loss_and_gradients_are_those_of_32_bits(kind: str, tied: bool) -> None:
    exact, exact_gradients = loss_and_gradients(lora_model(kind, tied))
    model = lora_model(kind, tied)
    round_frozen(model)
    rounded, gradients = loss_and_gradients(model)
    assert rounded == pytest.approx(exact, rel=5e-3)
    assert gradients.dtype == torch.float32
    alike = torch.nn.functional.cosine_similarity(gradients, exact_gradients, dim=0)
    assert alike > 0.999
    assert gradients.norm() == pytest.approx(float(exact_gradients.norm()), rel=2e-2)


@pytest.mark.parametrize("tied", [False, True])
def test_only_frozen_linear_layers_are_rounded(tied: bool) -> None:
    model = lora_model("qwen2", tied)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    round_frozen(model)
    for name, weight in model.named_parameters():
        rounded = "base_layer.weight" in name or "lm_head" in name
        assert weight.dtype == (torch.bfloat16 if rounded else torch.float32), name
        if name in before:
            assert torch.equal(weight.float(), before[name].to(weight.dtype).float()), name
    # The embedding of a tied model can still be looked up in 32 bits.
    assert model.get_input_embeddings()(torch.tensor([1])).dtype == torch.float32


def test_a_module_that_is_trained_whole_stays_in_32_bits() -> None:
    model = lora_model("llama", False, ["lm_head"])
    round_frozen(model)
    trained = {name: w.dtype for name, w in model.named_parameters() if w.requires_grad}
    assert any("lm_head.modules_to_save" in name for name in trained)
    assert set(trained.values()) == {torch.float32}


def test_it_is_the_default_of_lora_on_a_processor_that_pays(bf16_processor: None) -> None:
    options = TrainOptions(device="cpu")
    assert choose_device(options).rounds_frozen
    assert "multiplies in bf16" in choose_device(options).reason
    for change in (
        {"dtype": "fp32"},
        {"dtype": "bf16"},
        {"method": "full"},
        {"method": "freeze"},
        {"bits": 4},
        {"deepspeed": "zero2"},
        {"fsdp": True},
    ):
        assert not choose_device(replace(options, **change)).rounds_frozen, change


def test_the_plan_says_it_and_counts_less_memory(
    options: TrainOptions, bf16_processor: None
) -> None:
    options = replace(options, dtype="auto")
    shown = dry_run(options)[0].summary()
    assert "cpu, fp32, frozen weights in bf16 (this CPU multiplies in bf16)" in shown
    base = base_to_train(options)
    planned = [
        estimate(base, options, place, Shares()).weights
        for place in (ROUNDED, Device("cpu", "fp32"))
    ]
    loaded = [
        sum(
            weight.numel() * weight.element_size()
            for name, weight in load_trainable(base, options, place).named_parameters()
            if "lora_" not in name
        )
        for place in (ROUNDED, Device("cpu", "fp32"))
    ]
    assert planned == loaded
    assert loaded[0] < 0.7 * loaded[1]


def test_a_run_goes_on_to_the_bit_and_leaves_an_adapter_as_any_other(
    options: TrainOptions, tmp_path: Path, bf16_processor: None
) -> None:
    _, exact = run(replace(options, output=str(tmp_path / "exact")))
    options = replace(options, dtype="auto", max_steps=4)

    class Interrupting(Recorder):
        def step(self, record: Any) -> None:
            import signal

            super().step(record)
            if record["step"] == 2:
                signal.raise_signal(signal.SIGINT)

    _, whole = run(replace(options, output=str(tmp_path / "whole")))
    first = Interrupting()
    with pytest.raises(Stopped):
        train(options, reporter=first)
    _, rest = run(replace(options, resume=True))
    assert {**first.losses, **rest.losses} == whole.losses
    assert whole.losses[1] == pytest.approx(exact.losses[1], rel=5e-3)
    files = [tmp_path / name / "adapter_model.safetensors" for name in ("exact", "whole", "out")]
    stored = [load_file(file) for file in files]
    kinds = [{name: (rows.shape, rows.dtype) for name, rows in one.items()} for one in stored]
    assert kinds[0] == kinds[1]
    assert all(torch.equal(stored[1][name], stored[2][name]) for name in stored[1])

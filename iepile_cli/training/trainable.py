"""The weights of a base model that are trained: a LoRA adapter, some of its layers, or all.

What is trained is in 32 bits always: in 16, small updates would be rounded away. Going on from an
adapter keeps its rank, alpha and target modules; what was given and differs is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.transformers_loading import (
    adapter_config,
    apply_adapter,
    load_weights,
    quantisation,
)
from iepile_cli.errors import UsageError
from iepile_cli.training.device import round_frozen
from iepile_cli.training.distributed import own_gpu
from iepile_cli.training.model import Base, training_library
from iepile_cli.training.options import TrainOptions

if TYPE_CHECKING:
    from iepile_cli.training.device import Device


def load_trainable(base: Base, options: TrainOptions, device: Device) -> Any:
    """The model with what is to be trained set so; raises ``ModelError`` or ``UsageError``."""
    import torch

    lora = options.method == "lora"
    how: dict[str, Any] = {"dtype": device.torch_dtype if lora else torch.float32}
    if device.rounds_frozen:
        # As the file has them: in 32 bits first, the whole model would take twice the memory.
        how["dtype"] = "auto"
    if options.bits < 16:
        how["quantization_config"] = quantisation(
            options.bits, how["dtype"], kind=options.quant_type, double=options.double_quant
        )
        how["device_map"] = {"": own_gpu() if device.kind == "cuda" else device.kind}
    if options.attn_implementation:
        how["attn_implementation"] = options.attn_implementation
    model = load_weights(base.folder, trust_remote_code=base.remote_code, **how)
    model.config.use_cache = False
    if options.upcast_layernorm:
        for name, weight in model.named_parameters():
            if weight.ndim == 1 and "norm" in name.lower():
                weight.data = weight.data.to(torch.float32)
    if options.method == "full":
        return model
    if options.method == "freeze":
        return freeze(model, options.trainable_layers, options.trainable_modules)
    training_library("peft")
    for weight in model.parameters():
        weight.requires_grad = False
    if base.adapter:
        model = apply_adapter(model, base.adapter, train=True)
    else:
        model = with_lora(model, options, base)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.float32)
    if device.rounds_frozen:
        round_frozen(model)
    return model


def freeze(model: Any, layers: int, modules: str) -> Any:
    """Train only the last ``layers`` layers (the first ones if negative), in them ``modules``.

    ``modules`` are names of parts of a layer, with commas; ``all`` means the whole layer.
    """
    count = int(model.config.num_hidden_layers)
    chosen = range(count - layers, count) if layers > 0 else range(-layers)
    names = _names(modules)
    trained = 0
    for name, weight in model.named_parameters():
        parts = name.split(".")
        # Whole path components, so that layer 1 is not layer 10 too.
        layer = next((int(part) for part in parts if part.isdecimal()), None)
        weight.requires_grad = layer in chosen and (
            names == ["all"] or not set(names).isdisjoint(parts)
        )
        trained += weight.requires_grad
    if not trained:
        found = (re.search(r"\.\d+\.([^.]+)\.", name) for name, _ in model.named_parameters())
        raise UsageError(
            f"--trainable-modules {modules} with --trainable-layers {layers} names no weights",
            hint=f"parts of a layer: {', '.join(sorted({match[1] for match in found if match}))}",
        )
    return model


def with_lora(model: Any, options: TrainOptions, base: Base) -> Any:
    """A new LoRA adapter over a model."""
    import peft

    settings = peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        r=options.lora_r,
        lora_alpha=options.alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets(model, options.target_modules),
        modules_to_save=_names(options.modules_to_save) or None,
    )
    lora = peft.get_peft_model(model, settings)
    local = Path(base.name)
    lora.peft_config["default"].base_model_name_or_path = (
        str(local.resolve()) if local.exists() else base.name
    )
    return lora


def targets(model: Any, asked: str) -> Any:
    """LoRA's target modules: every linear layer but the output, or those of a list of names."""
    if asked == "all":
        return "all-linear"
    names = _names(asked)
    import torch

    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) or hasattr(module, "in_features")
    }
    ends = [name for name, _ in model.named_modules()]
    unknown = [
        name for name in names if not any(end == name or end.endswith(f".{name}") for end in ends)
    ]
    if unknown or not names:
        raise UsageError(
            f"--target-modules: this model has no {', '.join(unknown) or 'module of no name'}",
            hint=f"'all', or from: {', '.join(sorted(linear))}",
        )
    return names


def check_continued(base: Base, options: TrainOptions, given: Iterable[str]) -> None:
    """Compare what was asked for with the settings of the adapter that is gone on from.

    ``given`` names the options that the user set. Raises ``UsageError`` naming what differs.
    """
    if base.adapter is None:
        return
    own = adapter_config(base.adapter)
    asked = set(given)
    modules = sorted(own["target_modules"] if isinstance(own.get("target_modules"), list) else ())
    wanted = sorted(_names(options.target_modules))
    differing = []
    for name, value, has in (
        ("lora_r", options.lora_r, own.get("r")),
        ("lora_alpha", options.alpha, own.get("lora_alpha")),
    ):
        if name in asked and value != has:
            differing.append(f"{name.replace('_', '-')} is {has}, not {value:g}")
    if "target_modules" in asked and wanted not in (modules, ["all"]):
        differing.append(f"target-modules is {','.join(modules)}, not {','.join(wanted)}")
    if differing:
        raise UsageError(
            f"adapter {base.adapter_name}: its {'; its '.join(differing)}",
            hint="leave these options out to go on with the adapter's own, or give "
            "--adapter none to start a new one",
        )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]

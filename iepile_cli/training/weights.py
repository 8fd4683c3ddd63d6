"""The model that is trained: base weights in 4, 8 or 16 bits, with LoRA or without.

Going on from an adapter keeps its rank, alpha and target modules; what was asked for and differs
is named. Of several adapters all but the last are merged into the base model first.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from iepile_cli.errors import ModelError, UsageError
from iepile_cli.training.base import Base, first_line, quiet_libraries, training_library
from iepile_cli.training.device import Place
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.scaling import own_gpu

Note = Callable[[str], None]


def load_trainable(
    base: Base, options: TrainOptions, place: Place, *, given: Iterable[str] = (), note: Note
) -> Any:
    """The model with what is to be trained set so; raises ``ModelError`` or ``UsageError``.

    ``given`` names the options that the user set, to be held against an adapter's own.
    """
    lora = options.method == "lora"
    below = base.adapters if options.fresh_lora else base.adapters[:-1]
    going_on = base.adapters[-1] if base.adapters and not options.fresh_lora else None
    if going_on:
        check_continued(going_on, options, given, note)
    if lora:
        training_library("peft")
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="iepile-") as merged:
        folder = base.folder
        if below:
            note(f"merging {len(below)} adapters into the base model")
            folder = _merge_below(base, below, Path(merged))
        model = load_base(folder, options, place, base.remote_code)
    if options.upcast_layernorm:
        _upcast_norms(model)
    if options.method == "full":
        return model
    if options.method == "freeze":
        return freeze(model, options.trainable_layers, options.trainable_modules)
    for weight in model.parameters():
        weight.requires_grad = False
    return _going_on(model, going_on) if going_on else with_lora(model, options, base)


def load_base(folder: Path, options: TrainOptions, place: Place, remote_code: bool) -> Any:
    """The base model in its number format; in fp32 when its own weights are trained."""
    import torch
    import transformers

    dtype = place.torch_dtype if options.method == "lora" else torch.float32
    extra: dict[str, Any] = {}
    if options.bits < 16:
        extra["quantization_config"] = quantisation(options, dtype)
        extra["device_map"] = {"": _own_device(place)}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=remote_code, **extra
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be opened: {first_line(error)}") from None
    model.config.use_cache = False
    return model


def _own_device(place: Place) -> Any:
    return own_gpu() if place.device == "cuda" else place.device


def quantisation(options: TrainOptions, dtype: Any) -> Any:
    """How bitsandbytes keeps the base weights (QLoRA: NF4 with double quantisation)."""
    training_library("bitsandbytes")
    import transformers

    if options.bits == 8:
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=options.quant_type,
        bnb_4bit_use_double_quant=options.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def _upcast_norms(model: Any) -> None:
    import torch

    for name, weight in model.named_parameters():
        if weight.ndim == 1 and "norm" in name.lower():
            weight.data = weight.data.to(torch.float32)


def freeze(model: Any, layers: int, modules: str) -> Any:
    """Train only the last ``layers`` layers (the first ones if negative), in them ``modules``.

    ``modules`` are names of parts of a layer, with commas; ``all`` means the whole layer.
    """
    count = int(model.config.num_hidden_layers)
    chosen = range(count - layers, count) if layers > 0 else range(-layers)
    names = [name.strip() for name in modules.split(",") if name.strip()]
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
        raise UsageError(
            f"--trainable-modules {modules} with --trainable-layers {layers} names no weights",
            hint=f"parts of a layer: {', '.join(_layer_parts(model))}",
        )
    return model


def _layer_parts(model: Any) -> list[str]:
    found = (re.search(r"\.\d+\.([^.]+)\.", name) for name, _ in model.named_parameters())
    return sorted({match[1] for match in found if match})


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
    name = base.name
    local = Path(name)
    lora.peft_config["default"].base_model_name_or_path = (
        str(local.resolve()) if local.exists() else name
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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


# ------------------------------------------------------------------------- going on from adapters


def adapter_config(folder: Path) -> dict[str, Any]:
    """The settings of a LoRA adapter folder; raises ``ModelError``."""
    try:
        settings: dict[str, Any] = json.loads(
            (folder / "adapter_config.json").read_text(encoding="utf-8")
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: not a LoRA adapter: {first_line(error)}") from None
    if settings.get("peft_type", "LORA") != "LORA":
        raise ModelError(f"{folder}: a {settings['peft_type']} adapter, not LoRA")
    return settings


def check_continued(adapter: Path, options: TrainOptions, given: Iterable[str], note: Note) -> None:
    """Hold what was asked for against the adapter's own settings.

    Raises ``UsageError`` that names every setting that differs.
    """
    own = adapter_config(adapter)
    asked = set(given)
    modules = own.get("target_modules")
    pairs = [
        ("lora_r", options.lora_r, own.get("r")),
        ("lora_alpha", options.alpha, own.get("lora_alpha")),
        ("target_modules", sorted(_names(options.target_modules)), modules),
    ]
    differing = []
    for name, wanted, has in pairs:
        same = sorted(has) == wanted if isinstance(has, list) else wanted in (has, ["all"])
        if isinstance(has, list) and wanted == ["all"]:
            same = True
        if name in asked and not same:
            shown = ",".join(sorted(has)) if isinstance(has, list) else has
            given_value = ",".join(wanted) if isinstance(wanted, list) else f"{wanted:g}"
            differing.append(f"{name.replace('_', '-')} is {shown}, not {given_value}")
    if differing:
        raise UsageError(
            f"adapter {adapter}: its {'; its '.join(differing)}",
            hint="leave these options out to go on with the adapter's own, "
            "or give --fresh-lora to merge it and start a new one",
        )
    note(f"going on from {adapter}: its lora-r {own.get('r')}, alpha {own.get('lora_alpha')}")


def _going_on(model: Any, adapter: Path) -> Any:
    return _with_adapter(model, adapter, is_trainable=True)


def _with_adapter(model: Any, adapter: Path, **more: Any) -> Any:
    """A model with an adapter over it; raises ``ModelError``."""
    import peft

    adapter_config(adapter)
    if not any((adapter / f"adapter_model.{end}").is_file() for end in ("safetensors", "bin")):
        raise ModelError(f"{adapter}: no adapter_model.safetensors in it")
    try:
        return peft.PeftModel.from_pretrained(model, str(adapter), **more)
    except (RuntimeError, ValueError, OSError) as error:
        raise _misfit(adapter, error) from None
    except Exception as error:
        # safetensors reports a damaged file by an error class of its own.
        if type(error).__name__ != "SafetensorError":
            raise
        raise ModelError(f"{adapter}: its weights are damaged: {first_line(error)}") from None


def _misfit(adapter: Path, error: BaseException) -> ModelError:
    base = adapter_config(adapter).get("base_model_name_or_path")
    reason = "its weights have other shapes" if "size mismatch" in str(error) else first_line(error)
    return ModelError(
        f"adapter {adapter} does not fit this base model: {reason}",
        hint=f"it was trained on {base}" if base else "",
    )


def merge_adapters(model: Any, adapters: Iterable[Path]) -> Any:
    """Merge adapters into a model's weights, in order; raises ``ModelError``."""
    training_library("peft")
    for adapter in adapters:
        model = _with_adapter(model, adapter).merge_and_unload()
    return model


def _merge_below(base: Base, adapters: Iterable[Path], folder: Path) -> Path:
    """Base weights with adapters merged, in 16 bits, so that they can be quantised afterwards."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        base.folder, dtype="auto", trust_remote_code=base.remote_code
    )
    merge_adapters(model, adapters).save_pretrained(folder)
    return folder

"""Base weights and adapters for transformers, loaded whole or not at all.

transformers fills weights that a file lacks with random numbers, and PEFT lets an adapter lack
weights of the model or have others: both only warn. Here they are errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from iepile_cli.errors import ModelError
from iepile_cli.formatting import plural

_SHOWN = 3


def load_weights(folder: Path, **how: Any) -> Any:
    """The causal language model in a folder; ``how`` are arguments of ``from_pretrained``.

    Raises ``ModelError`` for a folder that cannot be opened or lacks weights, and what torch
    raises when memory runs out.
    """
    import transformers

    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, **how
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if how.get("trust_remote_code") and "auto_map" in _written_config(folder):
            raise foreign_failure(folder, error) from None
        if not isinstance(error, (OSError, ValueError, KeyError, ImportError, RuntimeError)):
            raise
        raise ModelError(f"{folder}: cannot be opened: {first_line(error)}") from None
    check_loaded(folder, info)
    return model


def refuse_foreign_code(folder: Path) -> None:
    """Raise ``ModelError`` for a model that cannot be opened without code that comes with it."""
    config = _written_config(folder)
    if "auto_map" not in config:
        return
    from transformers import CONFIG_MAPPING

    if config.get("model_type") not in CONFIG_MAPPING:
        raise ModelError(
            f"{folder}: this model ({config.get('model_type')}) runs code that comes with it",
            hint="--trust-remote-code runs it; do so only if you trust its publisher",
        )


def _written_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder as it is written; empty where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def longest_sequence(config: Any) -> int:
    """The longest sequence of a model in tokens, by its configuration."""
    names = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
    lengths = [getattr(config, name, None) for name in (*names, "model_max_length")]
    return next((length for length in lengths if isinstance(length, int) and length > 0), 4096)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine has no memory left."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "not enough memory" in said
    )


def check_loaded(path: Path, info: dict[str, Any]) -> None:
    """Raise ``ModelError`` when loading left weights at random values.

    ``info`` is what ``from_pretrained(output_loading_info=True)`` gives beside the model.
    """
    missing = sorted(map(str, info.get("missing_keys") or ()))
    mismatched = sorted(str(key[0]) for key in info.get("mismatched_keys") or ())
    for names, what in ((missing, "lacks"), (mismatched, "has other shapes for")):
        if names:
            raise ModelError(
                f"{path}: {what} {plural(len(names), 'weight')} of this model: {_named(names)}",
                hint="its files are not complete, or its config.json is another model's",
            )


def quantisation(bits: int, dtype: Any, *, kind: str = "nf4", double: bool = True) -> Any:
    """How bitsandbytes keeps weights in 4 (QLoRA's NF4, double quantisation) or 8 bits."""
    import transformers

    if bits == 8:
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
    )


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


def apply_adapter(model: Any, adapter: Path, *, name: str = "default", train: bool = False) -> Any:
    """A model with a PEFT adapter over it; beside those that it has, under its own name.

    Raises ``ModelError`` for an adapter that is damaged or not this model's.
    """
    import peft

    adapter_config(adapter)
    stored = _stored_names(adapter)
    try:
        if isinstance(model, peft.PeftModel):
            model.load_adapter(str(adapter), adapter_name=name, is_trainable=train)
        else:
            model = peft.PeftModel.from_pretrained(
                model, str(adapter), adapter_name=name, is_trainable=train
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        shapes = "size mismatch" in str(error)
        raise _misfit(adapter, "its weights have other shapes" if shapes else first_line(error))  # noqa: B904
    wanted = set(
        peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    )
    for names, what in (
        ({one for one in stored if "lora_" in one} - wanted, "of its weights are not in it"),
        (wanted - stored, "weights that it should have are missing"),
    ):
        if names:
            raise _misfit(adapter, f"{len(names)} {what}: {_named(sorted(names))}")
    return model


def merge_adapter(model: Any, adapter: Path) -> Any:
    """A model with an adapter merged into its weights; raises ``ModelError``.

    Each weight is summed in 32 bits, module by module, and rounded once: a sum in 16 bits would
    lose what LoRA adds to large values, and the whole model in 32 bits take twice the memory.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = apply_adapter(model, adapter)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "merge"):
            base = module.get_base_layer()
            dtypes = {key: weight.dtype for key, weight in base.named_parameters()}
            quantised = any(not dtype.is_floating_point for dtype in dtypes.values())
            if not quantised:
                module.to(torch.float32)
            module.merge()
            if not quantised:
                for key, weight in base.named_parameters():
                    weight.data = weight.data.to(dtypes[key])
    return model.unload()


def _stored_names(adapter: Path) -> set[str]:
    """The names of the weights in an adapter's file."""
    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        if not (adapter / "adapter_model.bin").is_file():
            raise ModelError(f"{adapter}: no adapter_model.safetensors in it")
        import torch

        return set(torch.load(adapter / "adapter_model.bin", "meta", weights_only=True))
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{adapter}: its weights are damaged: {first_line(error)}") from None


def _misfit(adapter: Path, reason: str) -> ModelError:
    base = adapter_config(adapter).get("base_model_name_or_path")
    return ModelError(
        f"adapter {adapter} does not fit this base model: {reason}",
        hint=f"it was trained on {base}" if base else "",
    )


def _named(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def foreign_failure(path: Path, error: Exception) -> ModelError:
    """What is said of a model's own code that fails, in whatever way."""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return ModelError(
        f"{path}: its own code fails with transformers {metadata.version('transformers')}: {said}",
        hint="a GGUF file of the model needs none of it",
    )


def first_line(error: BaseException) -> str:
    """The first line of an error of another library."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""A LoRA adapter in the form that llama.cpp loads over a GGUF model."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.gguf_names import gguf_library, stored
from iepile_cli.errors import ModelError
from iepile_cli.models.adapter_settings import GGUF_KEY, AdapterSettings
from iepile_cli.training.base import Base
from iepile_cli.training.weights import adapter_config

if TYPE_CHECKING:
    from iepile_cli.backends.gguf_names import Weights

_FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")


def write_gguf_adapter(
    base: Base, adapter: Path, output: Path, settings: AdapterSettings | None = None
) -> None:
    """Write a PEFT LoRA folder as a GGUF adapter (16-bit factors) for the base model.

    Raises ``ModelError`` for an adapter that holds more than LoRA factors.
    """
    gguf = gguf_library()
    config = adapter_config(adapter)
    if config.get("use_dora"):
        raise ModelError(f"{adapter}: DoRA cannot be a GGUF adapter", hint="use --to gguf")
    layout = base.layout()
    writer = gguf.GGUFWriter(output, layout.architecture)
    if settings:
        writer.add_string(GGUF_KEY, settings.as_json())
    writer.add_string(gguf.Keys.General.TYPE, gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"]))
    writer.add_string(gguf.Keys.General.NAME, adapter.name)
    for name, (first, second) in sorted(_factors(adapter).items()):
        second = second * _rescaled(config, name, first.shape[0])
        for place, rows in layout.placed(name, second):
            _add(writer, f"{place}.weight.lora_a", first)
            _add(writer, f"{place}.weight.lora_b", rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: Any, name: str, rows: Weights) -> None:
    import numpy as np

    writer.add_tensor(name, np.ascontiguousarray(rows, dtype=np.float16))


def _factors(adapter: Path) -> dict[str, tuple[Weights, Weights]]:
    """The two factors of each weight: name to (rank x in, out x rank)."""
    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(f"{adapter}: no adapter_model.safetensors in it")
    halves: dict[str, dict[str, Weights]] = {}
    for key, rows in stored(path):
        match = _FACTOR.fullmatch(key)
        if not match:
            raise ModelError(
                f"{adapter}: {key} is not a LoRA factor, and GGUF adapters hold nothing else",
                hint="merge it into the model: --to gguf",
            )
        halves.setdefault(match[1], {})[match[2]] = rows
    return {name: (pair["A"], pair["B"]) for name, pair in halves.items()}


def _rescaled(config: dict[str, Any], name: str, rank: int) -> float:
    """What the second factor is multiplied by: llama.cpp knows one alpha, divided by the rank."""
    alpha = _own(config.get("alpha_pattern"), name, config["lora_alpha"])
    wanted = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return float(wanted / (config["lora_alpha"] / rank))


def _own(patterns: dict[str, Any] | None, name: str, usual: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern}", name):
            return value
    return usual

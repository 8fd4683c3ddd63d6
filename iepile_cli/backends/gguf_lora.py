"""A LoRA adapter in GGUF, unpacked into the folder that PEFT reads.

The way back of what ``training.gguf_adapter`` writes: names and order of rows are those of
``gguf_names``, turned round.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.gguf import read_adapter
from iepile_cli.backends.gguf_names import Layout
from iepile_cli.errors import ModelError
from iepile_cli.models.adapter_settings import read_adapter_settings

if TYPE_CHECKING:
    from iepile_cli.backends.gguf_names import Weights


def unpack_adapter(adapter: Path, model: Any, folder: Path) -> Path:
    """Write a GGUF adapter as a PEFT folder for a transformers model; gives the folder.

    ``model`` is only asked for its configuration and the names and sizes of its weights. Raises
    ``ModelError`` for a file that is no LoRA adapter, or one of another model.
    """
    factors, alpha = read_adapter(adapter)
    fitting = _fitting(adapter, factors, model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(partial, adapter, fitting, alpha, model)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _fitting(
    adapter: Path, factors: dict[str, tuple[Weights, Weights]], model: Any
) -> dict[str, tuple[Weights, Weights]]:
    """The factors by the model's own names, their rows in the order of transformers."""
    import numpy as np

    layout = Layout.of(model.config, model.config.model_type)
    fitting: dict[str, tuple[Weights, Weights]] = {}
    for name, module in model.named_modules():
        sizes = getattr(module, "in_features", 0), getattr(module, "out_features", 0)
        if not all(sizes) or name.endswith("W_pack"):
            continue
        # Where each row of the model stands in the file.
        [(place, order)] = layout.placed(name, np.arange(sizes[1]))
        if f"{place}.weight" not in factors:
            continue
        into, out = factors[f"{place}.weight"]
        if (into.shape[1], out.shape[0]) != sizes or into.shape[0] != out.shape[1]:
            raise _misfit(adapter, f"the weights of {place} have other shapes")
        rows = np.empty_like(out)
        rows[order] = out
        fitting[name] = (into, rows)
    if len(fitting) != len(factors):
        raise _misfit(adapter, f"{len(factors) - len(fitting)} of its weights are not in it")
    return fitting


def _misfit(adapter: Path, reason: str) -> ModelError:
    recorded = read_adapter_settings(adapter)
    return ModelError(
        f"adapter {adapter} does not fit this base model: {reason}",
        hint=f"it was trained on {recorded.base_model}" if recorded else "",
    )


def _write(
    folder: Path,
    adapter: Path,
    factors: dict[str, tuple[Weights, Weights]],
    alpha: float,
    model: Any,
) -> None:
    from peft import LoraConfig
    from safetensors.numpy import save_file

    ranks = {name: into.shape[0] for name, (into, _) in factors.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    recorded = read_adapter_settings(adapter)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=recorded.base_model if recorded else None,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=_targets(set(factors), model),
        rank_pattern={name: own for name, own in ranks.items() if own != rank},
        # llama.cpp divides one alpha by each weight's own rank, as PEFT does.
        inference_mode=True,
    )
    config.save_pretrained(folder)
    halves = {}
    for name, (into, out) in factors.items():
        halves[f"base_model.model.{name}.lora_A.weight"] = into
        halves[f"base_model.model.{name}.lora_B.weight"] = out
    save_file(halves, folder / "adapter_model.safetensors")
    if recorded:
        recorded.write(folder)


def _targets(names: set[str], model: Any) -> list[str]:
    """The weights by the ends of their names where that says the same, else in full."""
    ends = {name.rpartition(".")[2] for name in names}
    meant = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends}
    return sorted(ends if meant == names else names)

"""Activations rounded as llama.cpp rounds them, for weights that transformers reads from GGUF.

llama.cpp multiplies weights of a block format with activations that it rounds to 8 bits first,
block by block. Without that the two libraries compute with the same weights and still choose
otherwise wherever two tokens are about equally likely.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from iepile_cli.backends.gguf_names import gguf_library

if TYPE_CHECKING:
    from torch import Tensor

Rounding: TypeAlias = "Callable[[Tensor], Tensor]"

# The formats whose activations come in blocks of 256; those of other formats in blocks of 32.
_LARGE_BLOCKS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ", "IQ1", "IQ2", "IQ3", "IQ4_XS")
_SMALL, _LARGE = 32, 256


def round_activations(model: Any, path: Path) -> int:
    """Have a model's linear layers round what goes in, by the format of their weights in a file.

    Gives how many layers do; a layer whose weights are not in blocks takes its input as it is.
    """
    import torch

    formats = _formats(path, model)
    count = 0
    for name, module in model.named_modules():
        rounding = _rounding(formats.get(name, ""))
        if rounding is None or not isinstance(module, torch.nn.Linear):
            continue
        module.register_forward_pre_hook(_hook(rounding))
        count += 1
    return count


def _formats(path: Path, model: Any) -> dict[str, str]:
    """The format of each weight of a file, by its name in transformers."""
    gguf = gguf_library()
    reader = gguf.GGUFReader(path)
    known = {tensor.name: str(tensor.tensor_type.name) for tensor in reader.tensors}
    architecture = reader.get_field("general.architecture").contents()
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in numbers:
        return {}
    layers = int(reader.get_field(f"{architecture}.block_count").contents())
    names = gguf.get_tensor_name_map(numbers[architecture], layers)
    # Many models have one table for their first and last layer.
    shared = known.get("token_embd.weight", "")
    found = {}
    for name, _ in model.named_modules():
        place = names.get_name(name) if name else None
        if place is not None:
            usual = shared if place == "output" else ""
            found[name] = known.get(f"{place}.weight", usual)
    return found


def _hook(rounding: Rounding) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
    def before(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return rounding(given[0]), *given[1:]

    return before


def _rounding(format_: str) -> Rounding | None:
    if format_ in ("", "F32", "F64"):
        return None
    if format_ in ("F16", "BF16"):
        return _half if format_ == "F16" else _brain
    return large_blocks if format_.startswith(_LARGE_BLOCKS) else small_blocks


def _half(values: Tensor) -> Tensor:
    return values.half().to(values.dtype)


def _brain(values: Tensor) -> Tensor:
    return values.bfloat16().to(values.dtype)


def small_blocks(values: Tensor) -> Tensor:
    """Rounded to 8 bits in blocks of 32 with a scale of 16 bits (Q8_0 and Q8_1)."""
    import torch

    if values.shape[-1] % _SMALL:
        return values
    blocks = values.reshape(*values.shape[:-1], -1, _SMALL)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    steps = torch.where(scale > 0, blocks / scale, torch.zeros_like(blocks)).round()
    return (steps * _half(scale)).reshape(values.shape)


def large_blocks(values: Tensor) -> Tensor:
    """Rounded to 8 bits in blocks of 256, the value that is furthest from 0 to -127 (Q8_K)."""
    import torch

    if values.shape[-1] % _LARGE:
        return values
    blocks = values.reshape(*values.shape[:-1], -1, _LARGE)
    furthest = blocks.abs().argmax(-1, keepdim=True)
    scale = blocks.gather(-1, furthest) / -127
    steps = torch.where(scale != 0, blocks / scale, torch.zeros_like(blocks)).round()
    return (steps.clamp(max=127) * scale).reshape(values.shape)

"""Weights of transformers in the names and layout of GGUF.

llama.cpp turns neighbouring pairs of a head's values for its positions where transformers turns
its two halves, so the rows of query and key weights of the Llama family are put in another order.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.gguf import GgufFile
from iepile_cli.errors import ModelError, install_hint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Weights = NDArray[np.floating[Any]]

# The number formats of safetensors, by NumPy's names.
_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
# transformers' model types: GGUF architecture, and whether query and key rows are reordered.
_FAMILIES: dict[str, tuple[str, bool]] = {
    "llama": ("llama", True),
    "mistral": ("llama", True),
    "baichuan": ("baichuan", True),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
}


@dataclass(frozen=True)
class Layout:
    """What is needed to write a model's weights as GGUF: architecture and numbers of heads."""

    architecture: str
    reorders: bool
    layers: int
    heads: int
    key_heads: int

    @classmethod
    def of(cls, config: Any, model: object) -> Layout:
        """The layout of a model's transformers configuration; ``model`` is its name in errors.

        Raises ``ModelError`` for a family that is not known.
        """
        kind = str(config.model_type)
        if kind not in _FAMILIES:
            raise ModelError(
                f"{model}: models of type {kind!r} have no known form in GGUF",
                hint=f"possible for: {', '.join(_FAMILIES)}; or export --to merged and convert "
                "with llama.cpp's own script",
            )
        architecture, reorders = _FAMILIES[kind]
        heads = int(config.num_attention_heads)
        return cls(
            architecture,
            reorders,
            int(config.num_hidden_layers),
            heads,
            int(getattr(config, "num_key_value_heads", None) or heads),
        )

    @classmethod
    def of_gguf(cls, path: Path) -> Layout:
        """The layout of a GGUF file; raises ``ModelError`` for an unknown architecture."""
        known = dict(_FAMILIES.values())
        with GgufFile(path) as file:
            name = str(file.value("general.architecture", ""))
            if name not in known:
                raise ModelError(f"{path}: the architecture {name!r} has no known layout")
            heads = int(file.value(f"{name}.attention.head_count"))
            pairs = file.value(f"{name}.attention.head_count_kv") or heads
            return cls(name, known[name], int(file.value(f"{name}.block_count")), heads, int(pairs))

    def placed(self, name: str, rows: Weights) -> Iterator[tuple[str, Weights]]:
        """A tensor under its GGUF name, reordered where it must be.

        ``name`` is transformers' name without ``.weight``; a LoRA's second factor is reordered as
        the weight that it belongs to. One tensor that holds query, key and value becomes three.
        Raises ``ModelError`` for a name that GGUF does not know.
        """
        import numpy as np

        if name.endswith("W_pack"):
            stem = name.removesuffix("W_pack")
            for part, third in zip("qkv", np.split(rows, 3), strict=True):
                yield from self.placed(f"{stem}{part}_proj", third)
            return
        if self.reorders and name.endswith("q_proj"):
            rows = paired(rows, self.heads)
        if self.reorders and name.endswith("k_proj"):
            rows = paired(rows, self.key_heads)
        yield self.named(name), rows

    def named(self, name: str) -> str:
        """The GGUF name of a weight, without ``.weight``."""
        found: str | None = self._names().get_name(name)
        if found is None:
            raise ModelError(f"GGUF has no place for the weight {name}")
        return found

    def _names(self) -> Any:
        gguf = gguf_library()
        numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        return gguf.get_tensor_name_map(numbers[self.architecture], self.layers)


def gguf_library() -> Any:
    """The ``gguf`` package; raises ``ModelError`` that says how to get it."""
    try:
        import gguf
    except ImportError:
        raise ModelError(
            "reading and writing GGUF needs gguf", hint=install_hint("train")
        ) from None
    return gguf


def paired(rows: Weights, heads: int) -> Weights:
    """Rows of each head with its two halves interleaved: 0, n/2, 1, n/2 + 1, ..."""
    width = rows.shape[0] // heads
    halves = rows.reshape(heads, 2, width // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def stored(path: Path) -> Iterator[tuple[str, Weights]]:
    """The tensors of a folder's or file's safetensors, one by one, in 32 bits.

    NumPy alone reads them; raises ``ModelError`` for a damaged file and a number format that is
    not known.
    """
    import numpy as np

    for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")):
        try:
            with file.open("rb") as opened:
                (size,) = struct.unpack("<Q", opened.read(8))
                header = json.loads(opened.read(size))
            data = np.memmap(file, np.uint8, "r", offset=8 + size)
            header.pop("__metadata__", None)
            for name, tensor in sorted(header.items()):
                begin, end = tensor["data_offsets"]
                yield name, _in_32_bits(data[begin:end], tensor["dtype"]).reshape(tensor["shape"])
        except (OSError, ValueError, KeyError, struct.error) as error:
            raise ModelError(f"{file}: its weights are damaged: {error}") from None


def _in_32_bits(raw: NDArray[np.uint8], kind: str) -> Weights:
    import numpy as np

    if kind == "BF16":
        # The upper half of a number in 32 bits.
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if kind not in _KINDS:
        raise ValueError(f"weights in {kind}")
    return raw.view(_KINDS[kind]).astype(np.float32)

"""GGUF files in the terms of transformers: names and order of weights, adapters, whole models.

llama.cpp turns neighbouring pairs of a head's values for its positions where transformers turns
its two halves, so the rows of query and key weights of the Llama family are put in another order.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.gguf import GgufFile, fingerprint, read_adapter
from iepile_cli.config import cache_folder
from iepile_cli.errors import ModelError, first_line, install_hint
from iepile_cli.models.adapter_settings import read_adapter_settings
from iepile_cli.writing import atomic_folder

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


def unpack_adapter(adapter: Path, model: Any, folder: Path) -> Path:
    """Write a GGUF adapter as a PEFT folder for a transformers model; gives the folder.

    ``model`` is only asked for its configuration and the names and sizes of its weights. Raises
    ``ModelError`` for a file that is no LoRA adapter, or one of another model.
    """
    factors, alpha = read_adapter(adapter)
    fitting = _fitting(adapter, factors, model)
    with atomic_folder(folder) as partial:
        _write(partial, adapter, fitting, alpha, model)
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


def unpacked(gguf: Path, *, on_note: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of a GGUF file's weights (16 bits) and tokenizer, from the cache or made now."""
    from filelock import FileLock

    folder = cache_folder() / "unpacked" / f"{gguf.stem}-{fingerprint(gguf)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Of several processes of a run the first one unpacks and the others wait.
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if (folder / "config.json").is_file():
            return folder
        on_note(f"unpacking {gguf.name} into {folder} (once)")
        with atomic_folder(folder) as partial:
            _unpack(gguf, partial)
    return folder


def _unpack(gguf: Path, folder: Path) -> None:
    import torch
    import transformers

    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    extra = {}
    if hasattr(transformers, "GgufConfig"):
        extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        # The bar of this conversion is drawn whatever transformers is told.
        with contextlib.redirect_stderr(io.StringIO()):
            tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                **place, dtype=torch.float32, **extra
            )
    except (ValueError, KeyError, NotImplementedError, ImportError, RuntimeError) as error:
        raise ModelError(
            f"{gguf}: transformers cannot unpack it: {first_line(error)}",
            hint="use the model's safetensors",
        ) from None
    largest = max(float(weight.detach().abs().max()) for weight in model.parameters())
    # A block format's values fit in fp16 and keep more digits there than in bf16.
    model.to(torch.float16 if largest < 60_000 else torch.bfloat16)
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

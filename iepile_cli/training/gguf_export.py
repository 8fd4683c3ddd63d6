"""What was trained as GGUF files for llama.cpp: an adapter, or a whole model."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.gguf_layout import Layout, gguf_library, stored
from iepile_cli.backends.transformers_loading import adapter_config, longest_sequence
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.models.adapter_settings import GGUF_KEY, AdapterSettings
from iepile_cli.training.gguf_vocabulary import Vocabulary, finish
from iepile_cli.training.model import Base, empty_model

if TYPE_CHECKING:
    from iepile_cli.backends.gguf_layout import Weights

_FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_DIRECT = ("f32", "f16", "q8_0")
# Taken anew for each file, or about the tensors of the file they come from.
_NOT_COPIED = (
    "GGUF.",
    "general.architecture",
    "general.file_type",
    "general.quantization",
    "iepile.",
    "split.",
)


# --------------------------------------------------------------------------------------- adapters


def adapter_obstacle(base: Base, config: dict[str, Any]) -> str:
    """Why an adapter of these PEFT settings cannot be a GGUF file over a base; empty if it can."""
    try:
        base.layout()
    except ModelError as error:
        return error.message
    return lora_obstacle(config)


def lora_obstacle(config: dict[str, Any]) -> str:
    """Why an adapter of these PEFT settings cannot be a GGUF file at all; empty if it can."""
    if config.get("use_dora"):
        return "DoRA has no form in GGUF"
    if config.get("modules_to_save"):
        return "modules trained whole (modules_to_save) have no place in a GGUF adapter"
    return ""


def write_gguf_adapter(
    layout: Layout, adapter: Path, output: Path, settings: AdapterSettings | None = None
) -> None:
    """Write a PEFT LoRA folder as a GGUF adapter (16-bit factors) for a base of that layout.

    Raises ``ModelError`` for an adapter that holds more than LoRA factors.
    """
    import numpy as np

    gguf = gguf_library()
    config = adapter_config(adapter)
    if obstacle := lora_obstacle(config):
        raise ModelError(
            f"{adapter}: cannot be a GGUF adapter: {obstacle}",
            hint="merge it into the model: --to gguf",
        )
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
            for end, half in (("lora_a", first), ("lora_b", rows)):
                small = np.ascontiguousarray(half, dtype=np.float16)
                writer.add_tensor(f"{place}.weight.{end}", small)
    finish(writer)


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
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern}", name):
            alpha = value
            break
    wanted = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return float(wanted / (config["lora_alpha"] / rank))


# ------------------------------------------------------------------------------------ whole models


def written_directly(kind: str) -> bool:
    """Whether a type is written without llama.cpp's quantisation.

    Raises ``UsageError`` for a type that llama.cpp does not know.
    """
    if kind.lower() in _DIRECT:
        return True
    _file_type(kind)
    return False


def _file_type(kind: str) -> int:
    from iepile_cli.backends.llamacpp import library

    lib = library()
    found = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}", None)
    if found is None:
        prefix = "LLAMA_FTYPE_MOSTLY_"
        names = sorted(name.removeprefix(prefix).lower() for name in dir(lib) if prefix in name)
        raise UsageError(
            f"--quantise {kind} is not a type of llama.cpp",
            hint=f"f32, {', '.join(names)}",
        )
    return int(found)


def quantise(source: Path, output: Path, kind: str) -> None:
    """Quantise a GGUF file by llama.cpp itself; raises ``ModelError`` when it cannot."""
    from iepile_cli.backends.llamacpp import library
    from iepile_cli.parallel import processors

    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = _file_type(kind)
    params.nthread = processors()
    # What no adapter changed of a GGUF base is still in the base's own format.
    params.allow_requantize = True
    if lib.llama_model_quantize(os.fsencode(source), os.fsencode(output), params):
        raise ModelError(
            f"llama.cpp cannot quantise this model to {kind}",
            hint="its rows may be too short for that type: try q8_0 or q4_0",
        )


def write_gguf_model(
    base: Base, folder: Path, output: Path, kind: str, settings: AdapterSettings
) -> None:
    """Write the safetensors of a folder as one GGUF file of type f32, f16 or q8_0.

    Settings and tokenizer are those of the base model's own GGUF file where it came from one.
    """
    import numpy as np

    gguf = gguf_library()
    layout = base.layout()
    writer = gguf.GGUFWriter(output, layout.architecture)
    writer.add_string(GGUF_KEY, settings.as_json())
    if base.is_gguf:
        _copy_settings(writer, base.path)
    else:
        _write_settings(writer, base, folder, layout)
    file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}[kind.lower()]
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    normalised = _normalised_output(base)
    for name, rows in stored(folder):
        if name == normalised:
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
        for place, placed in layout.placed(
            name.removesuffix(".weight").removesuffix(".bias"), rows
        ):
            suffix = ".bias" if name.endswith(".bias") else ".weight"
            _add_rows(writer, place + suffix, placed, kind.lower())
    finish(writer)


def _normalised_output(base: Base) -> str:
    """The output weight whose rows the model's code normalises (Baichuan 2); empty if it does not.

    llama.cpp multiplies with them as they are.
    """
    output = empty_model(base.folder, base.remote_code).get_output_embeddings()
    return "lm_head.weight" if type(output).__name__ == "NormHead" else ""


def _add_rows(writer: Any, name: str, rows: Weights, kind: str) -> None:
    import gguf
    import numpy as np

    # Norms and biases stay in 32 bits, as llama.cpp's own files have them.
    if rows.ndim == 1 or kind == "f32":
        writer.add_tensor(name, np.ascontiguousarray(rows, dtype=np.float32))
    elif kind == "q8_0" and rows.shape[-1] % 32 == 0:
        packed = gguf.quants.quantize(np.ascontiguousarray(rows), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, np.ascontiguousarray(rows, dtype=np.float16))


def _copy_settings(writer: Any, source: Path) -> None:
    import gguf

    for key, field in gguf.GGUFReader(source).fields.items():
        if key.startswith(_NOT_COPIED):
            continue
        kinds = field.types
        inner = kinds[-1] if kinds[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kinds[0], sub_type=inner)


def _write_settings(writer: Any, base: Base, folder: Path, layout: Layout) -> None:
    """Add a model's settings and tokenizer; raises ``ModelError`` for what GGUF cannot hold."""
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(
        folder, trust_remote_code=base.remote_code
    )
    width = int(getattr(config, "head_dim", None) or config.hidden_size // layout.heads)
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    writer.add_name(Path(base.name).name)
    writer.add_vocab_size(int(config.vocab_size))
    writer.add_block_count(layout.layers)
    writer.add_context_length(longest_sequence(config))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count(layout.heads)
    writer.add_head_count_kv(layout.key_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    theta = rope.get("rope_theta") or getattr(config, "rope_theta", None) or 10_000.0
    writer.add_rope_freq_base(float(theta))
    if rope.get("rope_type", "default") != "default":
        raise ModelError(
            f"{base.name}: its positions are scaled ({rope['rope_type']}), which cannot be written",
            hint="export --to merged and convert with llama.cpp's own script",
        )
    Vocabulary(base, folder, int(config.vocab_size)).write(writer)

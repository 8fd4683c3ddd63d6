"""A whole model as one GGUF file: weights, settings and tokenizer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.gguf_names import stored
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.models.adapter_settings import GGUF_KEY, AdapterSettings
from iepile_cli.training.base import Base, training_library

if TYPE_CHECKING:
    from iepile_cli.backends.gguf_names import Weights

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


def written_directly(kind: str) -> bool:
    """Whether a type is written without llama.cpp's quantisation.

    Raises ``UsageError`` for a type that llama.cpp does not know.
    """
    if kind.lower() in _DIRECT:
        return True
    _file_type(kind)
    return False


def _file_type(kind: str) -> int:
    from iepile_cli.backends.llamacpp_context import library

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
    from iepile_cli.backends.llamacpp_context import library

    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = _file_type(kind)
    params.nthread = os.cpu_count() or 1
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
    gguf = training_library("gguf")
    layout = base.layout()
    writer = gguf.GGUFWriter(output, layout.architecture)
    writer.add_string(GGUF_KEY, settings.as_json())
    if base.source.suffix == ".gguf":
        _copy_settings(writer, base.source)
    else:
        from iepile_cli.training.gguf_settings import write_settings

        write_settings(writer, base, folder, layout)
    file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}[kind.lower()]
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, rows in stored(folder):
        for place, placed in layout.placed(
            name.removesuffix(".weight").removesuffix(".bias"), rows
        ):
            suffix = ".bias" if name.endswith(".bias") else ".weight"
            _add(writer, place + suffix, placed, kind.lower())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: Any, name: str, rows: Weights, kind: str) -> None:
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

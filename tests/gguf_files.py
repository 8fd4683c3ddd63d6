"""Small real models for tests, made of the embedded one: as GGUF files, with LoRA adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from iepile_cli.models import resolve_model

# What of a GGUF file's header says how a text becomes tokens.
_KEPT = ("tokenizer.", "general.architecture")


def embedded_gguf() -> Path:
    """The model that comes with the installation."""
    return resolve_model("smollm2").path


def dequantised(source: Path, target: Path) -> Path:
    """The same model with all weights in 32 bits, so that every library computes alike."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = _writer(reader, target, keep=lambda name: True)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values)
    return _finished(writer, target)


def random_gguf(target: Path, *, layers: int = 2, width: int = 64, seed: int = 0) -> Path:
    """A Llama of random weights with the embedded model's vocabulary; about 13 MB for width 64."""
    import gguf

    reader = gguf.GGUFReader(embedded_gguf())
    writer = _writer(reader, target, keep=lambda name: name.startswith(_KEPT))
    heads, inner = 4, 2 * width
    writer.add_block_count(layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(reader.fields["tokenizer.ggml.tokens"].data))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    dice = np.random.default_rng(seed)

    def add(name: str, *shape: int, scale: float = 0.2) -> None:
        writer.add_tensor(name, (dice.standard_normal(shape) * scale).astype(np.float32))

    add("token_embd.weight", len(reader.fields["tokenizer.ggml.tokens"].data), width, scale=1.0)
    for n in range(layers):
        half = width // 2
        for name, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", half, width),
            ("attn_v", half, width),
            ("attn_output", width, width),
            ("ffn_gate", inner, width),
            ("ffn_up", inner, width),
            ("ffn_down", width, inner),
        ):
            add(f"blk.{n}.{name}.weight", rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{n}.{name}.weight", np.ones(width, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(width, dtype=np.float32))
    return _finished(writer, target)


def _writer(reader: Any, target: Path, keep: Any) -> Any:
    """A writer with the header fields of another file."""
    import gguf

    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        if not keep(name):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, inner)
    return writer


def _finished(writer: Any, target: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def lora(folder: Path, base: Path, *, seed: int = 0, rank: int = 4) -> tuple[Path, Path]:
    """One LoRA adapter of random weights for a model of ``random_gguf``: for PEFT and as GGUF."""
    import gguf
    from safetensors.numpy import save_file

    shapes = {tensor.name: tensor.shape[::-1] for tensor in gguf.GGUFReader(base).tensors}
    names = {"attn_v": "self_attn.v_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    dice = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(folder / "adapter.gguf", "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 2.0 * rank)
    weights = {}
    for name, shape in shapes.items():
        block, _, part = name.removesuffix(".weight").rpartition(".")
        if part not in names:
            continue
        rows, columns = map(int, shape)
        down = (dice.standard_normal((rank, columns)) * 0.3).astype(np.float32)
        up = (dice.standard_normal((rows, rank)) * 0.3).astype(np.float32)
        writer.add_tensor(f"{name}.lora_a", down)
        writer.add_tensor(f"{name}.lora_b", up)
        layer = f"base_model.model.model.layers.{block.removeprefix('blk.')}.{names[part]}"
        weights[f"{layer}.lora_A.weight"] = down
        weights[f"{layer}.lora_B.weight"] = up
    _finished(writer, folder / "adapter.gguf")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [name.split(".")[1] for name in names.values()],
    }
    peft = folder / "peft"
    peft.mkdir()
    (peft / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(weights, peft / "adapter_model.safetensors")
    return peft, folder / "adapter.gguf"

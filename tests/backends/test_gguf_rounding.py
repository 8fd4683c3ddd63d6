"""Activations rounded as llama.cpp does, judged by llama.cpp's own quantisation."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
from questions import start

torch = pytest.importorskip("torch")
from iepile_cli.backends import gguf_rounding  # noqa: E402


def theirs(values: Any, format_: str) -> Any:
    """A row through a block format of the gguf library and back."""
    import gguf

    kind = gguf.GGMLQuantizationType[format_]
    row = values.numpy().reshape(1, -1)
    return torch.from_numpy(gguf.dequantize(gguf.quantize(row, kind), kind)).reshape(-1)


def test_small_blocks_are_those_of_q8_0() -> None:
    dice = torch.Generator().manual_seed(0)
    values = torch.randn(32 * 50, generator=dice) * torch.logspace(-6, 3, 1600)
    values[64:96] = 0.0
    found = gguf_rounding.small_blocks(values)
    assert torch.equal(found[64:96], torch.zeros(32))
    # Halves go to the nearest even number in torch, away from zero there.
    assert (found == theirs(values, "Q8_0")).float().mean() > 0.99
    assert torch.allclose(found, values, atol=float(values.abs().max()) / 200)


def test_large_blocks_have_their_furthest_value_at_the_end_of_the_scale() -> None:
    dice = torch.Generator().manual_seed(1)
    values = torch.randn(3, 512, generator=dice)
    found = gguf_rounding.large_blocks(values)
    for row, rounded in zip(values.reshape(-1, 256), found.reshape(-1, 256), strict=True):
        furthest = row.abs().argmax()
        step = row[furthest].abs() / 127
        assert rounded[furthest] == pytest.approx(float(row[furthest]), rel=1e-6)
        assert (rounded - row).abs().max() <= step / 2 * 1.001
        assert len(set(rounded.tolist())) > 60
    odd = torch.ones(2, 100)
    assert gguf_rounding.large_blocks(odd) is odd
    assert gguf_rounding.small_blocks(odd) is odd


def test_every_layer_of_the_embedded_model_rounds_and_of_whole_weights_none(
    embedded: Path, model: Path
) -> None:
    small: Any = start("transformers", embedded)
    layers = [m for m in small._loaded.model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(layers) == 211
    assert all(len(layer._forward_pre_hooks) == 1 for layer in layers)
    small.close()
    whole: Any = start("transformers", model)
    assert not any(m._forward_pre_hooks for m in whole._loaded.model.modules())
    whole.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gguf_files import random_gguf

    return random_gguf(tmp_path_factory.mktemp("model") / "random.gguf")


def test_a_quantised_layer_is_computed_as_llama_cpp_computes_it() -> None:
    """One product of a block-format matrix and a vector, by ggml and by us."""
    import gguf
    import numpy as np

    ggml = pytest.importorskip("llama_cpp._ggml")
    library = getattr(ggml, "libggml_base", None) or getattr(ggml, "libggml", None)
    quantize = getattr(library, "quantize_row_q8_0_ref", None)
    if quantize is None:
        pytest.skip("this build does not show its quantisation")
    values = np.random.default_rng(2).standard_normal(256).astype(np.float32)
    packed = (ctypes.c_uint8 * (256 // 32 * 34))()
    quantize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    quantize(values.ctypes.data, ctypes.addressof(packed), 256)
    kind = gguf.GGMLQuantizationType.Q8_0
    raw = np.frombuffer(bytes(packed), dtype=np.uint8).reshape(1, -1)
    expected = torch.from_numpy(gguf.dequantize(raw, kind)).reshape(-1)
    assert torch.equal(gguf_rounding.small_blocks(torch.from_numpy(values)), expected)

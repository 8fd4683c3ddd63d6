"""A model's vocabulary as llguidance needs it, to say which tokens a grammar allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iepile_cli.errors import ModelError

if TYPE_CHECKING:
    from llguidance import LLTokenizer


def llguidance_of_hf(tokenizer: Any) -> LLTokenizer:
    """For a tokenizer of the transformers library; raises ``ModelError`` for a slow one."""
    from llguidance.hf import from_tokenizer

    try:
        return from_tokenizer(tokenizer)
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"this tokenizer ({type(tokenizer).__name__}) cannot be constrained: {error}",
            hint="use a GGUF file of the model",
        ) from None


def llguidance_of_vocab(vocab: Any) -> LLTokenizer:
    """For a llama.cpp vocabulary; takes a second for a large one."""
    import warnings

    from llguidance.llamacpp import lltokenizer_from_vocab

    with warnings.catch_warnings():
        # It still calls llama.cpp's functions by their old names.
        warnings.simplefilter("ignore", DeprecationWarning)
        return lltokenizer_from_vocab(vocab)


def leading_space(tokenizer: LLTokenizer, ids: list[int]) -> str:
    """What a vocabulary puts before any text, seen in the ids of one: a space, or nothing."""
    return " " if tokenizer.decode_bytes(ids).startswith(b" ") else ""

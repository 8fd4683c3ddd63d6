"""The tokenizers of the backends' libraries, as templates need them.

Both give the ids of plain text and of single control tokens apart. A control token is what a
vocabulary calls control or unknown, and of its user-defined or unused tokens those that are
written like one. Where a library turns plain text into such a token all the same,
``iepile_cli.templates.encode`` sees to it.
"""

from __future__ import annotations

import functools
import re
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# Vocabularies keep words and runs of spaces as user-defined tokens too; those are text.
_WRITTEN_AS_CONTROL = re.compile(r"[<\[{(].*[>\]})]:?", re.DOTALL)


class LlamaCppTokenizer:
    """A llama.cpp vocabulary; ``model``, which the caller keeps open, brings the chat template."""

    def __init__(self, vocab: Any, model: Any = None) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._vocab = vocab
        self._size = int(llama_cpp.llama_vocab_n_tokens(vocab))
        self._known: dict[int, bool] = {}
        self.bos = self._token(llama_cpp.llama_vocab_bos(vocab))
        self.eos = self._token(llama_cpp.llama_vocab_eos(vocab))
        self.add_bos = bool(llama_cpp.llama_vocab_get_add_bos(vocab))
        template = None if model is None else llama_cpp.llama_model_chat_template(model, None)
        self.chat_template = template.decode("utf-8", "replace") if template else None

    @classmethod
    def open(cls, path: str | Path) -> LlamaCppTokenizer:
        """The tokenizer of a GGUF file, without its weights; raises ``ModelError``."""
        from iepile_cli.backends.llamacpp_context import library, load_model

        model = load_model(Path(path), vocab_only=True)
        tokenizer = cls(library().llama_model_get_vocab(model), model)
        weakref.finalize(tokenizer, library().llama_model_free, model)
        return tokenizer

    def text(self, text: str) -> list[int]:
        """Ids of plain text; llama.cpp still reads the user-defined tokens in it."""
        raw = text.encode("utf-8")
        room = len(raw) + 2
        while True:
            buffer = (self._lib.llama_token * room)()
            count = self._lib.llama_tokenize(self._vocab, raw, len(raw), buffer, room, False, False)
            if count >= 0:
                return list(buffer[:count])
            room = -count

    def control(self, token: str) -> int | None:
        """Id of a control token by its exact string, None if the model has no such token."""
        found = self._controls.get(token)
        if found is None and _WRITTEN_AS_CONTROL.fullmatch(token):
            # The roles of Baichuan are tokens of the ordinary kind.
            found = self._ordinary.get(token)
        return found

    def is_control(self, token_id: int) -> bool:
        """Whether an id is that of a control token."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._looks_control(token_id)
        return known

    def controls(self) -> Mapping[str, int]:
        """All control tokens: string to id."""
        return self._controls

    def constraining(self) -> LLTokenizer:
        """The vocabulary as grammars need it."""
        from iepile_cli.backends.constraining import llguidance_of_vocab

        return llguidance_of_vocab(self._vocab)

    @functools.cached_property
    def _controls(self) -> dict[str, int]:
        return {self._string(i): i for i in range(self._size) if self._looks_control(i)}

    @functools.cached_property
    def _ordinary(self) -> dict[str, int]:
        strings = ((self._string(i), i) for i in range(self._size))
        return {string: i for string, i in strings if _WRITTEN_AS_CONTROL.fullmatch(string)}

    def _looks_control(self, token_id: int) -> bool:
        lib = self._lib
        attributes = lib.llama_vocab_get_attr(self._vocab, token_id)
        if attributes & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN):
            return True
        own = lib.LLAMA_TOKEN_ATTR_USER_DEFINED | lib.LLAMA_TOKEN_ATTR_UNUSED
        return bool(attributes & own and _WRITTEN_AS_CONTROL.fullmatch(self._string(token_id)))

    def _string(self, token_id: int) -> str:
        raw: bytes = self._lib.llama_vocab_get_text(self._vocab, token_id) or b""
        return raw.decode("utf-8", "replace")

    def _token(self, token_id: int) -> int | None:
        return token_id if token_id >= 0 else None


class HFTokenizer:
    """A tokenizer of the transformers library, fast or slow."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.bos: int | None = tokenizer.bos_token_id
        self.eos: int | None = tokenizer.eos_token_id
        self.add_bos = self.bos is not None and tokenizer("a").input_ids[:1] == [self.bos]
        self.chat_template = _chat_template(tokenizer.chat_template)

    def text(self, text: str) -> list[int]:
        """Ids of plain text; added tokens that are not marked as special are still read."""
        encoded = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return [int(i) for i in encoded.input_ids]

    def control(self, token: str) -> int | None:
        """Id of a control token by its exact string, None if the model has no such token."""
        found = self._controls.get(token)
        if found is None and _WRITTEN_AS_CONTROL.fullmatch(token):
            ordinary = self._tokenizer.convert_tokens_to_ids(token)
            if ordinary is not None and ordinary != self._tokenizer.unk_token_id:
                found = int(ordinary)
        return found

    def is_control(self, token_id: int) -> bool:
        """Whether an id is that of a control token."""
        return token_id in self._ids

    def controls(self) -> Mapping[str, int]:
        """All control tokens: string to id."""
        return self._controls

    def constraining(self) -> LLTokenizer:
        """The vocabulary as grammars need it; raises ``ModelError`` for a slow tokenizer."""
        from iepile_cli.backends.constraining import llguidance_of_hf

        return llguidance_of_hf(self._tokenizer)

    @functools.cached_property
    def _controls(self) -> dict[str, int]:
        added = self._tokenizer.added_tokens_decoder.items()
        named = {
            token.content: int(i)
            for i, token in added
            if token.special or _WRITTEN_AS_CONTROL.fullmatch(token.content)
        }
        pairs = zip(
            self._tokenizer.all_special_tokens, self._tokenizer.all_special_ids, strict=True
        )
        return named | {str(token): int(i) for token, i in pairs}

    @functools.cached_property
    def _ids(self) -> frozenset[int]:
        return frozenset(self._controls.values())


def _chat_template(given: Any) -> str | None:
    # A tokenizer may bring several; "default" is the one for plain conversations.
    if isinstance(given, dict):
        given = given.get("default")
    return given if isinstance(given, str) else None

"""The tokenizers of the backends' libraries, as templates and grammars need them.

Both give the ids of plain text and of single control tokens apart. A control token is what a
vocabulary calls control or unknown, and of its user-defined or unused tokens those that are
written like one. Where a library turns plain text into such a token all the same,
``iepile_cli.templates.encode`` sees to it. ``constraining`` is the vocabulary for llguidance,
which says which tokens a grammar allows.
"""

from __future__ import annotations

import ctypes
import functools
import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.protocol import ConstrainingTokenizer
from iepile_cli.backends.vocabulary import WRITTEN_AS_CONTROL, Vocabulary
from iepile_cli.errors import ModelError, first_line, install_hint

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# Between two words: where no token reaches across, what is on either side is tokenised alike apart.
_BETWEEN_WORDS = re.compile(r"(?<=\S)(?= \S)")
_INNER_WORD = re.compile(r" \S(?:.*\S)?", re.DOTALL)
# Words of so many characters in all are kept with their tokens, in some 40 MB.
_KEPT_CHARACTERS = 1 << 20


def open_tokenizer(path: Path, *, remote_code: bool = False) -> LlamaCppTokenizer | HFTokenizer:
    """The tokenizer of a GGUF file, or of a folder of weights; raises ``ModelError``.

    That of a GGUF file is llama.cpp's, which defines it: what transformers makes of it differs.
    """
    if path.suffix == ".gguf":
        return LlamaCppTokenizer.open(path)
    return HFTokenizer(hf_tokenizer(path, remote_code=remote_code))


def hf_tokenizer(folder: Path, *, remote_code: bool = False) -> Any:
    """The transformers tokenizer of a folder; raises ``ModelError``.

    ``remote_code`` runs code that comes with it.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ModelError(
            f"{folder}: its tokenizer needs transformers", hint=install_hint("train")
        ) from None
    try:
        # Said outright, or the library asks whoever sits at the terminal.
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=remote_code
        )
    except Exception as error:
        if remote_code:
            raise foreign_failure(folder, error) from None
        if not isinstance(error, (OSError, ValueError, KeyError, RuntimeError, ImportError)):
            raise
        raise ModelError(f"{folder}: its tokenizer cannot be loaded: {first_line(error)}") from None


def foreign_failure(path: Path, error: Exception) -> ModelError:
    """What is said of a model's own code that fails, in whatever way."""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return ModelError(
        f"{path}: its own code fails with transformers {metadata.version('transformers')}: {said}",
        hint="a GGUF file of the model needs none of it",
    )


def spells(tokenizer: LLTokenizer, text: str) -> bool:
    """Whether a vocabulary can write a text: it comes back from its tokens unchanged."""
    raw = text.encode()
    return bool(tokenizer.decode_bytes(tokenizer.tokenize_bytes(raw)) == raw)


def leading_space(tokenizer: ConstrainingTokenizer) -> str:
    """What a vocabulary puts before any text, as SentencePiece does: a space, or nothing."""
    spelled = tokenizer.constraining.decode_bytes(tokenizer.text("{"))
    return " " if spelled.startswith(b" ") else ""


class LlamaCppTokenizer:
    """The vocabulary of a GGUF file; ``model``, which the caller keeps open, has the template.

    Use it in one thread at a time.
    """

    def __init__(self, model: Any, path: Path) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self._path = path
        self._words: dict[str, list[int]] = {}
        self._kept = 0
        self.bos = self._token(llama_cpp.llama_vocab_bos(self._vocab))
        self.eos = self._token(llama_cpp.llama_vocab_eos(self._vocab))
        self.add_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        template = llama_cpp.llama_model_chat_template(model, None)
        self.chat_template = template.decode("utf-8", "replace") if template else None

    @classmethod
    def open(cls, path: str | Path) -> LlamaCppTokenizer:
        """The tokenizer of a GGUF file, without its weights; raises ``ModelError``."""
        from iepile_cli.backends.llamacpp import library, load_model

        model = load_model(Path(path), vocab_only=True)
        tokenizer = cls(model, Path(path))
        weakref.finalize(tokenizer, library().llama_model_free, model)
        return tokenizer

    def text(self, text: str) -> list[int]:
        """Ids of plain text, each word tokenised once; user-defined tokens in it are still read."""
        if not self.vocabulary.has_words:
            return self.whole(text)
        words = _BETWEEN_WORDS.split(text)
        known = self._learn(words)
        return [token for word in words for token in known[word]]

    def learn(self, texts: Iterable[str]) -> None:
        """Tokenise the words of texts to come by one call, which takes as long as many."""
        if self.vocabulary.has_words:
            self._learn([word for text in texts for word in _BETWEEN_WORDS.split(text)])

    def _learn(self, words: Iterable[str]) -> Mapping[str, list[int]]:
        """The tokens of words, those of all of them among others."""
        known = self._words
        new = [word for word in dict.fromkeys(words) if word not in known]
        self._kept += sum(map(len, new))
        if self._kept > _KEPT_CHARACTERS:
            known = self._words = {}
            new = list(dict.fromkeys(words))
            self._kept = sum(map(len, new))
        # The first word of a text and the last may have no place among others.
        inner = [word for word in new if _INNER_WORD.fullmatch(word)]
        known.update(zip(inner, self._apart(inner), strict=True))
        known.update((word, self.whole(word)) for word in new if word not in known)
        return known

    def _apart(self, words: Sequence[str]) -> list[list[int]]:
        """The tokens of each word, by one call for them all."""
        if len(words) < 2:
            return [self.whole(word) for word in words]
        ids, lengths, at = self.whole("".join(words)), self._piece_lengths, 0
        result = []
        for word in words:
            start, left = at, len(word.encode("utf-8"))
            while left > 0 and at < len(ids):
                left -= lengths[ids[at]]
                at += 1
            if left:
                # A vocabulary that lacks some bytes leaves them out, somewhere.
                half = len(words) // 2
                return self._apart(words[:half]) + self._apart(words[half:])
            result.append(ids[start:at])
        return result

    @functools.cached_property
    def _piece_lengths(self) -> list[int]:
        """The bytes of each token, without the mark of those that no text becomes."""
        return [len(piece.removeprefix(b"\xff")) for piece in self.vocabulary.pieces]

    def whole(self, text: str) -> list[int]:
        """Ids of plain text by one call of llama.cpp's."""
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
        # The roles of Baichuan are tokens of the ordinary kind.
        return self.vocabulary.controls.get(token, self.vocabulary.ordinary.get(token))

    @functools.cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids of all control tokens."""
        return frozenset(self.vocabulary.controls.values())

    def controls(self) -> Mapping[str, int]:
        """All control tokens: string to id."""
        return self.vocabulary.controls

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """What the vocabulary says of its tokens."""
        return Vocabulary.cached(self._vocab, self._path)

    @functools.cached_property
    def constraining(self) -> LLTokenizer:
        """The vocabulary for llguidance."""
        from llguidance import LLTokenizer

        tokenize = ctypes.cast(self._lib.llama_cpp._lib.llama_tokenize, ctypes.c_void_p)
        # Slices make masks of free text faster; our mentions are words of a passage.
        return LLTokenizer.from_llamacpp(
            tokens=self.vocabulary.pieces,
            vocab_ptr=self._vocab,
            tokenize_fptr=tokenize.value,
            eos_token=self._lib.llama_vocab_eos(self._vocab),
            slices=[],
        )

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
        if self._backend is not None:
            # Set anew each time: every call of transformers' own sets it too.
            self._backend.encode_special_tokens = True
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        encoded = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return [int(i) for i in encoded.input_ids]

    @functools.cached_property
    def _backend(self) -> Any:
        """What tokenises for transformers, which takes longer itself; None for a slow tokenizer."""
        if not self._tokenizer.is_fast:
            return None
        backend = self._tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return backend

    def control(self, token: str) -> int | None:
        """Id of a control token by its exact string, None if the model has no such token."""
        found = self._controls.get(token)
        if found is None and WRITTEN_AS_CONTROL.fullmatch(token):
            ordinary = self._tokenizer.convert_tokens_to_ids(token)
            if ordinary is not None and ordinary != self._tokenizer.unk_token_id:
                found = int(ordinary)
        return found

    @functools.cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids of all control tokens."""
        return frozenset(self._controls.values())

    def controls(self) -> Mapping[str, int]:
        """All control tokens: string to id."""
        return self._controls

    @functools.cached_property
    def constraining(self) -> LLTokenizer:
        """The vocabulary for llguidance; raises ``ModelError`` for a slow tokenizer."""
        from llguidance.hf import from_tokenizer

        try:
            return from_tokenizer(self._tokenizer)
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"this tokenizer ({type(self._tokenizer).__name__}) cannot be constrained: {error}",
                hint="use a GGUF file of the model",
            ) from None

    @functools.cached_property
    def _controls(self) -> dict[str, int]:
        added = self._tokenizer.added_tokens_decoder.items()
        named = {
            token.content: int(i)
            for i, token in added
            if token.special or WRITTEN_AS_CONTROL.fullmatch(token.content)
        }
        pairs = zip(
            self._tokenizer.all_special_tokens, self._tokenizer.all_special_ids, strict=True
        )
        return named | {str(token): int(i) for token, i in pairs}


def _chat_template(given: Any) -> str | None:
    # A tokenizer may bring several; "default" is the one for plain conversations.
    if isinstance(given, dict):
        given = given.get("default")
    return given if isinstance(given, str) else None


# Bytes of UTF-8 that a token stands for at the least, in most vocabularies and scripts.
_BYTES_PER_TOKEN = 3


class GuessedTokenizer:
    """Stands in for a tokenizer that is not at hand: counts roughly, and believes every name."""

    bos: int | None = None
    eos: int | None = 0
    add_bos = False
    chat_template: str | None = None

    def text(self, text: str) -> list[int]:
        """As many ids as the text may have, on the safe side; they mean nothing."""
        return [1] * (-(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN))

    def control(self, token: str) -> int | None:
        """Some id: the model is taken to have the token."""
        return 0

    # None that ``text`` gives is one.
    control_ids = frozenset({0})

    def controls(self) -> Mapping[str, int]:
        """None is known."""
        return {}

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
import hashlib
import json
import re
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli import config
from iepile_cli.backends.protocol import ConstrainingTokenizer
from iepile_cli.errors import DataError, ModelError, first_line, install_hint
from iepile_cli.writing import write_atomic

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# Vocabularies keep words and runs of spaces as user-defined tokens too; those are text.
_WRITTEN_AS_CONTROL = re.compile(r"[<\[{(].*[>\]})]:?", re.DOTALL)
_LONGEST_PIECE = 16 * 1024
# Part of the name of a cached vocabulary; raised when its content changes.
_CACHED_FORM = 1


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


@dataclass(frozen=True)
class Vocabulary:
    """What a llama.cpp vocabulary says of its tokens.

    ``pieces`` are their bytes as llguidance takes them, control tokens marked; ``controls`` and
    ``ordinary`` the strings of control tokens and of others written like one, with their ids;
    ``ends`` are the tokens that end an answer.
    """

    pieces: list[bytes]
    controls: dict[str, int]
    ordinary: dict[str, int]
    ends: frozenset[int]

    @classmethod
    def read(cls, vocab: Any) -> Vocabulary:
        """Read every token of a vocabulary, which takes some tenths of a second."""
        import llama_cpp as lib

        buffer = ctypes.create_string_buffer(_LONGEST_PIECE)
        pieces: list[bytes] = []
        controls: dict[str, int] = {}
        ordinary: dict[str, int] = {}
        for token in range(lib.llama_vocab_n_tokens(vocab)):
            size = lib.llama_token_to_piece(vocab, token, buffer, _LONGEST_PIECE, 0, True)
            piece = ctypes.string_at(buffer, max(0, size))
            attributes = lib.llama_vocab_get_attr(vocab, token)
            text = (lib.llama_vocab_get_text(vocab, token) or b"").decode("utf-8", "replace")
            if _is_control(lib, attributes, text):
                controls[text] = token
            elif _WRITTEN_AS_CONTROL.fullmatch(text):
                ordinary[text] = token
            # The mark by which llguidance knows tokens that no text may become.
            marked = attributes & lib.LLAMA_TOKEN_ATTR_CONTROL or (
                attributes & lib.LLAMA_TOKEN_ATTR_USER_DEFINED
                and piece.startswith(b"<")
                and piece.endswith(b">")
            )
            pieces.append(b"\xff" + piece if marked else piece)
        count = range(len(pieces))
        ends = frozenset(token for token in count if lib.llama_vocab_is_eog(vocab, token))
        return cls(pieces, controls, ordinary, ends)

    @classmethod
    def cached(cls, vocab: Any, path: Path) -> Vocabulary:
        """That of a file's vocabulary, from the cache where it was read before."""
        facts = path.stat()
        key = f"{_CACHED_FORM}\0{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}"
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        file = config.cache_folder() / "vocabularies" / f"{name}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            return cls._loaded(json.loads(file.read_bytes()))
        made = cls.read(vocab)
        with suppress(OSError, DataError):
            write_atomic(file, json.dumps(made._as_json()))
        return made

    def _as_json(self) -> dict[str, Any]:
        pieces = [piece.decode("latin-1") for piece in self.pieces]
        tokens = {"controls": self.controls, "ordinary": self.ordinary, "ends": sorted(self.ends)}
        return {"pieces": pieces, **tokens}

    @classmethod
    def _loaded(cls, made: dict[str, Any]) -> Vocabulary:
        pieces = [piece.encode("latin-1") for piece in made["pieces"]]
        return cls(pieces, dict(made["controls"]), dict(made["ordinary"]), frozenset(made["ends"]))


def _is_control(lib: Any, attributes: int, text: str) -> bool:
    if attributes & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN):
        return True
    own = lib.LLAMA_TOKEN_ATTR_USER_DEFINED | lib.LLAMA_TOKEN_ATTR_UNUSED
    return bool(attributes & own and _WRITTEN_AS_CONTROL.fullmatch(text))


class LlamaCppTokenizer:
    """The vocabulary of a GGUF file; ``model``, which the caller keeps open, has the template.

    Use it in one thread at a time.
    """

    def __init__(self, model: Any, path: Path) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self._path = path
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
            if token.special or _WRITTEN_AS_CONTROL.fullmatch(token.content)
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

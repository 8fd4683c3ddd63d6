"""What a vocabulary of llama.cpp's says of its tokens, read once and kept in the cache."""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_cli import config
from iepile_cli.errors import DataError
from iepile_cli.writing import write_atomic

# Vocabularies keep words and runs of spaces as user-defined tokens too; those are text.
WRITTEN_AS_CONTROL = re.compile(r"[<\[{(].*[>\]})]:?", re.DOTALL)
_LONGEST_PIECE = 16 * 1024
# Part of the name of a cached vocabulary; raised when its content changes.
_CACHED_FORM = 2
_ACROSS_WORDS = re.compile(r"\S ")


@dataclass(frozen=True)
class Vocabulary:
    """What a llama.cpp vocabulary says of its tokens.

    ``pieces`` are their bytes as llguidance takes them, control tokens marked; ``controls`` and
    ``ordinary`` the strings of control tokens and of others written like one, with their ids;
    ``ends`` are the tokens that end an answer. ``has_words``: a text's words, each with the space
    before it, have the same tokens apart as together.
    """

    pieces: list[bytes]
    controls: dict[str, int]
    ordinary: dict[str, int]
    ends: frozenset[int]
    has_words: bool

    @classmethod
    def read(cls, vocab: Any) -> Vocabulary:
        """Read every token of a vocabulary, which takes some tenths of a second."""
        import llama_cpp as lib

        buffer = ctypes.create_string_buffer(_LONGEST_PIECE)
        pieces: list[bytes] = []
        controls: dict[str, int] = {}
        ordinary: dict[str, int] = {}
        # Byte pairs are merged into tokens of the vocabulary alone, so never across words that no
        # token joins. Other kinds put a space before each text of their own accord.
        has_words = lib.llama_vocab_type(vocab) == lib.LLAMA_VOCAB_TYPE_BPE
        for token in range(lib.llama_vocab_n_tokens(vocab)):
            size = lib.llama_token_to_piece(vocab, token, buffer, _LONGEST_PIECE, 0, True)
            piece = ctypes.string_at(buffer, max(0, size))
            attributes = lib.llama_vocab_get_attr(vocab, token)
            text = (lib.llama_vocab_get_text(vocab, token) or b"").decode("utf-8", "replace")
            if _is_control(lib, attributes, text):
                controls[text] = token
            elif WRITTEN_AS_CONTROL.fullmatch(text):
                ordinary[text] = token
            # A user-defined token may take the spaces after it, too.
            if (
                _ACROSS_WORDS.search(piece.decode("utf-8", "replace"))
                or attributes & lib.LLAMA_TOKEN_ATTR_RSTRIP
            ):
                has_words = False
            # The mark by which llguidance knows tokens that no text may become.
            marked = attributes & lib.LLAMA_TOKEN_ATTR_CONTROL or (
                attributes & lib.LLAMA_TOKEN_ATTR_USER_DEFINED
                and piece.startswith(b"<")
                and piece.endswith(b">")
            )
            pieces.append(b"\xff" + piece if marked else piece)
        count = range(len(pieces))
        ends = frozenset(token for token in count if lib.llama_vocab_is_eog(vocab, token))
        return cls(pieces, controls, ordinary, ends, has_words)

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
        return {"pieces": pieces, **tokens, "has_words": self.has_words}

    @classmethod
    def _loaded(cls, made: dict[str, Any]) -> Vocabulary:
        pieces = [piece.encode("latin-1") for piece in made["pieces"]]
        controls, ordinary, ends = dict(made["controls"]), dict(made["ordinary"]), made["ends"]
        return cls(pieces, controls, ordinary, frozenset(ends), bool(made["has_words"]))


def _is_control(lib: Any, attributes: int, text: str) -> bool:
    if attributes & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN):
        return True
    own = lib.LLAMA_TOKEN_ATTR_USER_DEFINED | lib.LLAMA_TOKEN_ATTR_UNUSED
    return bool(attributes & own and WRITTEN_AS_CONTROL.fullmatch(text))

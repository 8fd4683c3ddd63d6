"""What a prompt is made of, and its token ids: no text ever becomes a control token.

Told to read no control tokens, tokenizers still read some: llama.cpp those that a vocabulary calls
user-defined, transformers the added tokens that are not marked as special; and a template may use
tokens of the ordinary kind. So the ids of a text are looked at, and where they hold a control token
the text is cut inside the name of that token and its parts are tokenised apart.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from iepile_cli.errors import ModelError

# What may stand before a text so that it is tokenised as the continuation of another.
_ANCHORS = ("\n", ".", "a", "0")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Control:
    """One control token, by its exact string.

    With ``or_text`` a tokenizer that does not know it gets the string as text, joined to the text
    around it: some marks (``[INST]``) are tokens in some models of a family and text in others.
    """

    token: str
    or_text: bool = False


@dataclass(frozen=True)
class Text:
    """Plain text, tokenised by itself; it never gives a control token."""

    text: str


@dataclass(frozen=True)
class Bos:
    """The token that opens a sequence; nothing for a tokenizer that does not add one."""


@dataclass(frozen=True)
class Eos:
    """The token that closes an answer."""


Piece = Control | Text | Bos | Eos


@dataclass(frozen=True)
class Prompt:
    """A question ready for a model: its pieces, and for chat servers the plain texts.

    ``stop`` are the words at which an answer to it is over.
    """

    pieces: tuple[Piece, ...]
    system: str
    user: str
    stop: tuple[str, ...] = ()


class Tokenizer(Protocol):
    """What templates need of a model's tokenizer."""

    @property
    def bos(self) -> int | None:
        """Id of the token that opens a sequence."""
        ...

    @property
    def eos(self) -> int | None:
        """Id of the token that ends an answer."""
        ...

    @property
    def add_bos(self) -> bool:
        """Whether the model expects that token."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The model's own chat template, in Jinja."""
        ...

    def control(self, token: str) -> int | None:
        """Id of a control token by its exact string, None if the model has no such token."""
        ...

    def text(self, text: str) -> list[int]:
        """Ids of plain text, control tokens not read, nothing added."""
        ...

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids of all control tokens."""
        ...

    def controls(self) -> Mapping[str, int]:
        """All control tokens: string to id."""
        ...


def encode(pieces: Prompt | Iterable[Piece], tokenizer: Tokenizer) -> list[int]:
    """Token ids of pieces, each text tokenised by itself.

    Control tokens come from ``Control``, ``Bos`` and ``Eos`` alone. Raises ``ModelError`` for a
    control token that the tokenizer does not have.
    """
    joined = _join_marks(pieces.pieces if isinstance(pieces, Prompt) else pieces, tokenizer)
    names = {
        piece.token: control_id(piece.token, tokenizer)
        for piece in joined
        if isinstance(piece, Control)
    }
    ids: list[int] = []
    for piece in joined:
        if isinstance(piece, Control):
            ids.append(names[piece.token])
        elif isinstance(piece, Text):
            ids += text_ids(piece.text, tokenizer, names)
        elif isinstance(piece, Eos):
            ids.append(eos_id(tokenizer))
        elif tokenizer.bos is not None and tokenizer.add_bos:
            ids.append(tokenizer.bos)
    return ids


def control_id(token: str, tokenizer: Tokenizer, *, template: str = "") -> int:
    """Id of a control token; raises ``ModelError`` if the tokenizer does not have it."""
    found = tokenizer.control(token)
    if found is None:
        needing = f"the template {template!r}" if template else "the prompt"
        raise ModelError(
            f"{needing} needs the control token {token}, which this model does not have",
            hint="--template auto takes the model's own template",
        )
    return found


def eos_id(tokenizer: Tokenizer) -> int:
    """Id of the token that ends an answer; raises ``ModelError`` if there is none."""
    if tokenizer.eos is not None:
        return tokenizer.eos
    # Models whose files do not name their end token use this one.
    return control_id("<|endoftext|>", tokenizer)


def text_ids(text: str, tokenizer: Tokenizer, names: Mapping[str, int] | None = None) -> list[int]:
    """Ids of a text, free of control tokens and of ``names`` (string to id).

    Lone surrogates, which no tokenizer takes, become U+FFFD.
    """
    known = {} if names is None else names
    return _PlainText(tokenizer, known).ids(_SURROGATE.sub("\ufffd", text))


def _join_marks(pieces: Iterable[Piece], tokenizer: Tokenizer) -> list[Piece]:
    """Pieces with the ``or_text`` marks that are unknown turned into text before the next text."""
    joined: list[Piece] = []
    mark = ""
    for piece in pieces:
        if isinstance(piece, Control) and piece.or_text and tokenizer.control(piece.token) is None:
            mark += piece.token
        elif isinstance(piece, Text):
            joined.append(Text(mark + piece.text))
            mark = ""
        else:
            joined += [Text(mark), piece] if mark else [piece]
            mark = ""
    return [*joined, Text(mark)] if mark else joined


@dataclass(frozen=True)
class _PlainText:
    """Tokenises text so that neither control tokens nor those of ``names`` come out."""

    tokenizer: Tokenizer
    names: Mapping[str, int]

    def ids(self, text: str, *, continues: bool = False) -> list[int]:
        ids = self._continuation(text) if continues else self.tokenizer.text(text)
        tokenizer = self.tokenizer
        found: frozenset[int | None] = tokenizer.control_ids.intersection(ids)
        if others := {*self.names.values(), tokenizer.bos, tokenizer.eos} - tokenizer.control_ids:
            found |= others.intersection(ids)
        # One character cannot be cut; it then becomes the unknown token, which has no effect.
        if not found or len(text) < 2:
            return ids
        result: list[int] = []
        for part in self._cut(text, found):
            result += self.ids(part, continues=continues or bool(result))
        return result

    def _cut(self, text: str, found: frozenset[int | None]) -> Iterator[str]:
        """Cut after the first character of every name of the tokens found, else in the middle."""
        named = {**self.tokenizer.controls(), **self.names}
        strings = sorted((s for s, i in named.items() if i in found), key=len, reverse=True)
        pattern = "|".join(map(re.escape, strings))
        cuts = [match.start() + 1 for match in re.finditer(pattern, text)] if pattern else []
        if not [cut for cut in cuts if cut < len(text)]:
            cuts = [len(text) // 2]
        for start, end in itertools.pairwise([0, *cuts, len(text)]):
            if start < end:
                yield text[start:end]

    def _continuation(self, text: str) -> list[int]:
        """Ids of a text that goes on, without the space that some vocabularies put in front."""
        for anchor in _ANCHORS:
            head, whole = self.tokenizer.text(anchor), self.tokenizer.text(anchor + text)
            if whole[: len(head)] == head:
                return whole[len(head) :]
        return self.tokenizer.text(text)

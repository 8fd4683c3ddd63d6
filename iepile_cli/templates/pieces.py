"""What a prompt is made of: control tokens apart from text, so that text stays text."""

from __future__ import annotations

from dataclasses import dataclass


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
    """A question ready for a model: its pieces, and for chat servers the plain texts."""

    pieces: tuple[Piece, ...]
    system: str
    user: str

"""Prompts for servers: token ids where they are taken, else text without control tokens.

A server that is given text looks for control tokens in all of it. A user's text that holds the name
of one is therefore broken up with a word joiner (U+2060), which is invisible and taken out of the
answer again; token ids need nothing of the kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from iepile_cli.templates import Control, Prompt, Text, Tokenizer

_JOINER = "\u2060"
# What control tokens look like, for a model whose tokenizer is not at hand.
_CONTROL = re.compile(
    r"<\|[^<>|\s]{1,60}\|>|<\uff5c[^<>\uff5c]{1,60}\uff5c>|</?s>|<(?:unk|pad|bos|eos|mask|sep|cls)>"
    r"|\[/?(?:INST|SYS|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT|gMASK|sMASK|sop|eop)\]"
    r"|<</?SYS>>|<(?:start|end)_of_turn>|<reserved_\d+>|<(?:Human|Assistant|bot|user|eo[hmat])>",
    re.IGNORECASE,
)
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


@dataclass
class Shield:
    """Breaks up the names of control tokens in texts, and puts them together in answers."""

    names: re.Pattern[str] = _CONTROL
    broken: dict[str, str] = field(default_factory=dict)

    @classmethod
    def against(cls, tokenizer: Tokenizer) -> Shield:
        """Against the control tokens of a tokenizer, and what looks like one."""
        known = sorted((name for name in tokenizer.controls() if name), key=len, reverse=True)
        exact = "|".join(re.escape(name) for name in known if len(name) > 1)
        return cls(re.compile(f"{exact}|{_CONTROL.pattern}" if exact else _CONTROL.pattern, re.I))

    def text(self, text: str) -> str:
        """The text without the name of a control token."""
        return self.names.sub(self._break, text)

    def answer(self, text: str) -> str:
        """An answer with the names as they stood in the text."""
        for whole, parts in self.broken.items():
            text = text.replace(parts, whole)
        return text

    def _break(self, name: re.Match[str]) -> str:
        whole = name[0]
        self.broken[whole] = whole[0] + _JOINER + whole[1:]
        return self.broken[whole]


def written(prompt: Prompt, shield: Shield) -> str:
    """A prompt as one text, for servers that put the opening token before it themselves."""
    parts = []
    for piece in prompt.pieces:
        if isinstance(piece, Control):
            parts.append(piece.token)
        elif isinstance(piece, Text):
            parts.append(shielded(piece.text, prompt, shield))
    return "".join(parts)


def shielded(text: str, prompt: Prompt, shield: Shield) -> str:
    """A text of a prompt with its question shielded: a template's own marks stay as they are."""
    before, question, after = text.partition(prompt.user) if prompt.user else (text, "", "")
    return before + shield.text(question) + after if question else shield.text(text)


def messages(prompt: Prompt, shield: Shield) -> list[dict[str, str]]:
    """A prompt as messages: the system text, if any, and the question."""
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, {"role": "user", "content": shield.text(prompt.user)}]

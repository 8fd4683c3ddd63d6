"""An answer from a llama.cpp server, chosen token by token as the backends that decode here choose.

A GBNF grammar allows the same answers as ours, but it lets the model spell what is certain (the
rest of a word, of a key) in whatever tokens it likes, and odd tokens lead it astray. So the server
writes under GBNF and its tokens are followed here, under our own constraint. What it chooses where
there is a choice is taken over; where it spells something certain otherwise than we do, the call is
left and another one made behind our tokens: as token ids, or, for a server that takes prompts only
as text, as text where that comes to the same tokens, else as tokens that the grammar demands.

A character of several tokens comes as a whole, and llama.cpp's grammars cannot demand its parts:
how the server spells it is then not known, and it is taken to be in the longest tokens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from iepile_cli.backends.constraint import Constraint
from iepile_cli.task.gbnf_rest import Rest
from iepile_cli.task.grammar import literal

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class Call(Protocol):
    """Asks the server to go on behind tokens of an answer, under a grammar."""

    def told(self, said: Sequence[int]) -> int:
        """How many of these tokens a prompt can tell; the others the grammar must demand."""
        ...

    def pieces(
        self, said: Sequence[int], grammar: str, budget: int
    ) -> AsyncIterator[tuple[str, str]]:
        """The pieces of text behind the told tokens, each with why it ends there, if it does."""
        ...


class Vocabulary:
    """The tokens of a model by their bytes."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.tokenizer = tokenizer

    def text(self, tokens: Sequence[int]) -> bytes:
        """What tokens spell."""
        return bytes(self.tokenizer.decode_bytes(list(tokens)))

    def spelling(self, text: bytes) -> Sequence[int]:
        """The tokens of exactly these bytes."""
        return self._spelled.get(text, ())

    def whole(self, tokens: Sequence[int]) -> list[int]:
        """The tokens without those at the end that are part of a character."""
        kept = list(tokens)
        while kept and not _is_whole(self.text(kept)):
            kept.pop()
        return kept

    def demanded(self, tokens: Sequence[int]) -> str:
        """A sequence of tokens in GBNF; characters of several tokens by themselves."""
        parts, some = [], list[int]()
        for token in tokens:
            some.append(token)
            text = self.text(some)
            if _is_whole(text):
                parts.append(f"<[{token}]>" if len(some) == 1 else literal(text.decode("utf-8")))
                some = []
        return " ".join(parts)

    @cached_property
    def _spelled(self) -> dict[bytes, list[int]]:
        spelled: dict[bytes, list[int]] = {}
        for token in range(self.tokenizer.vocab_size):
            spelled.setdefault(self.text([token]), []).append(token)
        return spelled


class Follower:
    """Follows one answer."""

    def __init__(
        self, call: Call, constraint: Constraint, rest: Rest, vocabulary: Vocabulary
    ) -> None:
        self.call, self.constraint = call, constraint
        self.rest, self.vocabulary = rest, vocabulary
        self._accepted = 0

    async def run(self) -> bool:
        """Have the answer written to its end; raises what the calls raise.

        Gives False when the server writes what cannot be followed.
        """
        while not self.constraint.done:
            before = self._accepted
            if not await self._follow() or self._accepted == before:
                return False
        return True

    async def _follow(self) -> bool:
        """Make one call and take over what can be; False where the grammar is another one."""
        constraint, vocabulary = self.constraint, self.vocabulary
        said = vocabulary.whole(constraint.tokens)
        rest = self.rest.behind(vocabulary.text(said).decode("utf-8"))
        if rest is None:
            return False
        demanded = said[self.call.told(said) :]
        again = vocabulary.text(demanded)
        grammar = f"root ::= {vocabulary.demanded(demanded)} rest\n{rest}"
        at = len(said)
        pieces = self.call.pieces(said, grammar, len(again) + constraint.left)
        try:
            async for piece, _ in pieces:
                heard = piece.encode("utf-8", errors="replace")
                if again:
                    if not again.startswith(heard):
                        break
                    again = again[len(heard) :]
                    continue
                behind = self._hear(at, heard)
                if behind is None:
                    break
                at = behind
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        return True

    def _hear(self, at: int, heard: bytes) -> int | None:
        """Take over a piece behind ``at`` tokens; gives how many there are then.

        None when the answer is over, or goes on otherwise than the server does.
        """
        constraint = self.constraint
        while heard:
            if at == len(constraint.tokens):
                token = self._chosen(heard)
                if token is None:
                    return None
                constraint.accept(token, 1.0)
                self._accepted += 1
                if constraint.done or constraint.kept < at:
                    return None
            ours = self.vocabulary.text(constraint.tokens[at : at + 1])
            if not heard.startswith(ours) or (ours != heard and _is_whole(ours)):
                return None
            heard = heard[len(ours) :]
            at += 1
        return at

    def _chosen(self, heard: bytes) -> int | None:
        """The allowed token that was heard, or the longest part of a character that was."""
        allowed = self.constraint.allowed()
        if len(allowed) == 1:
            return int(allowed[0])
        possible = set(allowed.tolist())
        for length in range(len(heard), 0, -1):
            if length < len(heard) and _is_whole(heard[:length]):
                continue
            found = [t for t in self.vocabulary.spelling(heard[:length]) if t in possible]
            if found:
                # Vocabularies that have a token for each byte too have those first.
                return found[-1]
        return None


def _is_whole(text: bytes) -> bool:
    """Whether bytes are whole characters."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

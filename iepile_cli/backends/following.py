"""An answer from a llama.cpp server, chosen token by token as the backends that decode here choose.

A GBNF grammar allows the same answers as ours, but it lets the model spell what is certain (the
rest of a word, of a key) in whatever tokens it likes, and odd tokens lead it astray. So the server
writes under GBNF and its tokens are followed here, under our own constraint. What it chooses where
there is a choice is taken over; where it spells something certain otherwise than we do, the call is
left and another one made behind our tokens: as token ids, or, for a server that takes prompts only
as text, as text where that comes to the same tokens, else as tokens that the grammar demands.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from iepile_cli.backends.constrain import Constraint
from iepile_cli.errors import ModelError
from iepile_cli.task.gbnf_rest import Rest

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# A choice that its text does not tell is told by a token of so many letters behind it.
_MARKER = 3


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

    async def whole(self, said: Sequence[int], grammar: str, budget: int) -> str:
        """All of the text behind the told tokens."""
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

    @cached_property
    def markers(self) -> list[int]:
        """Tokens of equally many letters, so that a text ends with one of them only."""
        return sorted(
            tokens[0]
            for text, tokens in self._spelled.items()
            if len(text) == _MARKER and text.isalpha() and len(tokens) == 1
        )

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

    async def run(self) -> None:
        """Have the answer written to its end; raises what the calls raise, and ``ModelError``."""
        while not self.constraint.done:
            if not await self._follow():
                await self._choose()

    async def _follow(self) -> bool:
        """Make one call and take over what can be; gives whether anything was chosen."""
        constraint, vocabulary = self.constraint, self.vocabulary
        said = list(constraint.tokens)
        try:
            rest = self.rest.behind(vocabulary.text(said).decode("utf-8"))
        except UnicodeDecodeError:
            return False
        if rest is None:
            return False
        demanded = said[self.call.told(said) :]
        grammar = f"root ::= {_sequence(demanded)} rest\n{rest}"
        again = vocabulary.text(demanded)
        at, chosen = len(said), False
        pieces = self.call.pieces(said, grammar, len(demanded) + constraint.left)
        try:
            async for piece, _ in pieces:
                heard = piece.encode("utf-8", errors="replace")
                if again:
                    if not again.startswith(heard):
                        break
                    again = again[len(heard) :]
                    continue
                if at == len(constraint.tokens) and heard:
                    token = self._meant(heard)
                    if token is None:
                        break
                    constraint.accept(token, 1.0)
                    chosen = True
                    if constraint.kept < at:
                        # A repetition was taken back.
                        break
                if constraint.done or not self._agrees(at, heard):
                    break
                at += bool(heard)
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        return chosen

    def _meant(self, heard: bytes) -> int | None:
        """The allowed token that was heard; None where the text does not tell."""
        allowed = self.constraint.allowed()
        if len(allowed) == 1:
            return int(allowed[0])
        possible = set(allowed.tolist())
        found = [token for token in self.vocabulary.spelling(heard) if token in possible]
        return found[0] if len(found) == 1 else None

    def _agrees(self, at: int, heard: bytes) -> bool:
        return not heard or self.vocabulary.text(self.constraint.tokens[at : at + 1]) == heard

    async def _choose(self) -> None:
        """Have the next token chosen alone."""
        allowed = self.constraint.allowed().tolist()
        self.constraint.accept(await self._best(allowed), 1.0)

    async def _best(self, tokens: Sequence[int]) -> int:
        """The token that the server prefers, whatever its text: a marker behind it tells."""
        markers = self.vocabulary.markers
        if len(markers) < 2:
            raise ModelError("this vocabulary has too few tokens of plain letters to ask with")
        while len(tokens) > len(markers):
            parts = range(0, len(tokens), len(markers))
            tokens = [await self._best(tokens[n : n + len(markers)]) for n in parts]
        if len(tokens) == 1:
            return tokens[0]
        marked = {
            self.vocabulary.text([marker]).decode("ascii"): token
            for marker, token in zip(markers, tokens, strict=False)
        }
        pairs = zip(tokens, markers, strict=False)
        ways = " | ".join(_sequence(pair) for pair in pairs)
        said = list(self.constraint.tokens)
        demanded = said[self.call.told(said) :]
        grammar = f"root ::= {_sequence(demanded)} ({ways})\n"
        text = await self.call.whole(said, grammar, len(demanded) + 2)
        try:
            return marked[text.rstrip()[-_MARKER:]]
        except KeyError:
            raise ModelError(
                "the server does not keep to a grammar of tokens",
                hint="a newer llama.cpp does; without --tokenizer it is not asked to",
            ) from None


def _sequence(tokens: Iterable[int]) -> str:
    """A sequence of tokens in GBNF."""
    return " ".join(f"<[{token}]>" for token in tokens)

"""One answer from a server, written to us as it is generated.

Reading along makes it possible to stop what repeats itself: the list is closed and the server
asked to go on behind it, as the backends that decode here do. A chat's answer cannot be gone on
with, and with a schema the server has its own layout: these are taken as they come. A llama.cpp
server is followed token by token where the model's vocabulary is at hand.

A server may refuse a way of keeping an answer in form, or a field that others take: then the next
best way is tried, and the field left out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from iepile_cli.backends import Answer, Request
from iepile_cli.backends.constrain import Constraint
from iepile_cli.backends.following import Follower, Vocabulary
from iepile_cli.backends.repetition import AnswerReader
from iepile_cli.backends.server_prompts import (
    Shield,
    continued,
    messages,
    shielded,
    spelled_alike,
    written,
)
from iepile_cli.backends.servers import Found, structure
from iepile_cli.task.gbnf import constrains_mentions, gbnf_grammar
from iepile_cli.task.gbnf_rest import Rest
from iepile_cli.templates import Text, Tokenizer, encode


class BrokenOff(ValueError):
    """A server's answer that is not whole."""


@dataclass
class Caller:
    """Puts requests to a server.

    ``form`` is ``ids``, ``text`` or ``chat``: what a prompt is sent as. ``vocabulary`` is the
    model's, where it is known. ``notes`` says what the server turned out not to take.
    """

    client: Any
    found: Found
    tokenizer: Tokenizer
    context: int
    form: str
    vocabulary: Vocabulary | None = None
    notes: list[str] = field(default_factory=list)
    _free: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    _ways: list[tuple[str, bool]] = field(default_factory=list)
    """The ways that answers are kept in form, the best first, and whether each is followed."""
    _proven: bool = False
    """Whether the server has once taken the best of them."""
    _common: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for slot in range(self.found.slots):
            self._free.put_nowait(slot)
        ways = [(how, False) for how in self.found.server.structures]
        if ways[0][0] == "gbnf" and self.vocabulary is not None and self.form != "chat":
            ways.insert(0, ("gbnf", True))
        self._ways = ways
        self._common = {"temperature": 0, self.found.server.token_limit: 0}

    async def answer(self, request: Request) -> Answer:
        """Answer one request; raises what the client raises."""
        shield = Shield.against(self.tokenizer)
        ids = encode(request.prompt, self.tokenizer)
        budget = min(request.max_tokens, self.context - len(ids))
        if budget <= 0:
            return Answer("", failed=f"its prompt of {len(ids)} tokens fills the whole context")
        ways = self._ways if request.grammar is not None else [("free", False)]
        refusal: Exception | None = None
        for number, (how, follow) in enumerate(ways):
            if follow and not self._follows(request):
                continue
            try:
                answer = await self._kept(request, ids, shield, budget, how, follow)
            except Exception as error:
                if not _is_refusal(error):
                    raise
                refusal = refusal or error
                continue
            if refusal is not None and not self._proven:
                self._settle(ways[number:], refusal)
            elif request.grammar is not None:
                self._proven = True
            return answer
        assert refusal is not None
        raise refusal

    def _settle(self, ways: list[tuple[str, bool]], refusal: Exception) -> None:
        """Leave the ways that the server refuses; a refusal later on is one request's own."""
        if ways[0] not in self._ways[1:]:
            return
        self._ways, self._proven = ways, True
        self.notes.append(f"{_WEAKER[ways[0][0]]}: the server says {_short(refusal)}")

    async def _kept(
        self,
        request: Request,
        ids: list[int],
        shield: Shield,
        budget: int,
        how: str,
        follow: bool,
    ) -> Answer:
        """An answer that is kept in form in one way."""
        if follow:
            answer = await self._followed(request, ids, shield, budget)
            if answer is not None:
                return replace(answer, text=shield.answer(answer.text))
        call = _Call(self, request, ids, shield, budget, how)
        guided = how in ("lark", "gbnf")
        if guided and self.form != "chat":
            await (call.key_by_key() if how == "gbnf" else call.watched())
        else:
            await call.plain()
        if call.truncated and guided:
            call.close_off()
        said = call.reader.text.decode("utf-8", errors="replace").strip()
        return Answer(shield.answer(said), call.truncated, len(ids), call.tokens)

    def _follows(self, request: Request) -> bool:
        """Whether an answer can be followed token by token."""
        return request.instruction is not None and constrains_mentions(request.instruction.text)

    async def _followed(
        self, request: Request, ids: list[int], shield: Shield, budget: int
    ) -> Answer | None:
        """An answer that is followed; None where it cannot be.

        It keeps its slot to the end: between its calls another prompt would take the place of what
        the server has computed of this one.
        """
        vocabulary, ask, grammar = self.vocabulary, request.instruction, request.grammar
        assert vocabulary is not None
        assert ask is not None
        assert grammar is not None
        constraint = Constraint(vocabulary.tokenizer, grammar, budget, request.empties)
        rest = Rest(gbnf_grammar(ask.task, ask.items, ask.text))
        async with self._slot() as slot:
            call = _Behind(self, request, ids, shield, slot)
            if not await Follower(call, constraint, rest, vocabulary).run():
                return None
        # The probabilities stay with the server.
        return replace(constraint.answer(len(ids)), token_ends=(), token_probs=())

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[int | None]:
        """A slot of the server for one answer; None where they are not counted."""
        if not self.found.slots:
            yield None
            return
        slot = await self._free.get()
        try:
            yield slot
        finally:
            self._free.put_nowait(slot)

    def fields(self, request: Request, ids: list[int], text: str, shield: Shield) -> dict[str, Any]:
        """What a call sends as its prompt, behind which ``text`` is answered already."""
        if self.form == "chat":
            return {"messages": messages(request.prompt, shield)}
        if self.form == "ids":
            return {"prompt": continued(ids, text, self.tokenizer)}
        return {"prompt": written(request.prompt, shield) + text}

    async def pieces(self, fields: dict[str, Any], budget: int) -> AsyncIterator[tuple[str, str]]:
        """The pieces of an answer, each with why the answer ends there, if it does."""
        chat = self.form == "chat"
        stream = await self._stream(fields, budget)
        try:
            async for chunk in stream:
                for choice in (getattr(chunk, "choices", None) or [])[:1]:
                    part = getattr(choice, "delta", None) if chat else choice
                    piece = getattr(part, "content" if chat else "text", None)
                    yield piece or "", getattr(choice, "finish_reason", None) or ""
        finally:
            await stream.close()

    async def _stream(self, fields: dict[str, Any], budget: int) -> Any:
        chat = self.form == "chat"
        calls = self.client.chat.completions if chat else self.client.completions
        while True:
            common = {
                name: budget if name in _LIMITS else value for name, value in self._common.items()
            }
            try:
                return await calls.create(model=self.found.model, stream=True, **common, **fields)
            except Exception as error:
                if not _is_refusal(error) or not self._leaves_out(error, common):
                    raise

    def _leaves_out(self, error: Exception, sent: dict[str, Any]) -> bool:
        """Do without a common field that a refusal says is unknown; False if it names none."""
        said = str(error)
        named = [name for name in _OPTIONAL if name in sent and name in said]
        if not named or not _UNKNOWN.search(said):
            return False
        name = named[0]
        # Another call may have done it while this one was under way.
        if name in self._common:
            del self._common[name]
            if name == _LIMITS[0]:
                self._common[_LIMITS[1]] = 0
            else:
                self.notes.append(f"{name} is left to the server, which says {_short(error)}")
        return True


# What an answer's tokens are limited by: as OpenAI calls it now, and as others do.
_LIMITS = ("max_completion_tokens", "max_tokens")
# Reasoning models of OpenAI take no temperature, others do not know the newer limit.
_OPTIONAL = ("temperature", _LIMITS[0])
_UNKNOWN = re.compile(r"support|permitted|unknown|unrecogni|unexpected|extra|not allowed", re.I)
_WEAKER = {
    "gbnf": "answers are kept in form key by key",
    "schema": "answers are kept in form by a JSON schema only",
    "object": "answers are only known to be JSON",
    "free": "answers are not kept in form",
}


def _is_refusal(error: Exception) -> bool:
    """Whether a server says that it does not take what was asked, whoever asks."""
    return getattr(error, "status_code", None) in (400, 415, 422, 501)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@dataclass(frozen=True)
class _Behind:
    """Calls behind one prompt and some tokens of its answer."""

    caller: Caller
    request: Request
    ids: list[int]
    shield: Shield
    slot: int | None

    def told(self, said: Sequence[int]) -> int:
        if self.caller.form == "ids":
            return len(said)
        return spelled_alike(self._ending, said, self.caller.tokenizer, self._text)

    async def pieces(
        self, said: Sequence[int], grammar: str, budget: int
    ) -> AsyncIterator[tuple[str, str]]:
        fields = self._fields(said, grammar)
        reason = ""
        pieces = self.caller.pieces(fields, budget)
        try:
            async for piece, why in pieces:
                reason = why or reason
                yield piece, why
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        if not reason:
            raise BrokenOff("it ends without saying why")

    def _fields(self, said: Sequence[int], grammar: str) -> dict[str, Any]:
        caller = self.caller
        text = "" if caller.form == "ids" else self._text(said[: self.told(said)])
        fields = caller.fields(self.request, [*self.ids, *said], text, self.shield)
        return fields | caller.found.within(grammar, self.slot)

    def _text(self, tokens: Sequence[int]) -> str:
        assert self.caller.vocabulary is not None
        return self.caller.vocabulary.text(tokens).decode("utf-8", errors="replace")

    @property
    def _ending(self) -> str:
        """The text that the prompt ends with."""
        prompt = self.request.prompt
        last = prompt.pieces[-1] if prompt.pieces else None
        return shielded(last.text, prompt, self.shield) if isinstance(last, Text) else ""


@dataclass
class _Call:
    """One answer coming in, over one call or several."""

    caller: Caller
    request: Request
    ids: list[int]
    shield: Shield
    budget: int
    how: str
    reader: AnswerReader = field(default_factory=AnswerReader)
    tokens: int = 0
    truncated: bool = False

    async def plain(self) -> None:
        """All in one call, whatever comes."""
        await self.read(None, watched=False)

    async def watched(self) -> None:
        """All in one call, and another behind each list that began to repeat itself."""
        answered = 0
        while await self.read(answered, watched=True):
            answered = self.reader.keys
            if answered == len(self.request.empties):
                self.reader.feed(b"}")
                return

    async def key_by_key(self) -> None:
        """One call for each key, the key itself written here.

        A GBNF grammar lets a model spell what is certain in whatever tokens it likes, and a key in
        odd tokens leads it astray. The grammar goes on behind the key's list, so that a token
        that ends it and goes on is a choice too; the call is left where the list ends.
        """
        for number, empty in enumerate(self.request.empties):
            key = empty.rpartition(": ")[0]
            self.reader.feed(f"{', ' if number else '{'}{key}:".encode())
            await self.read(number, watched=True, one_list=True)
            if self.truncated:
                return
        self.reader.feed(b"}")

    async def read(self, answered: int | None, *, watched: bool, one_list: bool = False) -> bool:
        """Make one call and read what comes; gives whether it was stopped for repeating itself."""
        if self.budget <= 0:
            self.truncated = True
            return False
        text = self.reader.text.decode("utf-8")
        fields = self.caller.fields(self.request, self.ids, text, self.shield)
        chat = self.caller.form == "chat"
        form = structure(self.caller.found, self.request, self.how, answered, chat=chat)
        pieces = self.caller.pieces({**fields, **form}, self.budget)
        stopped, count, self.truncated = await _read(pieces, self.reader, watched, one_list)
        self.tokens, self.budget = self.tokens + count, self.budget - count
        if stopped is not None:
            self.reader = AnswerReader()
            self.reader.feed(stopped)
        return stopped is not None

    def close_off(self) -> None:
        """End an answer that was cut short with what is complete of it."""
        head, tail = self.reader.closed(self.request.empties)
        self.reader.text[:] = head + tail


async def _read(
    pieces: AsyncIterator[tuple[str, str]], reader: AnswerReader, watched: bool, one_list: bool
) -> tuple[bytes | None, int, bool]:
    """Read an answer on.

    Gives the answer up to where it is left: where it began to repeat itself, its list closed, or
    with ``one_list`` behind the list of a key; None where it ends. Then how many pieces there were
    (about one a token), and whether it was cut short.
    """
    count, reason = 0, ""
    try:
        async for piece, why in pieces:
            count += bool(piece)
            reason = why or reason
            for byte in piece.encode("utf-8", errors="replace"):
                deep = reader.depth
                repeat = reader.feed(bytes([byte]))
                # Only a list that answers a key can be left: what is behind a deeper one is
                # not said by the grammar of whole keys.
                if watched and repeat is not None and reader.depth == 2:
                    return bytes(reader.text[: repeat.cut]) + repeat.closer, count, False
                if one_list and deep == 2 and reader.depth == 1:
                    return bytes(reader.text), count, False
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]
    if not reason:
        raise BrokenOff("it ends without saying why")
    return None, count, reason == "length"

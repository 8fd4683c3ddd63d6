"""One answer from a server, asked for once, in the best form that the server takes.

A server may refuse a way of keeping an answer in form, or a field that others take: then the next
best way is tried, and the field left out. Answers are read as they are generated, so that a server
is not waited for that repeats itself without end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from iepile_cli.backends.constraint import AnswerReader
from iepile_cli.backends.protocol import Answer, Request
from iepile_cli.backends.servers import Server, Shield, messages, structure, written
from iepile_cli.templates import Tokenizer, encode

# What an answer's tokens are limited by: as OpenAI calls it now, and as others do.
_LIMITS = ("max_completion_tokens", "max_tokens")
# Reasoning models of OpenAI take no temperature, others do not know the newer limit.
_OPTIONAL = ("temperature", _LIMITS[0])
_UNKNOWN = re.compile(r"support|permitted|unknown|unrecogni|unexpected|extra|not allowed", re.I)
_NOTES = {
    "gbnf": "answers are kept in form by GBNF",
    "schema": "answers are kept in form by a JSON schema only",
    "object": "answers are only known to be JSON",
    "free": "answers are not kept in form",
}
# So many requests whose form is refused, and none that is taken, are the server's own way.
_REFUSALS = 2
# A list whose parts come again so often has no end.
_REPEATS = 3
# Stop words that servers take at most.
_STOPS = 4
# A server counts tokens in its own way, and may send a few bytes at a time; one that goes on after
# so many pieces for each token that the answer may have does not count them at all.
_PIECES_A_TOKEN = 16


@dataclass
class Caller:
    """Puts requests to a server.

    ``form`` is ``ids``, ``text`` or ``chat``: what a prompt is sent as. ``notes`` says what the
    server turned out not to take; ``hide`` takes out of that what nobody should see.
    """

    client: Any
    server: Server
    tokenizer: Tokenizer
    context: int
    form: str
    hide: Callable[[str], str] = str
    notes: list[str] = field(default_factory=list)
    _structures: list[str] = field(default_factory=list)
    """The ways that answers are kept in form, the best first."""
    _taken: set[str] = field(default_factory=set)
    _refused: Counter[str] = field(default_factory=Counter)
    _common: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._structures = list(self.server.kind.structures)
        self._common = {"temperature": 0, self.server.kind.token_limit: 0}

    async def answer(self, request: Request) -> Answer:
        """Answer one request; raises what the client raises."""
        ids = encode(request.prompt, self.tokenizer)
        budget = min(request.max_tokens, self.context - len(ids))
        if budget <= 0:
            return Answer("", failed=f"its prompt of {len(ids)} tokens fills the whole context")
        ways = list(self._structures) if request.grammar is not None else ["free"]
        refusal: Exception | None = None
        for number, how in enumerate(ways):
            try:
                answer = await self._in_form(request, ids, budget, how)
            except Exception as error:
                if not _is_refusal(error):
                    raise
                refusal = refusal or error
                continue
            self._taken.add(how)
            if refusal is not None:
                self._leave(ways[:number], how, refusal)
            return answer
        assert refusal is not None
        raise refusal

    def _leave(self, refused: list[str], instead: str, refusal: Exception) -> None:
        """Note that ways were refused; leave those that the server has never taken."""
        self._refused.update(refused)
        left = [
            how
            for how in refused
            if how in self._structures
            and how not in self._taken
            and self._refused[how] >= _REFUSALS
        ]
        if left:
            self._structures = [how for how in self._structures if how not in left]
            self.notes.append(f"{_NOTES[instead]}: the server says {self._short(refusal)}")

    async def _in_form(self, request: Request, ids: list[int], budget: int, how: str) -> Answer:
        """An answer that is kept in form in one way."""
        shield = Shield.against(self.tokenizer)
        fields: dict[str, Any] = {}
        if self.form == "chat":
            fields["messages"] = messages(request.prompt, shield)
        else:
            fields["prompt"] = ids if self.form == "ids" else written(request.prompt, shield)
        if how == "free" and request.prompt.stop:
            fields["stop"] = list(request.prompt.stop[:_STOPS])
        fields |= structure(self.server, request, how, chat=self.form == "chat")
        reader, count, reason = AnswerReader(), 0, ""
        guided = how in ("lark", "gbnf")
        repeats = 0
        pieces = self._pieces(fields, budget)
        try:
            async for piece, why in pieces:
                count += bool(piece)
                reason = why or reason
                for byte in piece.encode("utf-8", errors="replace"):
                    repeats += reader.feed(bytes([byte])) is not None
                if (guided and repeats >= _REPEATS) or count > _PIECES_A_TOKEN * budget:
                    reason = "length"
                    break
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        if not reason:
            raise ValueError("it ends without saying why")
        if reason == "length" and guided:
            head, tail = reader.closed(request.empties)
            reader.text[:] = head + tail
        said = reader.text.decode("utf-8", errors="replace").strip()
        return Answer(
            shield.answer(said),
            truncated=reason == "length",
            prompt_tokens=len(ids),
            answer_tokens=count,
            computed_tokens=len(ids) + count,
        )

    async def _pieces(self, fields: dict[str, Any], budget: int) -> AsyncIterator[tuple[str, str]]:
        """The pieces of an answer, each with why the answer ends there, if it does."""
        chat = self.form == "chat"
        stream = await self._stream(fields, budget)
        try:
            async for chunk in stream:
                # The client checks no types.
                choices = getattr(chunk, "choices", None)
                for choice in choices[:1] if isinstance(choices, list) else ():
                    part = getattr(choice, "delta", None) if chat else choice
                    piece = getattr(part, "content" if chat else "text", None)
                    why = getattr(choice, "finish_reason", None)
                    yield (
                        piece if isinstance(piece, str) else "",
                        why if isinstance(why, str) else "",
                    )
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
                return await calls.create(model=self.server.model, stream=True, **common, **fields)
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
                self.notes.append(f"{name} is left to the server, which says {self._short(error)}")
        return True

    def _short(self, error: Exception) -> str:
        return self.hide(" ".join(str(error).split()))[:200]


def _is_refusal(error: Exception) -> bool:
    """Whether a server says that it does not take what was asked, whoever asks."""
    return getattr(error, "status_code", None) in (400, 415, 422, 501)

"""One answer from a server, written to us as it is generated.

Reading along makes it possible to stop what repeats itself: the list is closed and the server
asked to go on behind it, as the backends that decode here do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from iepile_cli.backends import Answer, Request
from iepile_cli.backends.repetition import AnswerReader
from iepile_cli.backends.server_prompts import Shield, continued, messages, written
from iepile_cli.backends.servers import Found, structure
from iepile_cli.templates import Tokenizer, encode


class BrokenOff(ValueError):
    """A server's answer that is not whole."""


@dataclass(frozen=True)
class Caller:
    """Puts requests to a server.

    ``form`` is ``ids``, ``text`` or ``chat``: what a prompt is sent as.
    """

    client: Any
    found: Found
    tokenizer: Tokenizer
    context: int
    form: str

    async def answer(self, request: Request) -> Answer:
        """Answer one request; raises what the client raises."""
        shield = Shield.against(self.tokenizer)
        ids = encode(request.prompt, self.tokenizer)
        budget = min(request.max_tokens, self.context - len(ids))
        if budget <= 0:
            return Answer("", failed=f"its prompt of {len(ids)} tokens fills the whole context")
        text, tokens, truncated = b"", 0, False
        while True:
            fields = self._prompt(request, ids, text.decode("utf-8"), shield)
            reader = AnswerReader()
            reader.feed(text)
            # Chat answers cannot be gone on with, and a schema leaves the layout to the server.
            guided = request.grammar is not None and self.found.server.structure != "schema"
            answered = reader.keys
            pieces = self._pieces({**fields, **structure(self.found, request, answered)}, budget)
            stopped, count, truncated = await _read(pieces, reader, guided and self.form != "chat")
            tokens, budget = tokens + count, budget - count
            if stopped is None or budget <= 0:
                break
            text = stopped
            if reader.keys == len(request.empties):
                reader.text[:] = text + b"}"
                truncated = False
                break
        truncated = truncated or (stopped is not None and budget <= 0)
        if truncated and guided:
            head, tail = reader.closed(request.empties)
            reader.text[:] = head + tail
        said = reader.text.decode("utf-8", errors="replace").strip()
        return Answer(shield.answer(said), truncated, len(ids), tokens)

    def _prompt(self, request: Request, ids: list[int], text: str, shield: Shield) -> Any:
        if self.form == "chat":
            return {"messages": messages(request.prompt, shield)}
        if self.form == "ids":
            return {"prompt": continued(ids, text, self.tokenizer)}
        return {"prompt": written(request.prompt, shield) + text}

    async def _pieces(self, fields: dict[str, Any], budget: int) -> AsyncIterator[tuple[str, str]]:
        """The pieces of an answer, each with why the answer ends there, if it does."""
        chat = self.form == "chat"
        calls = self.client.chat.completions if chat else self.client.completions
        limit = {self.found.server.token_limit: budget}
        stream = await calls.create(
            model=self.found.model, temperature=0, stream=True, **limit, **fields
        )
        try:
            async for chunk in stream:
                for choice in (getattr(chunk, "choices", None) or [])[:1]:
                    part = getattr(choice, "delta", None) if chat else choice
                    piece = getattr(part, "content" if chat else "text", None)
                    yield piece or "", getattr(choice, "finish_reason", None) or ""
        finally:
            await stream.close()


async def _read(
    pieces: AsyncIterator[tuple[str, str]], reader: AnswerReader, watched: bool
) -> tuple[bytes | None, int, bool]:
    """Read an answer on.

    Gives the answer up to where it began to repeat itself, its list closed, or None; how many
    pieces there were (about one a token); and whether it was cut short.
    """
    count, reason = 0, ""
    try:
        async for piece, why in pieces:
            count += bool(piece)
            reason = why or reason
            more = piece.encode("utf-8", errors="replace")
            while more:
                before = len(reader.text)
                repeat = reader.feed(more)
                more = more[len(reader.text) - before :]
                # Only a list that answers a key can be left: what is behind a deeper one is
                # not said by the grammar of whole keys.
                if watched and repeat is not None and reader.depth == 2:
                    return bytes(reader.text[: repeat.cut]) + repeat.closer, count, False
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]
    if not reason:
        raise BrokenOff("it ends without saying why")
    return None, count, reason == "length"

"""The kinds of servers that speak OpenAI's protocol, and what each takes to shape an answer.

What they have in common is little: how a grammar is given, whether a prompt can be token ids, and
whether a prompt can be given at all (else only messages, which the server puts into a template).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from iepile_cli.backends import Request
from iepile_cli.errors import UsageError
from iepile_cli.task.gbnf import gbnf, gbnf_behind_key
from iepile_cli.task.grammar import grammar
from iepile_cli.task.json_schema import is_closed, json_schema

Structure = dict[str, Any]
# GETs an address, relative to the base URL or absolute, and gives its JSON; None when it fails.
Fetch = Callable[[str], Awaitable[Any]]


@dataclass(frozen=True)
class Server:
    """A kind of server.

    ``takes_ids`` says whether a prompt may be token ids, ``takes_prompts`` whether there is a
    completions endpoint that leaves a prompt as it is. ``structure`` says how an answer is kept in
    form: by a grammar (``lark``, ``gbnf``), with which it can also be gone on with, or by a
    ``schema``. ``plainly`` undoes what a server does to probabilities unless it is told not to.
    ``slots`` is how many prompts it keeps what it computed of, 0 where it manages them itself.
    """

    name: str
    structure: str
    takes_prompts: bool = True
    takes_ids: bool = False
    token_limit: str = "max_tokens"
    plainly: tuple[tuple[str, Any], ...] = ()
    slots: int = 0


SERVERS = {
    server.name: server
    for server in (
        Server("vllm", "lark", takes_ids=True, plainly=(("repetition_penalty", 1.0),)),
        Server("llama-server", "gbnf", takes_ids=True, plainly=(("repeat_penalty", 1.0),)),
        Server("llama-cpp-python", "gbnf", plainly=(("repeat_penalty", 1.0),), slots=1),
        # Its completions endpoint puts every prompt into the model's template once more.
        Server("ollama", "schema", takes_prompts=False),
        Server("openai", "schema", takes_prompts=False, token_limit="max_completion_tokens"),
    )
}
_OWNERS = {"vllm": "vllm", "llamacpp": "llama-server", "me": "llama-cpp-python"}
# The version of vLLM that renamed the fields of structured output.
_RENAMED = (0, 12)


@dataclass(frozen=True)
class Found:
    """A server that answers: its kind, model, version where it says so, context and slots."""

    server: Server
    model: str
    version: tuple[int, ...] = ()
    context: int = 0
    slots: int = 0

    def within(self, grammar: str, slot: int | None) -> Structure:
        """The fields of a call that keep its answer to a grammar of the server's own form."""
        # Only llama-server has slots to choose from; others are not told.
        chosen = {"id_slot": slot} if slot is not None and self.server.slots != 1 else {}
        return {"extra_body": {**dict(self.server.plainly), **chosen, "grammar": grammar}}


def server_named(name: str) -> Server:
    """The kind of that name; raises ``UsageError``."""
    if name not in SERVERS:
        raise UsageError(f"no server is called {name!r}", hint=f"one of {', '.join(SERVERS)}")
    return SERVERS[name]


async def find_out(fetch: Fetch, root: str, asked: str, model: str) -> Found:
    """What server there is at ``root`` (the base URL without its ``/v1``)."""
    listed = await fetch("models")
    entries = listed.get("data") if isinstance(listed, dict) else None
    models = [entry for entry in entries or [] if isinstance(entry, dict)]
    ours = next((entry for entry in models if entry.get("id") == model), None)
    first = ours or (models[0] if models else {})
    kind = asked or _OWNERS.get(str(first.get("owned_by")), "") or await _kind(fetch, root)
    server = server_named(kind)
    version: tuple[int, ...] = ()
    slots = server.slots
    context = _whole(first.get("max_model_len"))
    if server.name == "vllm":
        version = _version(await fetch(f"{root}/version"))
    elif server.name == "llama-server":
        props = await fetch(f"{root}/props")
        settings = props.get("default_generation_settings") if isinstance(props, dict) else None
        context = _whole(settings.get("n_ctx")) if isinstance(settings, dict) else 0
        slots = _whole(props.get("total_slots")) if isinstance(props, dict) else 0
    return Found(server, model or str(first.get("id") or ""), version, context, slots)


async def _kind(fetch: Fetch, root: str) -> str:
    if isinstance(await fetch(f"{root}/api/version"), dict):
        return "ollama"
    if isinstance(await fetch(f"{root}/props"), dict):
        return "llama-server"
    if _version(await fetch(f"{root}/version")):
        return "vllm"
    return "openai"


def _version(answer: Any) -> tuple[int, ...]:
    said = answer.get("version") if isinstance(answer, dict) else None
    return tuple(int(part) for part in re.findall(r"\d+", str(said))[:2]) if said else ()


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def structure(found: Found, request: Request, answered: int | None = None) -> Structure:
    """The fields of a call that keep its answer in form.

    With ``answered``, for what is left behind so many of its keys; in GBNF, for what stands behind
    the key and colon that come next.
    """
    extra = dict(found.server.plainly)
    ask = request.ask
    if request.grammar is None or ask is None:
        return {"extra_body": extra} if extra else {}
    match found.server.structure:
        case "lark":
            text = grammar(ask.task, ask.items, ask.text, answered=answered or 0)
            # A SentencePiece vocabulary puts a space before any text, others do not.
            lark = text if answered else text.replace("start: ", 'start: " "? ', 1)
            if found.version and found.version < _RENAMED:
                named = {"guided_grammar": lark, "guided_decoding_backend": "guidance"}
                return {"extra_body": {**extra, **named}}
            return {"extra_body": {**extra, "structured_outputs": {"grammar": lark}}}
        case "gbnf":
            if answered is None:
                text = gbnf(ask.task, ask.items, ask.text)
            else:
                text = gbnf_behind_key(ask.task, ask.items, ask.text, answered)
            return {"extra_body": {**extra, "grammar": text}}
        case _:
            schema = json_schema(ask.task, ask.items)
            form = {"name": "answer", "schema": schema, "strict": is_closed(ask.task)}
            return {"response_format": {"type": "json_schema", "json_schema": form}}

"""Servers that speak OpenAI's protocol: their kinds, and the form in which each takes a prompt.

The kinds have little in common: how a grammar is given, whether a prompt can be token ids, and
whether a prompt can be given at all (else only messages, which the server puts into a template).

A server that is given text looks for control tokens in all of it. A user's text that holds the name
of one is therefore broken up with a word joiner (U+2060), which is invisible and taken out of the
answer again; token ids need nothing of the kind.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from iepile_cli.backends.protocol import Request
from iepile_cli.task.gbnf import gbnf_grammar
from iepile_cli.task.grammar import is_closed, json_schema, lark_grammar
from iepile_cli.templates import Control, Prompt, Text, Tokenizer

Structure = dict[str, Any]
# GETs an address, relative to the base URL or absolute, and gives its JSON; None when it fails.
Fetch = Callable[[str], Awaitable[Any]]


@dataclass(frozen=True)
class ServerKind:
    """A kind of server.

    ``takes_ids`` says whether a prompt may be token ids, ``takes_prompts`` whether there is a
    completions endpoint that leaves a prompt as it is. ``structures`` says how an answer is kept in
    form, the best first: by a grammar (``lark``, ``gbnf``), by a ``schema``, as some JSON
    ``object``, or not at all (``free``). ``neutral`` undoes what a server does to probabilities
    unless it is told not to. ``slots`` is how many answers it computes at once, 0 where it says
    itself or has no limit.
    """

    name: str
    structures: tuple[str, ...]
    takes_prompts: bool = True
    takes_ids: bool = False
    token_limit: str = "max_tokens"
    neutral: tuple[tuple[str, Any], ...] = ()
    slots: int = 0


_GUIDED = ("lark", "schema", "free")
_GBNF = ("gbnf", "schema", "free")
_JSON = ("schema", "object", "free")
SERVER_KINDS = {
    server.name: server
    for server in (
        ServerKind("vllm", _GUIDED, takes_ids=True, neutral=(("repetition_penalty", 1.0),)),
        ServerKind("llama-server", _GBNF, takes_ids=True, neutral=(("repeat_penalty", 1.0),)),
        ServerKind("llama-cpp-python", _GBNF[::2], neutral=(("repeat_penalty", 1.0),), slots=1),
        # Its completions endpoint puts every prompt into the model's template once more.
        ServerKind("ollama", _JSON, takes_prompts=False),
        ServerKind("openai", _JSON, takes_prompts=False, token_limit="max_completion_tokens"),
    )
}
_OWNERS = {"vllm": "vllm", "llamacpp": "llama-server", "me": "llama-cpp-python"}
# The version of vLLM in which the older fields of structured output are gone.
_RENAMED = (0, 12)


@dataclass(frozen=True)
class Server:
    """A server that answers: its kind, model, version where it says so, context and slots."""

    kind: ServerKind
    model: str
    version: tuple[int, ...] = ()
    context: int = 0
    slots: int = 0


async def identify(fetch: Fetch, root: str, asked: str, model: str) -> Server:
    """What server there is at ``root`` (the base URL without its ``/v1``)."""
    listed = await fetch("models")
    entries = listed.get("data") if isinstance(listed, dict) else None
    models = [entry for entry in entries or [] if isinstance(entry, dict)]
    ours = next((entry for entry in models if entry.get("id") == model), None)
    first = ours or (models[0] if models else {})
    kind = SERVER_KINDS[
        asked or _OWNERS.get(str(first.get("owned_by")), "") or await _kind(fetch, root)
    ]
    version: tuple[int, ...] = ()
    slots = kind.slots
    context = _whole(first.get("max_model_len"))
    meta = first.get("meta")
    if kind.name == "vllm":
        version = _version(await fetch(f"{root}/version"))
    elif kind.name == "llama-server":
        props = await fetch(f"{root}/props")
        settings = props.get("default_generation_settings") if isinstance(props, dict) else None
        context = _whole(settings.get("n_ctx")) if isinstance(settings, dict) else 0
        trained = _whole(meta.get("n_ctx_train")) if isinstance(meta, dict) else 0
        context = min(context, trained) if trained else context
        slots = _whole(props.get("total_slots")) if isinstance(props, dict) else 0
    return Server(kind, model or str(first.get("id") or ""), version, context, slots)


async def _kind(fetch: Fetch, root: str) -> str:
    # Some servers answer whatever they are asked: it must be what was asked for.
    if _version(await fetch(f"{root}/api/version")):
        return "ollama"
    props = await fetch(f"{root}/props")
    if isinstance(props, dict) and "default_generation_settings" in props:
        return "llama-server"
    if _version(await fetch(f"{root}/version")):
        return "vllm"
    return "openai"


def _version(answer: Any) -> tuple[int, ...]:
    said = answer.get("version") if isinstance(answer, dict) else None
    return tuple(int(part) for part in re.findall(r"\d+", str(said))[:2]) if said else ()


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def structure(server: Server, request: Request, how: str, *, chat: bool = False) -> Structure:
    """The fields of a call that keep its answer in form, in one of the server's ``structures``."""
    extra = dict(server.kind.neutral)
    asked = request.instruction
    if request.grammar is None or asked is None or how == "free":
        return {"extra_body": extra} if extra else {}
    # Until it was renamed, the fields of vLLM had a prefix each instead of an object around them.
    older = bool(server.version) and server.version < _RENAMED
    form: Structure
    match how:
        case "lark":
            # A SentencePiece vocabulary puts a space before any text, others do not.
            lark = lark_grammar(asked.task, asked.items, asked.text, lead=None)
            form = {"guided_grammar": lark} if older else {"structured_outputs": {"grammar": lark}}
            return {"extra_body": {**extra, **form}}
        case "gbnf":
            text = gbnf_grammar(asked.task, asked.items, asked.text)
            return {"extra_body": {**extra, "grammar": text}}
        case "object":
            return {"extra_body": extra, "response_format": {"type": "json_object"}}
    schema = json_schema(asked.task, asked.items)
    if chat:
        named = {"name": "answer", "schema": schema, "strict": is_closed(asked.task)}
        form = {"response_format": {"type": "json_schema", "json_schema": named}}
        return {**form, "extra_body": extra} if extra else form
    if server.kind.name == "vllm":
        form = {"guided_json": schema} if older else {"structured_outputs": {"json": schema}}
        return {"extra_body": {**extra, **form}}
    return {"extra_body": {**extra, "json_schema": schema}}


_JOINER = "\u2060"
# What control tokens look like, for a model whose tokenizer is not at hand.
_CONTROL = re.compile(
    r"<\|[^<>|\s]{1,60}\|>|<\uff5c[^<>\uff5c]{1,60}\uff5c>|</?s>|<(?:unk|pad|bos|eos|mask|sep|cls)>"
    r"|\[/?(?:INST|SYS|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT|gMASK|sMASK|sop|eop)\]"
    r"|<</?SYS>>|<(?:start|end)_of_turn>|<reserved_\d+>|<(?:Human|Assistant|bot|user|eo[hmat])>",
    re.IGNORECASE,
)


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

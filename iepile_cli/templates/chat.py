"""``auto``: the chat template that comes with a model, in Jinja.

The template is rendered once for each shape of conversation, with marks where the texts go. It is
cut at the marks, and what the template itself wrote is cut again at the names of control tokens:
the template's own words may be control tokens, a text put into it never is.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from iepile_cli.errors import ModelError
from iepile_cli.templates.prompt import Control, Piece, Prompt, Text, Tokenizer
from iepile_cli.templates.template import Template

if TYPE_CHECKING:
    import jinja2

_HINT = "name one with --template NAME, see iepile list templates"

# A mark stands for text number N of a conversation. Its characters are for private use, so that no
# template looks for them; a separator, which counts as white space, shows what a template trims.
_PAD = "\x1f"
_MARK = _PAD + "\ue000{}\ue001" + _PAD
_MARKED = re.compile(f"({_PAD}?)\ue000(\\d+)\ue001({_PAD}?)")

Message = dict[str, str]


@dataclass(frozen=True)
class _Slot:
    """Where text number ``index`` goes, and whether the template trims its ends."""

    index: int
    trims_left: bool
    trims_right: bool

    def fill(self, texts: Sequence[str]) -> str:
        text = texts[self.index]
        text = text.lstrip() if self.trims_left else text
        return text.rstrip() if self.trims_right else text


# A conversation of one shape: control tokens, and runs of the template's words and slots.
_Skeleton = tuple[Control | tuple[str | _Slot, ...], ...]


@dataclass(frozen=True)
class ChatTemplate(Template):
    """A model's own chat template; it must be bound to the model's tokenizer before use."""

    source: str = ""
    bos: str = ""
    eos: str = ""
    controls: tuple[str, ...] = field(default=(), repr=False)

    def bind(self, tokenizer: Tokenizer) -> Template:
        """The chat template of this tokenizer; ``ModelError`` when it has none that works."""
        return self if self.source else from_chat_template(tokenizer.chat_template, tokenizer)

    def prompt(
        self, user: str, system: str | None = None, history: Sequence[tuple[str, str]] = ()
    ) -> Prompt:
        """The prompt of a question; without ``system``, with the template's own system text if any.

        A template that has no place for a system text gets it before the first question.
        """
        texts = [*([system] if system else []), *(text for turn in history for text in turn), user]
        pieces: list[Piece] = []
        for part in self._skeleton(bool(system), len(history)):
            if isinstance(part, Control):
                pieces.append(part)
                continue
            text = "".join(run if isinstance(run, str) else run.fill(texts) for run in part)
            pieces += [Text(text)] if text else []
        return Prompt(tuple(pieces), system or "", user, self.stop)

    def _skeleton(self, has_system: bool, turns: int) -> _Skeleton:
        shape = (has_system, turns)
        if shape not in self._skeletons:
            self._skeletons[shape] = self._build(has_system, turns)
        return self._skeletons[shape]

    @functools.cached_property
    def _skeletons(self) -> dict[tuple[bool, int], _Skeleton]:
        return {}

    def _build(self, has_system: bool, turns: int) -> _Skeleton:
        marks = [_MARK.format(i) for i in range(has_system + 2 * turns + 1)]
        dialogue = _dialogue(marks[1:] if has_system else marks)
        if has_system:
            messages = [{"role": "system", "content": marks[0]}, *dialogue]
            try:
                return self._cut(self._render(messages), len(marks))
            except JinjaError:
                first = {**dialogue[0], "content": f"{marks[0]}\n\n{dialogue[0]['content']}"}
                dialogue = [first, *dialogue[1:]]
        try:
            return self._cut(self._render(dialogue), len(marks))
        except JinjaError as error:
            raise ModelError(
                f"this model's chat template cannot be used: {error}", hint=_HINT
            ) from None

    def _render(self, messages: list[Message], *, add_generation_prompt: bool = True) -> str:
        return render(
            self.source,
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=self.bos,
            eos_token=self.eos,
            # Qwen3, SmolLM3 and others: an answer under a grammar has no room for thoughts.
            enable_thinking=False,
        )

    def _cut(self, rendered: str, texts: int) -> _Skeleton:
        """Cut what was rendered; ``JinjaError`` when a text has no place in it."""
        names = sorted((name for name in self.controls if name in rendered), key=len, reverse=True)
        pattern = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None
        parts: list[Control | list[str | _Slot]] = []
        for run in _runs(rendered, pattern):
            if isinstance(run, Control):
                parts.append(run)
            elif parts and isinstance(parts[-1], list):
                parts[-1].append(run)
            else:
                parts.append([run])
        slots = [run for part in parts if isinstance(part, list) for run in part]
        placed = {run.index for run in slots if isinstance(run, _Slot)}
        if len(placed) < texts:
            raise JinjaError("it leaves out what it is given")
        return tuple(part if isinstance(part, Control) else tuple(part) for part in parts)

    def closing(self) -> str:
        """The control token that the template writes after an answer, "" if there is none."""
        messages = _dialogue([_MARK.format(0), _MARK.format(1)])
        try:
            parts = self._cut(self._render(messages, add_generation_prompt=False), 2)
        except JinjaError:
            return ""
        answered = False
        for part in parts:
            if answered and isinstance(part, Control):
                return part.token
            answered = answered or (
                not isinstance(part, Control)
                and any(isinstance(run, _Slot) and run.index == 1 for run in part)
            )
        return ""


AUTO = ChatTemplate("auto", summary="the model's own chat template")


def from_chat_template(source: str | None, tokenizer: Tokenizer) -> ChatTemplate:
    """A template from Jinja source, as the model's tokenizer reads it.

    Raises ``ModelError`` when there is none, or when it cannot be rendered.
    """
    if not source:
        raise ModelError("this model has no chat template of its own", hint=_HINT)
    names = dict(tokenizer.controls())
    by_id = {i: name for name, i in names.items()}
    bos = by_id.get(tokenizer.bos, "") if tokenizer.bos is not None else ""
    eos = by_id.get(tokenizer.eos, "") if tokenizer.eos is not None else ""
    bound = ChatTemplate("auto", source=source, bos=bos, eos=eos, controls=tuple(names))
    bound.prompt("")
    closing = bound.closing()
    if closing:
        return dataclasses.replace(bound, stop=(closing,), replace_eos=True)
    return bound


def _dialogue(texts: Sequence[str]) -> list[Message]:
    """Messages of the user and the assistant in turn, the user's first."""
    roles = itertools.cycle(("user", "assistant"))
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def _runs(rendered: str, controls: re.Pattern[str] | None) -> Iterator[Control | str | _Slot]:
    """What was rendered as slots, control tokens and words, in order."""
    position = 0
    for mark in _MARKED.finditer(rendered):
        yield from _words(rendered[position : mark.start()], controls)
        yield _Slot(int(mark[2]), trims_left=not mark[1], trims_right=not mark[3])
        position = mark.end()
    yield from _words(rendered[position:], controls)


def _words(written: str, controls: re.Pattern[str] | None) -> Iterator[Control | str]:
    parts = controls.split(written) if controls else [written]
    for index, part in enumerate(parts):
        if part:
            yield Control(part) if index % 2 else part


# --------------------------------------------------------------------------------- jinja

# A prompt must not change from day to day; this is the date that Llama 3 names by default.
_TODAY = datetime(2024, 7, 26)


class JinjaError(Exception):
    """A chat template that cannot be read or rendered, or that refuses its messages."""


def render(source: str, **values: Any) -> str:
    """Render a chat template; raises ``JinjaError``."""
    try:
        return _compiled(source).render(tools=None, documents=None, **values)
    # The template is foreign code: whatever goes wrong in it is one kind of error here.
    except Exception as error:
        raise JinjaError(f"{type(error).__name__}: {error}") from None


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _generation_tag()],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _TODAY.strftime
    return environment.from_string(source)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


@functools.cache
def _generation_tag() -> type:
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """``{% generation %}`` frames what the model is trained on; rendered as if not there."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation

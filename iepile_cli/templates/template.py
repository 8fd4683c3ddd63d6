"""The form of a template: parts as data, and how they make a prompt and an answer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from iepile_cli.templates.prompt import (
    Bos,
    Control,
    Eos,
    Piece,
    Prompt,
    Text,
    Tokenizer,
    control_id,
)

Parts = tuple[Piece | str, ...]

_SLOT = re.compile(r"\{\{(system|query|idx)\}\}")
# Not part of a prompt's form: a change here must not make an adapter look unfit.
_NOT_FORM = frozenset({"name", "models", "summary", "controls"})


@dataclass(frozen=True)
class Template:
    """A chat template as data.

    A string in ``prefix``, ``question`` or ``separator`` is one text, tokenised by itself, with
    the slots ``{{system}}``, ``{{query}}`` and ``{{idx}}`` (number of the turn, from 1). The first
    turn is ``BOS prefix separator question``, or ``BOS question`` when the prefix comes out empty;
    later turns are ``separator BOS question``. An answer is its text and an end token, which
    ``efficient_eos`` leaves out between turns and for which ``replace_eos`` takes the first stop
    word.

    The form follows the training code of IEPile (zjunlp/IEPile, ``src/datamodule/template.py``),
    with which the published adapters were trained.
    """

    name: str
    question: Parts = ()
    prefix: Parts = ()
    separator: Parts = ()
    system: str = ""
    stop: tuple[str, ...] = ()
    efficient_eos: bool = False
    replace_eos: bool = False
    keeps_history: bool = True
    # The prefix opens the first query, inside the question's own marks (Llama 2).
    system_in_query: bool = False
    # Without a system text there is no prefix at all, its marks included (Qwen3).
    optional_system: bool = False
    # Patterns of model names, matched from the start of the last path component.
    models: tuple[str, ...] = ()
    summary: str = ""

    def bind(self, tokenizer: Tokenizer) -> Template:
        """The template for this tokenizer; raises ``ModelError`` when they do not go together."""
        parts = (*self.prefix, *self.separator, *self.question, self.end)
        for part in parts:
            if isinstance(part, Control) and not part.or_text:
                control_id(part.token, tokenizer, template=self.name)
        return self

    def prompt(
        self, user: str, system: str | None = None, history: Sequence[tuple[str, str]] = ()
    ) -> Prompt:
        """The prompt of a question; ``system`` None takes the template's own text, "" none.

        ``history`` holds earlier turns as (question, answer).
        """
        opening = self.system if system is None else system
        turns = [*(history if self.keeps_history else ()), (user, "")]
        pieces: list[Piece] = []
        for index, (query, _) in enumerate(turns):
            if index:
                pieces += self.answer(turns[index - 1][1])
            pieces += self._turn(query, index, opening)
        return Prompt(tuple(pieces), opening, user, self.stop)

    def answer(self, text: str) -> tuple[Piece, ...]:
        """The pieces of an answer in training: its text, and the end token if the form has one."""
        pieces: tuple[Piece, ...] = (Text(text),) if text else ()
        return pieces if self.efficient_eos else (*pieces, self.end)

    @property
    def end(self) -> Piece:
        """The token that ends an answer, also where ``efficient_eos`` writes it only once."""
        return Control(self.stop[0]) if self.replace_eos else Eos()

    def stop_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Ids of the tokens at which an answer is over."""
        named = [tokenizer.control(word) for word in self.stop]
        return frozenset(i for i in (tokenizer.eos, *named) if i is not None)

    def hash(self) -> str:
        """A stable hash of the form (hex, 64 digits): what an adapter must be used with."""
        form: dict[str, object] = {}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            # Fields at their default are left out, so that a later field changes no hash.
            if each.name not in _NOT_FORM and value != each.default:
                form[each.name] = _as_json(value)
        text = json.dumps(form, sort_keys=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def fits(self, model: str) -> bool:
        """Whether a model of this name or path was made for this template."""
        name = PurePath(model).name
        return any(re.match(pattern, name, re.IGNORECASE) for pattern in self.models)

    def _turn(self, query: str, index: int, system: str) -> Iterator[Piece]:
        filled = {"system": system, "query": query, "idx": str(index + 1)}
        without = index or (self.optional_system and not system)
        prefix = [] if without else list(_fill(self.prefix, filled))
        if self.system_in_query:
            opening = "".join(part.text for part in prefix if isinstance(part, Text))
            yield Bos()
            yield from _fill(self.question, {**filled, "query": opening + query})
            return
        if index:
            yield from _fill(self.separator, filled)
        yield Bos()
        if prefix:
            yield from prefix
            yield from _fill(self.separator, filled)
        yield from _fill(self.question, filled)


def _fill(parts: Parts, values: dict[str, str]) -> Iterator[Piece]:
    """Parts with their slots filled, once, so that slots in the values stay as they are."""
    for part in parts:
        if isinstance(part, Text):
            part = part.text
        if not isinstance(part, str):
            yield part
            continue
        text = _SLOT.sub(lambda slot: values[slot[1]], part)
        if text:
            yield Text(text)


def _as_json(value: object) -> object:
    if isinstance(value, tuple):
        return [_as_json(part) for part in value]
    if isinstance(value, Text):
        return value.text
    if isinstance(value, Control | Bos | Eos):
        return {type(value).__name__: dataclasses.asdict(value)}
    return value


def closest_template(model: str, templates: Sequence[Template]) -> Template | None:
    """The template made for a model of this name or path, if exactly one is known."""
    fitting = [template for template in templates if template.fits(model)]
    return fitting[0] if len(fitting) == 1 else None

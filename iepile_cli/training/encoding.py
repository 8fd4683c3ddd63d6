"""From an example to token ids and a mask of what is learnt.

The prompt's tokens are those that ``extract`` builds for the same text, because both come from
``templates.encode``; the answer is tokenised by itself and closed with the template's end token.
Loss is taken on answers alone. An example that is too long is split as ``extract`` splits a text:
into passages, each with the part of the answer whose mentions it holds.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from iepile_cli.backends.tokenizers import LlamaCppTokenizer
from iepile_cli.errors import DataError, ModelError, UsageError
from iepile_cli.task.instruction import (
    Instruction,
    answer_json,
    dumps,
    parse_answer,
    parse_instruction,
)
from iepile_cli.task.passages import passages
from iepile_cli.task.segment import segment
from iepile_cli.task.shape import Roles, SchemaItem, fixed_roles
from iepile_cli.task.table import task_named
from iepile_cli.templates import Eos, Piece, Template, Text, Tokenizer, encode
from iepile_cli.training.options import TrainOptions

IGNORED = -100
_Pieces: TypeAlias = tuple[Piece, ...]
# What is not learnt, and what is.
_Turn: TypeAlias = tuple[_Pieces, _Pieces]
# Passages of fewer tokens teach little; an example that needs such is left out.
_SHORTEST_PASSAGE = 8


@dataclass(frozen=True)
class Example:
    """One training example: a question and its answer."""

    question: str
    answer: str
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    task: str = ""
    source: str = ""


@dataclass(frozen=True)
class Limits:
    """The most tokens of an example (0: no limit), and what happens to longer ones.

    ``length`` bounds prompt and answer together. ``too_long`` is ``split``, ``drop`` or
    ``refuse``.
    """

    length: int
    prompt: int = 0
    answer: int = 0
    too_long: str = "split"

    @classmethod
    def of(cls, options: TrainOptions) -> Limits:
        """The limits that options set."""
        return cls(options.max_length, options.max_source, options.max_target, options.too_long)

    def hold(self, prompt: int, answer: int, longest_answer: int = 0) -> bool:
        """Whether an example of so many tokens is within the limits."""
        return (
            prompt + answer <= self.length
            and (not self.prompt or prompt <= self.prompt)
            and (not self.answer or (longest_answer or answer) <= self.answer)
        )


@dataclass(frozen=True)
class Encoded:
    """Token ids, of which the first ``prompt`` are not learnt.

    ``group`` is a hash of the text, the same for all examples about it. ``turns`` are the labels of
    an example of several turns, of which more than the beginning is not learnt.
    """

    ids: list[int]
    prompt: int
    group: int = 0
    turns: list[int] | None = None

    @property
    def labels(self) -> list[int]:
        """The token to be said at each position, not shifted; ``IGNORED`` if it is not learnt."""
        return self.turns or [IGNORED] * self.prompt + self.ids[self.prompt :]


class _Long(NamedTuple):
    """An example that is split: as it is, its instruction as JSON and read, its answer read."""

    example: Example
    shown: dict[str, Any]
    asked: Instruction
    found: list[tuple[SchemaItem, list[Roles]]]
    group: int


@dataclass(frozen=True)
class Encoder:
    """Encodes examples for one model: its tokenizer, a template bound to it, and limits."""

    tokenizer: Tokenizer
    template: Template
    limits: Limits
    system: str | None = None
    learns_prompt: bool = False

    def __call__(self, example: Example) -> list[Encoded]:
        """An example's token ids and labels; several for one that is split, none if left out.

        Raises ``DataError`` for one that is too long where that is refused.
        """
        return self._encoded(example, self._turns(example))

    def many(self, examples: Sequence[Example]) -> list[list[Encoded]]:
        """The same of each example; faster, where their texts can be tokenised together."""
        every = [self._turns(example) for example in examples]
        if isinstance(self.tokenizer, LlamaCppTokenizer):
            pieces = itertools.chain.from_iterable(
                part for turns in every for turn in turns for part in turn
            )
            self.tokenizer.learn(piece.text for piece in pieces if isinstance(piece, Text))
        return list(map(self._encoded, examples, every))

    def _encoded(self, example: Example, pieces: Sequence[_Turn]) -> list[Encoded]:
        turns = [(self._ids(prompt), self._ids(answer)) for prompt, answer in pieces]
        answers = [len(answer) for _, answer in turns]
        encoded = self._join(turns, _group(example.question))
        if self.limits.hold(len(encoded.ids) - sum(answers), sum(answers), max(answers)):
            return [encoded]
        if self.limits.too_long == "refuse":
            raise DataError(
                f"an example has {len(encoded.ids)} tokens, its answer {answers[-1]}: "
                f"{example.question[:60]!r}",
                hint="give a larger --max-length, or --too-long split",
            )
        if self.limits.too_long == "drop" or example.history:
            return []
        return list(self._split(example, encoded.group))

    def _split(self, example: Example, group: int) -> Iterator[Encoded]:
        """The passages of an example that is too long, each with its part of the answer."""
        try:
            shown = json.loads(example.question)
            asked = parse_instruction(task_named(example.task), example.question)
            problems: list[str] = []
            found = parse_answer(asked.task, asked.items, json.loads(example.answer), problems)
        except (ValueError, UsageError, RecursionError):
            return
        # What cannot be read in full cannot be restricted to a passage either.
        if problems or dumps(shown) != example.question:
            return
        frame = len(self._ids(self._prompt(example, dumps({**shown, "input": ""}))))
        room = min(self.limits.length, self.limits.prompt or self.limits.length) - frame
        budget = room - min(len(self._ids(self._answer(example.answer))), room // 2)
        yield from self._passages(_Long(example, shown, asked, found, group), asked.text, budget)

    def _passages(self, long: _Long, text: str, budget: int) -> Iterator[Encoded]:
        if budget < _SHORTEST_PASSAGE:
            return
        try:
            parts = list(passages(text, budget, self._measure))
        except ModelError:
            return
        for part in parts:
            kept = restricted(long.asked, long.found, part.text)
            answer = self._ids(self._answer(dumps(answer_json(long.asked.task, kept, part.text))))
            question = dumps({**long.shown, "input": part.text})
            prompt = self._ids(self._prompt(long.example, question))
            if self.limits.hold(len(prompt), len(answer)):
                yield self._join([(prompt, answer)], long.group)
            else:
                # Its own answer is too long: in shorter passages it is spread out.
                yield from self._passages(long, part.text, budget // 2)

    def _measure(self, text: str) -> int:
        # Inside the instruction a text is written as JSON.
        return len(self.tokenizer.text(dumps(text)[1:-1]))

    def _ids(self, pieces: _Pieces) -> list[int]:
        return encode(pieces, self.tokenizer)

    def _prompt(self, example: Example, question: str) -> _Pieces:
        system = self.system if example.system is None else example.system
        return self.template.prompt(question, system).pieces

    def _answer(self, text: str) -> _Pieces:
        pieces: _Pieces = self.template.answer(text)
        closing = () if pieces and _ends(pieces[-1]) else (self.template.end,)
        return (*pieces, *closing)

    def _turns(self, example: Example) -> list[_Turn]:
        """Prompt and answer, turn by turn."""
        if not example.history:
            return [(self._prompt(example, example.question), self._answer(example.answer))]
        system = self.system if example.system is None else example.system
        history = example.history if self.template.keeps_history else ()
        asked = [*history, (example.question, example.answer)]
        turns: list[_Turn] = []
        before: _Pieces = ()
        for index, (question, answer) in enumerate(asked):
            pieces = self.template.prompt(question, system, asked[:index]).pieces
            if pieces[: len(before)] != before:
                # This template does not grow turn by turn: only the last answer is learnt.
                last = self.template.prompt(example.question, system, history).pieces
                return [(last, self._answer(example.answer))]
            said = self.template.answer(answer)
            is_last = index == len(asked) - 1
            turns.append((pieces[len(before) :], self._answer(answer) if is_last else said))
            before = (*pieces, *said)
        return turns

    def _join(self, turns: list[tuple[list[int], list[int]]], group: int) -> Encoded:
        if len(turns) == 1:
            ((prompt, answer),) = turns
            return Encoded(prompt + answer, 0 if self.learns_prompt else len(prompt), group)
        ids: list[int] = []
        labels: list[int] = []
        for index, (prompt, answer) in enumerate(turns):
            masked = list(prompt) if self.learns_prompt else [IGNORED] * len(prompt)
            if index and self.template.efficient_eos and masked:
                # The end token is not written between turns, but it is what is to be said there.
                masked[0] = self._ids((self.template.end,))[0]
            ids += prompt + answer
            labels += masked + answer
        return Encoded(ids, 0, group, labels)


def restricted(
    asked: Instruction, found: Sequence[tuple[SchemaItem, list[Roles]]], passage: str
) -> list[tuple[SchemaItem, list[Roles]]]:
    """The part of an answer that a passage of the text holds.

    An entity, relation or event stays when all its fixed parts are in the passage, with the
    arguments that are. A mention counts where it stands as whole words, as it does in the text.
    """
    fixed = set(fixed_roles(asked.task.shape))
    mentions = {mention for _, records in found for roles in records for _, mention in roles}
    aligned = {mention for mention in mentions if _has_words(asked.text, mention)}
    held = {
        mention
        for mention in mentions
        if (_has_words(passage, mention) if mention in aligned else mention in passage)
    }
    kept: list[tuple[SchemaItem, list[Roles]]] = []
    for item, records in found:
        whole = [
            tuple(pair for pair in roles if pair[1] in held)
            for roles in records
            if all(mention in held for role, mention in roles if role in fixed)
        ]
        kept.append((item, [roles for roles in whole if roles]))
    return kept


def _has_words(text: str, mention: str) -> bool:
    """Whether a mention stands in a text and begins and ends where pieces of the text do."""
    if not mention or mention not in text:
        return False
    edges, at = {0}, 0
    for piece in segment(text):
        at += len(piece)
        edges.add(at)
    start = text.find(mention)
    while start >= 0:
        if start in edges and start + len(mention) in edges:
            return True
        start = text.find(mention, start + 1)
    return False


def _group(question: str) -> int:
    """A hash of the text that a question asks about; of the question where it is no instruction."""
    import orjson

    text = question
    if question.startswith("{"):
        try:
            text = orjson.loads(question)["input"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            text = question
    return zlib.crc32(str(text).encode("utf-8", "surrogatepass"))


def _ends(piece: Piece) -> bool:
    """Whether a piece is an end token and not text."""
    return isinstance(piece, Eos) or not isinstance(piece, Text)

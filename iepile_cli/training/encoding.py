"""From an example to token ids and a mask of what is learnt.

The prompt's tokens are those that ``extract`` builds for the same text, because both come from
``templates.encode``; the answer is tokenised by itself and closed with the template's end token.
Loss is taken on answers alone. What is too long loses the end of the text that is asked about: the
instruction around it, the template's closing marks and the whole answer stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from iepile_cli.errors import DataError
from iepile_cli.task.instruction import dumps
from iepile_cli.templates import Eos, Piece, Template, Text, Tokenizer, encode
from iepile_cli.training.examples import Example
from iepile_cli.training.options import TrainOptions

IGNORED = -100


@dataclass(frozen=True)
class Limits:
    """How long things may be, in tokens (0: no limit), and what happens to longer ones.

    ``length`` bounds prompt and answer together. ``too_long`` is ``cut`` (the question's text is
    shortened), ``drop`` or ``refuse``.
    """

    length: int
    prompt: int = 0
    answer: int = 0
    too_long: str = "cut"

    @classmethod
    def of(cls, options: TrainOptions) -> Limits:
        """The limits that options set."""
        return cls(options.max_length, options.max_source, options.max_target, options.too_long)

    def room(self, answer: int) -> int:
        """Tokens that the prompt may have beside an answer of so many; below 0: none at all."""
        left = self.length - answer
        return min(left, self.prompt) if self.prompt else left


@dataclass(frozen=True)
class Encoded:
    """Token ids, and the label of each position (``IGNORED`` where nothing is learnt).

    ``labels[i]`` is the token to be said at position i, not shifted. ``whole`` is the length
    before it was cut; ``fits`` False when it cannot be used at all.
    """

    ids: list[int]
    labels: list[int]
    whole: int
    fits: bool = True

    @property
    def cut(self) -> bool:
        """Whether something is missing."""
        return self.fits and len(self.ids) < self.whole


@dataclass(frozen=True)
class Encoder:
    """Encodes examples for one model: its tokenizer, a template bound to it, and limits."""

    tokenizer: Tokenizer
    template: Template
    limits: Limits
    system: str | None = None
    learns_prompt: bool = False

    def __call__(self, example: Example) -> Encoded:
        """Token ids and labels of an example.

        Raises ``DataError`` for one that is too long where that is refused.
        """
        turns = self._turns(example)
        encoded = self._join(turns)
        answers = [len(answer) for _, answer in turns]
        if self._fits(encoded, answers):
            return encoded
        if self.limits.too_long == "refuse":
            raise DataError(
                f"an example has {encoded.whole} tokens, its answer {answers[-1]}: "
                f"{example.question[:60]!r}",
                hint="give a larger --max-length, or --too-long cut",
            )
        unusable = replace(encoded, fits=False)
        if self.limits.too_long == "drop" or example.history:
            return unusable
        return self._shortened(example, encoded) or unusable

    def _fits(self, encoded: Encoded, answers: list[int]) -> bool:
        limits = self.limits
        prompt = len(encoded.ids) - sum(answers)
        return (
            len(encoded.ids) <= limits.length
            and (not limits.prompt or prompt <= limits.prompt)
            and (not limits.answer or max(answers) <= limits.answer)
        )

    def _shortened(self, example: Example, encoded: Encoded) -> Encoded | None:
        """The example with as much of its question as fits; None when not even its frame does."""
        answer = self._answer_ids(example.answer)
        room = self.limits.room(len(answer))
        if self.limits.answer and len(answer) > self.limits.answer:
            return None
        text, question_of = _text_in(example.question)
        best: list[int] | None = None
        low, high = 1, len(text)
        while low <= high:
            kept = (low + high) // 2
            ids = self._prompt_ids(example, question_of(text[:kept]))
            if len(ids) <= room:
                best, low = ids, kept + 1
            else:
                high = kept - 1
        return replace(self._join([(best, answer)]), whole=encoded.whole) if best else None

    def _prompt_ids(self, example: Example, question: str) -> list[int]:
        system = self.system if example.system is None else example.system
        return encode(self.template.prompt(question, system), self.tokenizer)

    def _answer_ids(self, text: str) -> list[int]:
        pieces: tuple[Piece, ...] = self.template.answer(text)
        closing = () if pieces and _ends(pieces[-1]) else (self.template.end,)
        return encode((*pieces, *closing), self.tokenizer)

    def _turns(self, example: Example) -> list[tuple[list[int], list[int]]]:
        """Token ids of prompt and answer, turn by turn."""
        system = self.system if example.system is None else example.system
        history = example.history if self.template.keeps_history else ()
        asked = [*history, (example.question, example.answer)]
        turns: list[tuple[list[int], list[int]]] = []
        before: tuple[Piece, ...] = ()
        for index, (question, answer) in enumerate(asked):
            prompt = self.template.prompt(question, system, asked[:index]).pieces
            if prompt[: len(before)] != before:
                # This template does not grow turn by turn: only the last answer is learnt.
                last = self.template.prompt(example.question, system, history)
                return [(encode(last, self.tokenizer), self._answer_ids(example.answer))]
            said = self.template.answer(answer)
            answered = (
                self._answer_ids(answer)
                if index == len(asked) - 1
                else encode(said, self.tokenizer)
            )
            turns.append((encode(prompt[len(before) :], self.tokenizer), answered))
            before = (*prompt, *said)
        return turns

    def _join(self, turns: list[tuple[list[int], list[int]]]) -> Encoded:
        ids: list[int] = []
        labels: list[int] = []
        for index, (prompt, answer) in enumerate(turns):
            masked = list(prompt) if self.learns_prompt else [IGNORED] * len(prompt)
            if index and self.template.efficient_eos and masked:
                # The end token is not written between turns, but it is what is to be said there.
                masked[0] = encode((self.template.end,), self.tokenizer)[0]
            ids += prompt + answer
            labels += masked + answer
        return Encoded(ids, labels, len(ids))


def _text_in(question: str) -> tuple[str, Callable[[str], str]]:
    """The text that a question asks about, and the question about another text.

    In an instruction as ``iepile convert`` writes it that is its ``input``, so that its JSON stays
    whole when the text is shortened; of any other question it is all.
    """
    try:
        asked = json.loads(question)
        text = asked["input"]
        if isinstance(text, str) and dumps(asked) == question:
            return text, lambda shorter: dumps({**asked, "input": shorter})
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return question, lambda shorter: shorter


def _ends(piece: Piece) -> bool:
    """Whether a piece is an end token and not text."""
    return isinstance(piece, Eos) or not isinstance(piece, Text)


def decoded(encoded: Encoded, spell: dict[int, str]) -> list[tuple[str, bool]]:
    """Runs of an example's text, each with whether it is learnt: what ``--dry-run`` shows.

    ``spell`` gives the text of each token id that occurs.
    """
    runs: list[tuple[str, bool]] = []
    for token, label in zip(encoded.ids, encoded.labels, strict=True):
        learnt = label != IGNORED
        if runs and runs[-1][1] == learnt:
            runs[-1] = (runs[-1][0] + spell[token], learnt)
        else:
            runs.append((spell[token], learnt))
    return runs

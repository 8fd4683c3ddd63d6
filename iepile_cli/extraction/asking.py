"""What a model is asked about a passage, and how many tokens question and answer may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iepile_cli.backends import Request, Runner
from iepile_cli.errors import ModelError
from iepile_cli.task.grammar import empty_answers, lark_grammar
from iepile_cli.task.instruction import Instruction, dumps
from iepile_cli.task.shape import SchemaItem
from iepile_cli.templates import Template, encode

# The shortest passage worth asking about, in tokens.
_LEAST = 16
# An answer may quote its passage this many times over before it is cut short.
_PER_PASSAGE_TOKEN = 2


@dataclass(frozen=True)
class Asker:
    """Makes requests for one opened model.

    ``template`` is bound to the model's tokenizer; ``answer_tokens`` is the longest answer in
    tokens (0: as the passage and the schema need), ``list_prior`` what is added to the log-odds of
    going on with a list against ending it.
    """

    runner: Runner
    template: Template
    constrain: bool = True
    system: str | None = None
    answer_tokens: int = 0
    list_prior: float = 0.0

    def request(self, ask: Instruction, instruction: str | None = None) -> Request:
        """The request that puts ``ask``, in the words of ``instruction`` where it is given."""
        words = ask.json if instruction is None else instruction
        return Request(
            prompt=self.template.prompt(words, self.system),
            grammar=self._grammar(ask) if self.constrain else None,
            max_tokens=self.answer_budget(ask.items, self.measure(ask.text)),
            empties=empty_answers(ask.task, ask.items),
            instruction=ask,
            list_prior=self.list_prior,
        )

    def _grammar(self, ask: Instruction) -> str:
        runner = self.runner
        return lark_grammar(ask.task, ask.items, ask.text, lead=runner.lead, spells=runner.spells)

    def room(self, items: Sequence[SchemaItem], empty_instruction: str) -> int:
        """The longest passage, in tokens, that fits with an instruction and its answer.

        Raises ``ModelError`` when hardly any does.
        """
        prompt = self.template.prompt(empty_instruction, self.system)
        left = self.runner.context - len(encode(prompt, self.runner.tokenizer))
        fixed = self.answer_tokens or self.answer_budget(items, 0)
        growth = 0 if self.answer_tokens else _PER_PASSAGE_TOKEN
        # Tokens at the joints of prompt and passage can split differently.
        room = (left - fixed - 8) // (1 + growth)
        if room < _LEAST:
            raise ModelError(
                f"the schema and its answer leave {max(0, room)} of {self.runner.context} "
                "tokens for the text",
                hint="ask for fewer types at once (--split-num), or give a larger --context",
            )
        return room

    def answer_budget(self, items: Sequence[SchemaItem], passage_tokens: int) -> int:
        """Tokens that an answer may have: its keys some times over and the passage twice."""
        if self.answer_tokens:
            return self.answer_tokens
        keys = "".join(item.type + "".join(item.slots) * 2 for item in items)
        signs = 6 * sum(1 + len(item.slots) for item in items)
        frame = len(self.runner.tokenizer.text(keys)) + signs
        return 64 + 2 * frame + _PER_PASSAGE_TOKEN * passage_tokens

    def measure(self, text: str) -> int:
        """The tokens of a text as it stands in the instruction."""
        return len(self.runner.tokenizer.text(dumps(text)))

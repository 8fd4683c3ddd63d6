"""Evaluation by generation: extract on held-out records with the real decoder, and score.

The model as it is at that moment is written out and opened by the backend that runs the base
model, llama.cpp for a GGUF file, so that what is scored is what a user would get.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_cli.backends import Options, Request, Runner
from iepile_cli.backends.opening import open_model
from iepile_cli.errors import DataError
from iepile_cli.task.grammar import empty_answers, lark_grammar
from iepile_cli.task.instruction import Instruction, parse_answer, parse_instruction
from iepile_cli.task.table import task_named
from iepile_cli.training.base import Base, quiet_libraries
from iepile_cli.training.examples import Example
from iepile_cli.training.gguf_adapter import write_gguf_adapter

# An answer may be so much longer than the right one before it is ended.
_SLACK = 64


@dataclass(frozen=True)
class Judge:
    """Scores a model in training on held-out examples."""

    base: Base
    asks: tuple[tuple[Instruction, str], ...]
    system: str | None = None

    @classmethod
    def of(cls, base: Base, examples: Iterable[Example], system: str | None) -> Judge:
        """A judge for examples as ``iepile convert`` writes them; others raise ``DataError``."""
        return cls(base, tuple(map(_asked, examples)), system)

    def __call__(self, folder: Path) -> dict[str, float]:
        """Micro precision, recall and F1 (in percent) of what the model in a folder extracts.

        The folder holds what the Trainer saves; what else the backend needs is put beside it.
        """
        with quiet_libraries():
            name, adapters = self._completed(folder)
            opened = open_model(
                name,
                adapters=adapters,
                template=self.base.template.name,
                options=Options(context=0),
            )
            with closing(opened.runner):
                answers = list(opened.runner.generate(self._requests(opened.runner)))
        counts = [_counts(ask, answer.text, gold) for (ask, gold), answer in self._paired(answers)]
        return scores(*(sum(part) for part in zip(*counts, strict=True)))

    def _paired(self, answers: Sequence[Any]) -> list[tuple[tuple[Instruction, str], Any]]:
        return list(zip(self.asks, answers, strict=True))

    def _completed(self, folder: Path) -> tuple[str, tuple[str, ...]]:
        """What to open: the base model and the adapter in the folder, or a whole model."""
        if not (folder / "adapter_config.json").is_file():
            from iepile_cli.training.base import hf_tokenizer

            hf_tokenizer(self.base.folder, self.base.remote_code).save_pretrained(folder)
            return str(folder), ()
        beneath = tuple(map(str, self.base.adapters[:-1]))
        if self.base.source.suffix != ".gguf":
            return str(self.base.source), (*beneath, str(folder))
        written = folder / "adapter.gguf"
        write_gguf_adapter(self.base, folder, written)
        return str(self.base.source), (str(written),)

    def _requests(self, runner: Runner) -> Iterable[Request]:
        for ask, gold in self.asks:
            yield Request(
                prompt=self.base.template.prompt(ask.json, self.system),
                grammar=lark_grammar(
                    ask.task, ask.items, ask.text, lead=runner.lead, spells=runner.spells
                ),
                max_tokens=_SLACK + 2 * len(runner.tokenizer.text(gold)),
                empties=empty_answers(ask.task, ask.items),
            )


def _asked(example: Example) -> tuple[Instruction, str]:
    try:
        return parse_instruction(task_named(example.task), example.question), example.answer
    except ValueError as error:
        raise DataError(
            f"--eval-f1: a held-out line is not one of iepile convert's: {error}"
        ) from None


def _counts(ask: Instruction, answer: str, gold: str) -> tuple[int, int, int]:
    """Things that both hold, that the answer holds, that the gold holds; each with its type."""
    said, right = _things(ask, answer), _things(ask, gold)
    return (said & right).total(), said.total(), right.total()


def _things(ask: Instruction, answer: str) -> Counter[Any]:
    try:
        value = json.loads(answer)
    except ValueError:
        return Counter()
    return Counter(
        (item.type, roles)
        for item, things in parse_answer(ask.task, ask.items, value, [])
        for roles in things
    )


def scores(both: int, said: int, right: int) -> dict[str, float]:
    """Precision, recall and F1 in percent; 0 where nothing can be divided by."""
    precision = 100 * both / said if said else 0.0
    recall = 100 * both / right if right else 0.0
    total = precision + recall
    f1 = 2 * precision * recall / total if total else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}

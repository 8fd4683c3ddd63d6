"""F1 of a model in training: extract on held-out records with the real decoder, and score.

The model as it is at that moment is written out and opened by the backend that runs the base
model, llama.cpp for a GGUF file, so that what is scored is what a user would get.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_cli.backends import Options, Request, Runner
from iepile_cli.backends.opening import open_model
from iepile_cli.backends.tokenizers import hf_tokenizer
from iepile_cli.errors import DataError, UsageError
from iepile_cli.task.grammar import empty_answers, lark_grammar
from iepile_cli.task.instruction import Instruction, parse_answer, parse_instruction
from iepile_cli.task.table import task_named
from iepile_cli.training.encoding import Example
from iepile_cli.training.gguf_export import write_gguf_adapter
from iepile_cli.training.model import Base
from iepile_cli.training.options import TrainOptions

# An answer may be so many tokens longer than twice the right one before it is ended.
_SLACK = 64


@dataclass(frozen=True)
class F1Scorer:
    """Scores a model in training on held-out examples: their instructions and gold answers."""

    base: Base
    gold: tuple[tuple[Instruction, str], ...]
    system: str | None = None
    threads: int = 0

    @classmethod
    def of(cls, base: Base, examples: Iterable[Example], options: TrainOptions) -> F1Scorer:
        """A scorer for examples as ``iepile convert`` writes them; others raise ``DataError``."""
        return cls(base, tuple(map(_with_gold, examples)), options.system, options.threads)

    def __call__(self, folder: Path) -> dict[str, float]:
        """Micro precision, recall and F1 (in percent) of what the model in a folder extracts.

        The folder holds what the Trainer saves; what else the backend needs is put beside it.
        """
        name, adapters = self._completed(folder)
        opened = open_model(
            name,
            adapters=adapters,
            template=self.base.template.name,
            options=Options(
                context=0,
                threads=self.threads,
                trust_remote_code=self.base.remote_code and not self.base.is_gguf,
            ),
        )
        with closing(opened.runner):
            answers = list(opened.runner.generate(self._requests(opened.runner)))
        counts = [
            _counts(asked, answer.text, gold)
            for (asked, gold), answer in zip(self.gold, answers, strict=True)
        ]
        return scores(*(sum(part) for part in zip(*counts, strict=True)))

    def _completed(self, folder: Path) -> tuple[str, tuple[str, ...]]:
        """What to open: the base model and the adapter in the folder, or a whole model."""
        if not (folder / "adapter_config.json").is_file():
            hf_tokenizer(self.base.folder, remote_code=self.base.remote_code).save_pretrained(
                folder
            )
            return str(folder), ()
        if not self.base.is_gguf:
            return str(self.base.path), (str(folder),)
        written = folder / "adapter.gguf"
        write_gguf_adapter(self.base.layout(), folder, written)
        return str(self.base.path), (str(written),)

    def _requests(self, runner: Runner) -> Iterable[Request]:
        for asked, gold in self.gold:
            yield Request(
                prompt=self.base.template.prompt(asked.json, self.system),
                grammar=lark_grammar(
                    asked.task, asked.items, asked.text, lead=runner.lead, spells=runner.spells
                ),
                max_tokens=_SLACK + 2 * len(runner.tokenizer.text(gold)),
                empties=empty_answers(asked.task, asked.items),
            )


def _with_gold(example: Example) -> tuple[Instruction, str]:
    try:
        return parse_instruction(task_named(example.task), example.question), example.answer
    except (ValueError, UsageError) as error:
        raise DataError(
            f"--eval-f1: a held-out line is not one of iepile convert's: {error}"
        ) from None


def _counts(asked: Instruction, answer: str, gold: str) -> tuple[int, int, int]:
    """How many records both hold, the answer holds, the gold holds; each with its type."""
    predicted, right = _records(asked, answer), _records(asked, gold)
    return (predicted & right).total(), predicted.total(), right.total()


def _records(asked: Instruction, answer: str) -> Counter[Any]:
    try:
        value = json.loads(answer)
    except ValueError:
        return Counter()
    return Counter(
        (item.type, roles)
        for item, found in parse_answer(asked.task, asked.items, value, [])
        for roles in found
    )


def scores(both: int, predicted: int, right: int) -> dict[str, float]:
    """Precision, recall and F1 in percent; 0 where nothing can be divided by."""
    precision = 100 * both / predicted if predicted else 0.0
    recall = 100 * both / right if right else 0.0
    total = precision + recall
    f1 = 2 * precision * recall / total if total else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}

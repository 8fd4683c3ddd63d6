"""How good a model in training is on held-out examples: the loss of their answers, and F1.

For F1 it extracts with the real decoder. The model as it is at that moment is written out and
opened by the backend that runs the base model, llama.cpp for a GGUF file, so that what is scored
is what a user would get.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends import Options, Request, Runner
from iepile_cli.backends.opening import open_model
from iepile_cli.backends.tokenizers import hf_tokenizer
from iepile_cli.errors import DataError, UsageError
from iepile_cli.task.grammar import empty_answers, lark_grammar
from iepile_cli.task.instruction import Instruction, parse_answer, parse_instruction
from iepile_cli.task.table import task_named
from iepile_cli.training.encoding import IGNORED, Example
from iepile_cli.training.gguf_export import write_gguf_adapter
from iepile_cli.training.model import Base
from iepile_cli.training.options import TrainOptions

if TYPE_CHECKING:
    from iepile_cli.training.batch import Batch
    from iepile_cli.training.dataset import EncodedDataset

# An answer may be so many tokens longer than twice the right one before it is ended.
_SLACK = 64


# ------------------------------------------------------------------------------------------ loss


def held_out_loss(trainer: Any, held_out: EncodedDataset, batch: Batch, collator: Any) -> float:
    """The mean loss of all held-out answers' tokens, whatever batches they come in.

    With several processes each takes its part, and all get the mean.
    """
    import torch

    arguments, model = trainer.args, trainer.model_wrapped
    model.eval()
    total = torch.zeros(2, dtype=torch.float64, device=arguments.device)
    for rows, counts in _eval_batches(
        held_out, batch, arguments.process_index, arguments.world_size
    ):
        given = collator([held_out[row] for row in rows])
        given.pop("tokens")
        inputs = trainer._prepare_inputs(given)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            summed, tokens = _summed_loss(model, inputs)
        total += counts * torch.stack([summed.double(), tokens.double()])
    if arguments.world_size > 1:
        torch.distributed.all_reduce(total)
    return float(total[0] / total[1])


def _eval_batches(
    held_out: EncodedDataset, batch: Batch, rank: int, world: int
) -> list[tuple[list[int], int]]:
    """The batches of one process, and 1 for each; 0 for one that only keeps step with others."""
    longest = max(1, int(held_out.lengths.max()))
    size = batch.examples or max(1, batch.tokens // longest)
    order = sorted(range(len(held_out)), key=lambda row: int(held_out.lengths[row]))
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    rounds = -(-len(batches) // world)
    own: list[tuple[list[int], int]] = [(rows, 1) for rows in batches[rank::world]]
    return own + [(batches[0], 0)] * (rounds - len(own))


def _summed_loss(model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """The summed loss of a batch's answers' tokens, and their number."""
    if "shift_labels" in inputs:
        import torch

        tokens = (inputs["shift_labels"] != IGNORED).sum()
        one = torch.ones((), device=tokens.device)
        return model(**inputs, num_items_in_batch=one).loss, tokens
    tokens = (inputs["labels"][..., 1:] != IGNORED).sum()
    return model(**inputs).loss.nan_to_num() * tokens, tokens


# -------------------------------------------------------------------------------------------- F1


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
        return _scores(*(sum(part) for part in zip(*counts, strict=True)))

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


def _scores(both: int, predicted: int, right: int) -> dict[str, float]:
    """Precision, recall and F1 in percent; 0 where nothing can be divided by."""
    precision = 100 * both / predicted if predicted else 0.0
    recall = 100 * both / right if right else 0.0
    total = precision + recall
    f1 = 2 * precision * recall / total if total else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}

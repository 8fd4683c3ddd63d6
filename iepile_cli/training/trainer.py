"""The training loop: transformers' Trainer with our batches, log, checkpoints and stopping."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import ModelError
from iepile_cli.training.arguments import PATIENCE, extra_arguments
from iepile_cli.training.held_out import held_out_loss
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.output import COMPLETE, LOG, cut_log
from iepile_cli.training.packing import BatchSampler
from iepile_cli.training.reporting import Reporter, StopRequest

if TYPE_CHECKING:
    from iepile_cli.training.batch import Batch
    from iepile_cli.training.dataset import EncodedDataset


@dataclass
class Loop:
    """What the loop works with: batches, held-out data, who is told, what checkpoints record.

    ``scorer`` gives further metrics of the model as written into a folder, at each evaluation;
    ``mark`` is written into each checkpoint. ``tokens`` counts those that this process has trained
    on, of whole examples; ``rate`` is how many all processes train on in a second.
    """

    options: TrainOptions
    batch: Batch
    train: EncodedDataset
    held_out: EncodedDataset | None
    collator: Any
    scorer: Callable[[Path], dict[str, float]] | None
    stop: StopRequest
    reporter: Reporter
    mark: dict[str, Any]
    tokens: int = 0
    rate: float = 0.0


def make_trainer(model: Any, arguments: Any, loop: Loop) -> Any:
    """A transformers Trainer for encoded examples."""
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback

    log = type("LogCallback", (LogCallback, TrainerCallback), {})(loop)
    callbacks: list[Any] = [log]
    patience = extra_arguments(loop.options).get(PATIENCE)
    if patience and loop.held_out is not None:
        callbacks.append(EarlyStoppingCallback(int(patience)))
    kind = type("AnswerTrainer", (AnswerTrainer, Trainer), {"loop": loop})
    trainer: Any = kind(
        model=model,
        args=arguments,
        train_dataset=loop.train,
        eval_dataset=loop.held_out,
        data_collator=loop.collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.model_accepts_loss_kwargs = getattr(loop.collator, "shifts", True)
    return trainer


class AnswerTrainer:
    """What of a Trainer is ours: the batches, and the mean loss of all held-out tokens.

    Mixed with transformers' class when it is used, which is then imported.
    """

    loop: Loop
    args: Any
    state: Any

    def get_train_dataloader(self) -> Any:
        """This process's batches."""
        import torch

        sampler = BatchSampler(
            self.loop.train.lengths.tolist(),
            examples=self.loop.batch.examples,
            tokens=self.loop.batch.tokens,
            seed=self.args.data_seed or self.args.seed,
            rank=self.args.process_index,
            processes=self.args.world_size,
        )
        loader: Any = torch.utils.data.DataLoader(
            self.loop.train,
            batch_sampler=sampler,
            collate_fn=self.loop.collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        loader.set_epoch = sampler.set_epoch
        return loader

    def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        """Count the batch's tokens, then as usual."""
        self.loop.tokens += inputs.pop("tokens")
        return super().training_step(model, inputs, *more, **named)  # type: ignore[misc]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The held-out loss, and what the scorer finds."""
        trainer: Any = self
        assert self.loop.held_out is not None
        loss = held_out_loss(trainer, self.loop.held_out, self.loop.batch, self.loop.collator)
        metrics = {"eval_loss": loss}
        if self.loop.scorer is not None:
            scores = self._scored(self.loop.scorer)
            metrics.update({f"eval_{name}": value for name, value in scores.items()})
        trainer.log(dict(metrics))
        trainer.control = trainer.callback_handler.on_evaluate(
            self.args, self.state, trainer.control, metrics
        )
        return metrics

    def _scored(self, scorer: Callable[[Path], dict[str, float]]) -> dict[str, float]:
        """All processes write their part of the model; the first one scores it for all."""
        trainer: Any = self
        with tempfile.TemporaryDirectory(prefix="iepile-") as folder:
            trainer.save_model(folder)
            # Sharded weights may be written by all; only the first folder is whole.
            found = [scorer(Path(folder)) if self.args.process_index == 0 else {}]
        if self.args.world_size > 1:
            import torch

            torch.distributed.broadcast_object_list(found, src=0)
        return found[0]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        if self.args.should_save:
            folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
            if folder.is_dir():
                (folder / COMPLETE).write_text(json.dumps(self.loop.mark), encoding="utf-8")


class LogCallback:
    """Writes the log, tells the reporter, saves extra checkpoints, and stops when asked.

    Mixed with transformers' ``TrainerCallback`` when it is used.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._log = Path(loop.options.output, LOG)
        self._group: Any = None
        # Tokens in the log of the run before it was resumed, and those logged since.
        self._before = self._logged = 0
        self._began = self._at = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the log, or cut off what is done again."""
        if args.world_size > 1:
            import torch

            # On the CPU, so that agreeing to stop does not wait for the device at each step.
            self._group = torch.distributed.new_group(backend="gloo")
        if state.is_world_process_zero:
            kept = cut_log(self._log, state.global_step)
            self._before = max((record.get("tokens", 0) for record in kept), default=0)
            self._loop.reporter.started(state.max_steps, state.global_step)
        self._began = self._at = time.perf_counter()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Write a line of the log; raises ``ModelError`` for a loss that is no number."""
        logs = dict(logs or {})
        if "train_runtime" in logs:
            return
        tokens = self._over_all(self._loop.tokens) if "loss" in logs else 0
        if not state.is_world_process_zero:
            return
        loss = logs.get("loss", 0.0)
        if not math.isfinite(loss):
            raise ModelError(
                f"the loss is {loss} at step {state.global_step}: training has diverged",
                hint="lower --learning-rate, or use --dtype fp32",
            )
        record = {"step": state.global_step, **logs}
        if "loss" in logs:
            now = time.perf_counter()
            record["tokens"] = self._before + tokens
            record["tokens_per_second"] = round((tokens - self._logged) / (now - self._at), 1)
            self._loop.rate = tokens / (now - self._began)
            self._at, self._logged = now, tokens
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._loop.reporter.step(record)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save as ``--save-every`` says, and stop when asked; all processes at the same step."""
        every, stop = self._loop.options.save_every, self._loop.stop
        if every and state.global_step % every == 0:
            control.should_save = True
        if self._over_all(int(stop.asked)):
            stop.asked = True
            control.should_save = control.should_training_stop = True

    def _over_all(self, number: int) -> int:
        """The sum of each process's number."""
        if self._group is None:
            return number
        import torch

        total = torch.tensor(number, dtype=torch.int64)
        torch.distributed.all_reduce(total, group=self._group)
        return int(total.item())

"""The training loop: transformers' Trainer with our batches, log, checkpoints and stopping."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import ModelError
from iepile_cli.training.arguments import PATIENCE, extra_arguments
from iepile_cli.training.encoding import IGNORED
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.output import COMPLETE, LOG, cut_log
from iepile_cli.training.packing import BatchSampler
from iepile_cli.training.reporting import Reporter, StopRequest

if TYPE_CHECKING:
    from iepile_cli.training.dataset import EncodedDataset
    from iepile_cli.training.plan import Batch


def make_trainer(
    model: Any,
    arguments: Any,
    *,
    options: TrainOptions,
    batch: Batch,
    train: EncodedDataset,
    held_out: EncodedDataset | None,
    collator: Any,
    scorer: Callable[[Path], dict[str, float]] | None,
    stop: StopRequest,
    reporter: Reporter,
    mark: dict[str, Any],
) -> Any:
    """A Trainer for encoded examples; ``mark`` is written into each checkpoint.

    ``scorer`` gives further metrics of the model as written into a folder, at each evaluation.
    """
    import torch
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer

    meter = Meter()

    class AnswerTrainer(Trainer):  # type: ignore[misc]
        """Our batches in training, and the mean loss of all held-out tokens in evaluation."""

        def get_train_dataloader(self) -> Any:
            return _loader(torch.utils.data.DataLoader)(
                train,
                batch_sampler=BatchSampler(
                    train.lengths.tolist(),
                    examples=batch.examples,
                    tokens=batch.tokens,
                    seed=self.args.data_seed or self.args.seed,
                    rank=self.args.process_index,
                    processes=self.args.world_size,
                ),
                collate_fn=collator,
                num_workers=self.args.dataloader_num_workers,
                pin_memory=self.args.dataloader_pin_memory,
            )

        def training_step(
            self, model: Any, inputs: dict[str, Any], *more: Any, **named: Any
        ) -> Any:
            meter.tokens += inputs.pop("tokens")
            return super().training_step(model, inputs, *more, **named)

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            metrics = {"eval_loss": self._held_out_loss()}
            if scorer is not None:
                scores = self._scored(scorer)
                metrics.update({f"eval_{name}": value for name, value in scores.items()})
            self.log(dict(metrics))
            own: Any = self
            own.control = own.callback_handler.on_evaluate(
                self.args, self.state, own.control, metrics
            )
            return metrics

        def _held_out_loss(self) -> float:
            """The loss of all held-out answers' tokens, whatever batches they come in."""
            assert held_out is not None
            model = self.model_wrapped
            model.eval()
            total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
            for rows, counts in _eval_batches(
                held_out, batch, self.args.process_index, self.args.world_size
            ):
                given = collator([held_out[row] for row in rows])
                given.pop("tokens")
                inputs = self._prepare_inputs(given)
                with torch.no_grad(), self.compute_loss_context_manager():
                    summed, tokens = _summed_loss(model, inputs)
                total += counts * torch.stack([summed.double(), tokens.double()])
            if self.args.world_size > 1:
                torch.distributed.all_reduce(total)
            return float(total[0] / total[1])

        def _scored(self, scorer: Callable[[Path], dict[str, float]]) -> dict[str, float]:
            """All processes write their part of the model; the first one scores it for all."""
            with tempfile.TemporaryDirectory(prefix="iepile-") as folder:
                self.save_model(folder)
                # Sharded weights may be written by all; only the first folder is whole.
                found = [scorer(Path(folder)) if self.args.process_index == 0 else {}]
            if self.args.world_size > 1:
                torch.distributed.broadcast_object_list(found, src=0)
            return found[0]

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
                if folder.is_dir():
                    (folder / COMPLETE).write_text(json.dumps(mark), encoding="utf-8")

    output = Path(arguments.output_dir).parent
    callbacks = [_log_callback(stop, reporter, meter, output, options.save_every)]
    patience = extra_arguments(options).get(PATIENCE)
    if patience and held_out is not None:
        callbacks.append(EarlyStoppingCallback(int(patience)))
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.model_accepts_loss_kwargs = getattr(collator, "shifts", True)
    trainer.meter = meter
    return trainer


def _loader(kind: type) -> type:
    """A DataLoader that tells its batch sampler of a new epoch."""

    class Loader(kind):  # type: ignore[misc]
        def set_epoch(self, epoch: int) -> None:
            self.batch_sampler.set_epoch(epoch)

    return Loader


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


class Meter:
    """Counts trained tokens, those of whole examples, and the seconds they took.

    ``tokens`` are those of this process since it started, ``before`` those of the run before it
    was resumed, of all processes.
    """

    def __init__(self) -> None:
        self.tokens = self.before = 0
        self._began = self._at = time.perf_counter()
        self._counted = 0

    def start(self, before: int) -> None:
        """Begin to count; ``before`` tokens are in the log already."""
        self.before = before
        self._began = self._at = time.perf_counter()

    def rate(self, total: int) -> float:
        """Tokens a second since the last call, ``total`` being those of all processes so far."""
        now = time.perf_counter()
        seconds, tokens = now - self._at, total - self._counted
        self._at, self._counted = now, total
        return tokens / seconds if seconds else 0.0

    @property
    def mean(self) -> float:
        """Tokens a second from the start to the last call of ``rate``."""
        seconds = self._at - self._began
        return self._counted / seconds if seconds else 0.0


def _log_callback(
    stop: StopRequest, reporter: Reporter, meter: Meter, output: Path, save_every: int
) -> Any:
    """The callback that writes the log, tells the reporter, saves and stops when asked."""
    import torch
    from transformers import TrainerCallback

    # On the CPU, so that agreeing to stop does not wait for the device at each step.
    group: list[Any] = []

    def over_all(number: int) -> int:
        """The sum of each process's number."""
        if not group:
            return number
        total = torch.tensor(number, dtype=torch.int64)
        torch.distributed.all_reduce(total, group=group[0])
        return int(total.item())

    class LogCallback(TrainerCallback):  # type: ignore[misc]
        """Log, extra checkpoints, stopping."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            before = 0
            if args.world_size > 1:
                group.append(torch.distributed.new_group(backend="gloo"))
            if state.is_world_process_zero:
                kept = cut_log(output / LOG, state.global_step)
                before = max((record.get("tokens", 0) for record in kept), default=0)
                reporter.started(state.max_steps, state.global_step)
            meter.start(before)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
        ) -> None:
            logs = dict(logs or {})
            if "train_runtime" in logs:
                return
            tokens = over_all(meter.tokens) if "loss" in logs else 0
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
                record["tokens"] = meter.before + tokens
                record["tokens_per_second"] = round(meter.rate(tokens), 1)
            with (output / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            reporter.step(record)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if save_every and state.global_step % save_every == 0:
                control.should_save = True
            # All processes must stop at the same step.
            if over_all(int(stop.asked)):
                stop.asked = True
                control.should_save = control.should_training_stop = True

    return LogCallback()

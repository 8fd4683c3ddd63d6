"""The training loop: transformers' Trainer with answer-only loss, log, checkpoints and stopping."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import ModelError, UsageError
from iepile_cli.training.base import training_library
from iepile_cli.training.device import Place
from iepile_cli.training.estimate import Batch
from iepile_cli.training.noise import Neftune
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.rows import answer_loss, token_lengths
from iepile_cli.training.scaling import DEEPSPEED, is_first, processes
from iepile_cli.training.signals import StopRequest
from iepile_cli.training.watcher import Watcher

if TYPE_CHECKING:
    import transformers

CHECKPOINTS = "checkpoints"
LOG = "train_log.jsonl"
# Written last into a checkpoint: one without it was cut off while being written.
COMPLETE = "iepile-complete.json"


def training_arguments(
    options: TrainOptions, place: Place, batch: Batch, *, evaluates: bool, scaling: dict[str, Any]
) -> Any:
    """Options in the words of transformers' Trainer; raises ``UsageError`` for an optimizer."""
    import transformers
    from transformers.training_args import OptimizerNames

    saves = "steps" if options.save_every else "epoch"
    evals = "steps" if options.eval_every else "epoch"
    best: dict[str, Any] = {}
    if evaluates:
        # A best checkpoint can only be kept where one is saved at each evaluation.
        saves = evals
        best = {
            "eval_strategy": evals,
            "eval_steps": options.eval_every or None,
            "load_best_model_at_end": True,
            "metric_for_best_model": "f1" if options.eval_f1 else "loss",
            "greater_is_better": bool(options.eval_f1),
        }
    known = sorted(str(name.value) for name in OptimizerNames)
    if options.optim not in known:
        raise UsageError(f"--optim {options.optim} is not known", hint=f"one of {', '.join(known)}")
    arguments = transformers.TrainingArguments(
        output_dir=str(Path(options.output, CHECKPOINTS)),
        per_device_train_batch_size=batch.examples,
        per_device_eval_batch_size=batch.examples,
        gradient_accumulation_steps=batch.accumulated,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        lr_scheduler_type=options.scheduler,
        optim=options.optim,
        bf16=place.dtype == "bf16",
        fp16=place.dtype == "fp16",
        use_cpu=place.device == "cpu",
        seed=options.seed,
        logging_steps=options.log_every,
        logging_nan_inf_filter=False,
        save_strategy=saves,
        save_steps=(options.eval_every if evaluates else options.save_every) or 500,
        save_total_limit=options.keep_checkpoints,
        report_to="wandb" if options.report_to == "wandb" else "none",
        run_name=Path(options.output).resolve().name,
        remove_unused_columns=False,
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=place.device == "cuda",
        ddp_backend="gloo" if place.device == "cpu" and processes() > 1 else None,
        ddp_find_unused_parameters=False,
        **best,
        **_warmup(options),
        **_checkpointing(options),
        **scaling,
    )
    # Several GPUs in one process would cut a row in pieces; --nproc uses them all.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _warmup(options: TrainOptions) -> dict[str, Any]:
    """Steps of warm-up; before transformers 5 a share of all steps had a name of its own."""
    import transformers

    old = int(transformers.__version__.partition(".")[0]) < 5
    if options.warmup < 1 and old:
        return {"warmup_ratio": options.warmup}
    return {"warmup_steps": int(options.warmup) if old else options.warmup}


def check_libraries(options: TrainOptions) -> None:
    """Raise ``ModelError`` for a library that is asked for and not there."""
    if options.report_to != "none":
        name = "torch.utils.tensorboard" if options.report_to == "tensorboard" else "wandb"
        training_library(name, f"pip install {options.report_to}")
    if options.deepspeed:
        training_library("deepspeed", DEEPSPEED)
    if options.bits < 16:
        training_library("bitsandbytes")


def _reports(options_report: str, output: Path) -> list[Any]:
    """TensorBoard's callback, its files in the output folder's ``runs``."""
    if options_report != "tensorboard" or not is_first():
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(output / "runs")))]


def _checkpointing(options: TrainOptions) -> dict[str, Any]:
    """Activation checkpointing; transformers 5 renamed it on its way."""
    if not options.grad_checkpointing:
        return {}
    import dataclasses

    import transformers

    known = {item.name for item in dataclasses.fields(transformers.TrainingArguments)}
    kind = "activation" if "activation_checkpointing" in known else "gradient"
    return {f"{kind}_checkpointing": True, f"{kind}_checkpointing_kwargs": {"use_reentrant": False}}


def make_trainer(
    model: Any,
    arguments: Any,
    *,
    train: Any,
    held_out: Any,
    collator: Any,
    judge: Callable[[Path], dict[str, float]] | None,
    stop: StopRequest,
    watcher: Watcher,
    mark: dict[str, Any],
    neftune: float = 0,
    report_to: str = "none",
) -> transformers.Trainer:
    """A Trainer for encoded examples; ``mark`` is written into each checkpoint.

    ``judge`` gives further metrics of the model as written into a folder, at each evaluation;
    ``neftune`` is the strength of noise on embeddings.
    """
    import torch
    from transformers import PrinterCallback, Trainer

    class AnswerTrainer(Trainer):  # type: ignore[misc]
        """Takes the loss on answers' tokens, each the same weight in the whole batch."""

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            asked = dict(inputs)
            asked.pop("labels")
            targets, tokens = asked.pop("shift_labels"), asked.pop("tokens")
            if model.training:
                meter.tokens += tokens
                if noise is not None:
                    noise.lengths = token_lengths(asked)
            outputs = model(**asked)
            loss = answer_loss(outputs.logits, targets, num_items_in_batch)
            if num_items_in_batch is not None and self.args.average_tokens_across_devices:
                # Gradients are averaged over processes; the count is that of all of them.
                loss = loss * self.accelerator.num_processes
            return (loss, {"logits": outputs.logits}) if return_outputs else loss

        def evaluate(self, *args: Any, **keywords: Any) -> dict[str, float]:
            metrics: dict[str, float] = super().evaluate(*args, **keywords)
            if judge is not None:
                scores = self._judged(judge)
                more = {f"eval_{name}": value for name, value in scores.items()}
                metrics.update(more)
                self.log(more)
            return metrics

        def _judged(self, judge: Callable[[Path], dict[str, float]]) -> dict[str, float]:
            """All processes write their part of the model; the first one judges it for all."""
            with tempfile.TemporaryDirectory(prefix="iepile-") as folder:
                self.save_model(folder)
                # Sharded weights may be written by all; only the first folder is whole.
                found = [judge(Path(folder)) if self.args.process_index == 0 else {}]
            if self.args.world_size > 1:
                torch.distributed.broadcast_object_list(found, src=0)
            return found[0]

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
                if folder.is_dir():
                    (folder / COMPLETE).write_text(json.dumps(mark), encoding="utf-8")

    meter = Meter()
    noise = Neftune(model, neftune) if neftune else None
    output = Path(arguments.output_dir).parent
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=collator,
        callbacks=[_course(stop, watcher, meter, output), *_reports(report_to, output)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.model_accepts_loss_kwargs = True
    trainer.loss_is_scaled_for_ga = True
    trainer.meter = meter
    return trainer


def is_done(checkpoint: Path) -> bool:
    """Whether a checkpoint is that of a run's last step."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def take_up(trainer: Any, checkpoint: Path) -> None:
    """Give a trainer the state of a finished run: its best checkpoint's weights, else the last's.

    Going on from the last step, transformers would take one step more.
    """
    from transformers import TrainerState

    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    best = trainer.state.best_model_checkpoint
    if best and trainer.args.load_best_model_at_end and Path(best).is_dir():
        checkpoint = Path(best)
    trainer._load_from_checkpoint(str(checkpoint))


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


def _course(stop: StopRequest, watcher: Watcher, meter: Meter, output: Path) -> Any:
    """The callback that writes the log, feeds the watcher and stops when asked."""
    import torch
    from transformers import TrainerCallback

    class Course(TrainerCallback):  # type: ignore[misc]
        """The run's course."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            before = 0
            if state.is_world_process_zero:
                kept = _cut_log(output / LOG, state.global_step)
                before = max((record.get("tokens", 0) for record in kept), default=0)
                watcher.started(state.max_steps, state.global_step)
            meter.start(before)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
        ) -> None:
            logs = dict(logs or {})
            if "train_runtime" in logs:
                return
            tokens = _over_all(meter.tokens, args) if "loss" in logs else 0
            if not state.is_world_process_zero:
                return
            loss = logs.get("loss", 0.0)
            if not math.isfinite(loss):
                raise ModelError(
                    f"the loss is {loss} at step {state.global_step}: training has come apart",
                    hint="lower --learning-rate, or use --dtype fp32",
                )
            record = {"step": state.global_step, **logs}
            if "loss" in logs:
                record["tokens"] = meter.before + tokens
                record["tokens_per_second"] = round(meter.rate(tokens), 1)
            _write_log(output / LOG, record)
            watcher.step(record)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # All processes must stop at the same step.
            if _over_all(int(stop.asked), args):
                stop.asked = True
                control.should_save = control.should_training_stop = True

    def _over_all(number: int, args: Any) -> int:
        """The sum of each process's number."""
        if args.world_size == 1:
            return number
        total = torch.tensor(number, dtype=torch.int64, device=args.device)
        torch.distributed.all_reduce(total)
        return int(total.item())

    return Course()


def _write_log(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _cut_log(path: Path, step: int) -> list[dict[str, Any]]:
    """Keep the log's lines up to a step: what came after it is done again; gives those kept."""
    if not path.is_file():
        return []
    kept = [record for record in read_log(path) if step and record["step"] <= step]
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept), "utf-8")
    os.replace(partial, path)
    return kept


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a training log; a last line that was cut off is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def last_checkpoint(output: Path, mark: dict[str, Any]) -> Path | None:
    """The newest whole checkpoint; broken ones are removed.

    Raises ``ModelError`` when it was made from other data or settings than ``mark`` says.
    """
    folder = output / CHECKPOINTS
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*") if folder.is_dir() else ():
        if (path / COMPLETE).is_file():
            found.append((int(path.name.rpartition("-")[2]), path))
        else:
            shutil.rmtree(path, ignore_errors=True)
    if not found:
        return None
    newest = max(found)[1]
    made = json.loads((newest / COMPLETE).read_text(encoding="utf-8"))
    differing = [key for key in mark if made.get(key) != mark[key]]
    if differing:
        raise ModelError(
            f"{newest} was made with another {differing[0].replace('_', '-')}",
            hint="give the same data and options, or --overwrite to start anew",
        )
    return newest

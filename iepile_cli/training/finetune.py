"""One training run from options to the folder that ``extract`` and ``export`` take."""

from __future__ import annotations

import errno
import itertools
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iepile_cli.errors import IEPileError, ModelError, UsageError, first_line
from iepile_cli.formatting import duration
from iepile_cli.training.arguments import training_arguments
from iepile_cli.training.attention import collator_for
from iepile_cli.training.batch import Batch, largest_batch
from iepile_cli.training.dataset import read_examples
from iepile_cli.training.device import Device
from iepile_cli.training.distributed import (
    LostProcess,
    join_deepspeed,
    processes,
    sharding_arguments,
)
from iepile_cli.training.held_out import F1Scorer
from iepile_cli.training.model import empty_model, load_trainable, quiet_libraries, training_library
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.output import (
    LOG,
    check_output,
    is_done,
    last_checkpoint,
    read_log,
    save_result,
    start_output,
    take_up,
)
from iepile_cli.training.packing import PackedCollator
from iepile_cli.training.prepare import Prepared, prepare
from iepile_cli.training.reporting import Reporter, Stopped, StopRequest
from iepile_cli.training.trainer import Loop, make_trainer

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
# How torch and safetensors tell of the same.
_FAILED_WRITES = (
    "PytorchStreamWriter failed writing",
    "unexpected pos",
    *(f"(os error {number})" for number in _UNWRITABLE),
)
# With less than this free, a failed write is taken for a full disk.
_FULL = 32 << 20


@dataclass(frozen=True)
class Result:
    """What a run came to: its folder, steps, last loss, trained tokens a second.

    ``start`` and ``best`` are the metric on held-out data (F1 in percent with ``--eval-f1``, else
    the loss) before the first step and of the result.
    """

    output: Path
    steps: int
    loss: float
    tokens_per_second: float
    start: float | None = None
    best: float | None = None


def train(
    options: TrainOptions, *, given: Iterable[str] = (), reporter: Reporter | None = None
) -> Result:
    """Train as the options say and write the result into ``options.output``.

    ``given`` names the options that the user set himself. Raises ``UsageError``, ``DataError`` or
    ``ModelError``; ``Stopped`` after Ctrl-C or SIGTERM, when a checkpoint has been written.
    """
    reporter = reporter or Reporter()
    options = options.checked()
    check_output(options)
    prepared = prepare(options, reporter, given=given)
    reporter.note(prepared.summary())
    try:
        with quiet_libraries():
            return _trained(prepared, reporter)
    except Exception as error:
        known = known_failure(error, options, prepared.device, prepared.batch)
        if known is None:
            raise
        raise known from error


def _trained(prepared: Prepared, reporter: Reporter) -> Result:
    options = prepared.options
    # Before the model: with ZeRO-3 it tells how weights are loaded in parts.
    arguments = _arguments(prepared)
    # A new adapter's weights are drawn before the Trainer sets its seed.
    training_library("transformers").set_seed(options.seed)
    model = load_trainable(prepared.base, options, prepared.device)
    packable = options.attn_implementation in ("", "flash_attention_2", "flash_attention_3")
    collator = collator_for(model, packing=options.packing and packable)
    fitting = _fitting(prepared, model, collator)
    if fitting.batch != prepared.batch:
        reporter.note(f"batch      {fitting.batch}: as much as fits into memory")
        prepared, arguments = fitting, _arguments(fitting)
    start_output(options)
    return _run(prepared, model, arguments, collator, reporter)


def _arguments(prepared: Prepared) -> Any:
    options, base = prepared.options, prepared.base
    layers = empty_model(base.folder, base.remote_code)._no_split_modules if options.fsdp else ()
    arguments = training_arguments(
        options,
        prepared.device,
        prepared.batch,
        steps=prepared.steps,
        evaluates=prepared.held_out is not None,
        sharding=sharding_arguments(options, layers or ()),
    )
    if options.deepspeed:
        # Reading the device opens the connection between the processes.
        _ = arguments.device
        join_deepspeed()
    return arguments


def _fitting(prepared: Prepared, model: Any, collator: Any) -> Prepared:
    """The same with the largest batch that a GPU really computes, tried on the longest examples."""
    options, batch = prepared.options, prepared.batch
    alone = processes() == 1 and not options.deepspeed
    chosen = options.fixed_batch or options.tokens_per_batch or options.grad_accum
    if prepared.device.kind != "cuda" or not alone or chosen:
        return prepared
    size = largest_batch(model, collator, prepared.train, batch.examples, prepared.device)
    share = batch.examples * batch.accumulated
    size = max(one for one in range(1, size + 1) if share % one == 0)
    return replace(prepared, batch=replace(batch, examples=size, accumulated=share // size))


def _run(
    prepared: Prepared, model: Any, arguments: Any, collator: Any, reporter: Reporter
) -> Result:
    options = prepared.options
    if options.packing and not isinstance(collator, PackedCollator):
        reporter.note("batches are padded: this attention cannot keep the examples of a row apart")
    began = time.perf_counter()
    with StopRequest() as stop:
        loop = Loop(
            options=options,
            batch=prepared.batch,
            train=prepared.train,
            held_out=prepared.held_out,
            collator=collator,
            scorer=_scorer(prepared),
            stop=stop,
            reporter=reporter,
            mark=prepared.mark,
        )
        trainer = make_trainer(model, arguments, loop)
        last = last_checkpoint(Path(options.output), prepared.mark) if options.resume else None
        if options.resume and last is None:
            reporter.note("no checkpoint to go on from: starting anew")
        try:
            if last and is_done(last) and not (options.deepspeed or options.fsdp):
                reporter.note("all steps are done already: the result is written")
                take_up(trainer, last)
            else:
                trainer.train(resume_from_checkpoint=str(last) if last else None)
        finally:
            reporter.finished()
        if stop.asked and trainer.state.global_step < trainer.state.max_steps:
            raise Stopped(
                f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; "
                "a checkpoint is written",
                hint=f"go on with: iepile train --resume -o {options.output}",
            )
    start, best = _compared(prepared, trainer, reporter)
    facts = _facts(prepared, trainer, time.perf_counter() - began, best)
    save_result(trainer, prepared.base, options, facts, reporter.note)
    return Result(
        output=Path(options.output),
        steps=int(trainer.state.global_step),
        loss=facts["loss"],
        tokens_per_second=loop.rate,
        start=start,
        best=best,
    )


def _compared(
    prepared: Prepared, trainer: Any, reporter: Reporter
) -> tuple[float | None, float | None]:
    """The held-out metric before the first step and of the result.

    Where no checkpoint is better than the adapter that was gone on from, that is the result.
    """
    options, best = prepared.options, trainer.state.best_metric
    key = "eval_f1" if options.eval_f1 else "eval_loss"
    log = read_log(Path(options.output, LOG))
    start = next((record[key] for record in log if record["step"] == 0 and key in record), None)
    if start is None or best is None:
        return start, best
    worse = best < start if options.eval_f1 else best > start
    if not worse:
        return start, best
    name = "F1" if options.eval_f1 else "loss"
    said = f"held-out {name} was {start:.4g} at the start and is {best:.4g} at best"
    way = "try a lower --learning-rate, fewer --epochs or more data"
    adapter = prepared.base.adapter
    if adapter is None or options.deepspeed or options.fsdp:
        reporter.note(f"warning: {said}: the result is worse than the start; {way}")
        return start, best
    trainer.model.load_adapter(str(adapter), "default", is_trainable=False)
    reporter.note(f"warning: {said}: the result is the adapter it went on from; {way}")
    return start, start


def _scorer(prepared: Prepared) -> Callable[[Path], dict[str, float]] | None:
    """What scores the model by extraction, if that is asked for."""
    options, held_out = prepared.options, prepared.held_out
    if not options.eval_f1:
        return None
    if held_out is None:
        raise UsageError(
            "--eval-f1 needs held-out records, and there are too few or too many to hold some out",
            hint="give --eval-data or --val-size",
        )
    files = (options.eval_data,) if options.eval_data else options.data
    numbers = list(dict.fromkeys(int(number) for number in held_out.numbers))
    random.Random(options.seed).shuffle(numbers)
    wanted = set(numbers[: options.eval_f1])
    every = itertools.chain.from_iterable(read_examples(Path(file)) for file in files)
    examples = (example for number, example in enumerate(every) if number in wanted)
    return F1Scorer.of(prepared.base, examples, options)


def _facts(prepared: Prepared, trainer: Any, seconds: float, best: float | None) -> dict[str, Any]:
    """What settings and model card say of the run."""
    history = trainer.state.log_history
    return {
        "examples": len(prepared.train),
        "report": prepared.train.report,
        "device": str(prepared.device),
        "batch": str(prepared.batch),
        "steps": trainer.state.global_step,
        "time": duration(seconds),
        "loss": next((float(log["loss"]) for log in reversed(history) if "loss" in log), math.nan),
        "best": best,
        "gguf_obstacle": prepared.gguf_obstacle,
        **_kinds(prepared.options),
    }


def _kinds(options: TrainOptions) -> dict[str, Any]:
    """The tasks, languages and sources of the training lines."""
    from iepile_cli.task.table import TASKS

    # The words of an instruction come before its schema; of millions of lines few differ in them.
    kinds = {
        (example.task, example.source, example.question.partition('"schema"')[0])
        for file in options.data
        for example in read_examples(Path(file))
    }
    tasks = {TASKS[task].name for task, _, _ in kinds if task in TASKS}
    languages = {
        name
        for task, _, begin in kinds
        if task in TASKS
        for name, words in TASKS[task].instruction.items()
        if json.dumps(words, ensure_ascii=False) in begin
    }
    return {
        "tasks": tuple(sorted(tasks)),
        "languages": tuple(sorted(languages)),
        "sources": sorted({source for _, source, _ in kinds if source}),
    }


# --------------------------------------------------------------------- what other libraries raise


def known_failure(
    error: Exception, options: TrainOptions, device: Device, batch: Batch
) -> IEPileError | None:
    """A user's error for memory or disk that ran out, or a missing library; ``None`` for others."""
    if isinstance(error, IEPileError):
        return None
    text = str(error)
    if "out of memory" in text or "can't allocate memory" in text:
        return _out_of_memory(options, device, batch)
    if (
        getattr(error, "errno", None) in _UNWRITABLE
        or any(sign in text for sign in _FAILED_WRITES)
        or _is_full(Path(options.output))
    ):
        return ModelError(
            f"{options.output}: cannot be written: "
            f"{getattr(error, 'strerror', None) or 'no space left on device'}",
            hint="what was saved before is whole; then go on with: "
            f"iepile train --resume -o {options.output}",
        )
    lost = type(error).__name__ in ("DistBackendError", "DistNetworkError") or "gloo" in text
    if processes() > 1 and lost:
        return LostProcess("another process of this run has ended")
    if isinstance(error, ImportError):
        return ModelError(f"a library is missing: {first_line(error)}")
    return None


def _is_full(folder: Path) -> bool:
    """Whether the disk of a folder is full: not all libraries say so when they cannot write."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    return there is not None and shutil.disk_usage(there).free < _FULL


def _out_of_memory(options: TrainOptions, device: Device, batch: Batch) -> ModelError:
    ways = [f"--batch-size {batch.examples // 2}"] if batch.examples > 1 else []
    ways += [f"--tokens-per-batch {batch.tokens // 2}"] if batch.tokens else []
    ways += ["--bits 4"] if options.method == "lora" and options.bits > 4 else []
    what = f"{batch.tokens:,} tokens" if batch.tokens else f"{batch.examples} examples"
    return ModelError(
        f"{device.kind} ran out of memory with {what} at once",
        hint=f"try {', '.join([*ways, '--grad-checkpointing'])}, or a smaller --max-length",
    )

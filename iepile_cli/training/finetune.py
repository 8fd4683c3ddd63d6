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

from iepile_cli.config import cache_folder
from iepile_cli.errors import IEPileError, ModelError, UsageError
from iepile_cli.files import refuse_overwriting
from iepile_cli.training import trainer as training
from iepile_cli.training.arguments import check_libraries, training_arguments
from iepile_cli.training.attention import collator_for
from iepile_cli.training.dataset import (
    EncodedDataset,
    EncoderFactory,
    dataset_key,
    encode_dataset,
    read_examples,
)
from iepile_cli.training.distributed import (
    LostProcess,
    check_sharding,
    join_deepspeed,
    planned,
    processes,
    set_threads,
    sharding_arguments,
    shares,
)
from iepile_cli.training.encoding import IGNORED, Encoder, Limits
from iepile_cli.training.gguf_export import adapter_obstacle
from iepile_cli.training.model import (
    Base,
    adapter_config,
    base_to_train,
    check_continued,
    empty_model,
    first_line,
    hf_tokenizer,
    load_trainable,
    open_tokenizer,
    quiet_libraries,
    tokenizer_digest,
    training_library,
)
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.output import (
    CONFIG,
    LOG,
    check_output,
    is_done,
    last_checkpoint,
    read_log,
    save_result,
    start_output,
    take_up,
)
from iepile_cli.training.packing import BatchSampler, PackedCollator
from iepile_cli.training.plan import (
    Batch,
    Device,
    Estimate,
    Plan,
    choose_batch,
    choose_device,
    estimate,
    readable_time,
)
from iepile_cli.training.reporting import Reporter, Stopped, StopRequest

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How torch and safetensors tell of the same.
_FAILED_WRITES = (
    "PytorchStreamWriter failed writing",
    "unexpected pos",
    *(f"(os error {number})" for number in _NO_ROOM),
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


@dataclass(frozen=True)
class Prepared:
    """All that is settled before weights are loaded."""

    options: TrainOptions
    base: Base
    device: Device
    train: EncodedDataset
    held_out: EncodedDataset | None
    guess: Estimate
    batch: Batch
    gguf_obstacle: str = ""

    @property
    def mark(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be gone on from."""
        options = self.options
        return {
            "data": self.train.folder.name,
            "base_model": self.base.name,
            "method": options.method,
            "lora_r": options.lora_r,
            "seed": options.seed,
            "epochs": [options.epochs, options.max_steps],
            "learning_rate": options.learning_rate,
            "examples_per_step": self.batch.per_step or self.batch.tokens,
            "held_out": 0 if self.held_out is None else len(self.held_out),
        }


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
    reporter.note(plan(prepared).summary())
    try:
        # Before the model: with ZeRO-3 it tells how weights are loaded in parts.
        arguments = _arguments(prepared)
        # A new adapter's weights are drawn before the Trainer sets its seed.
        training_library("transformers").set_seed(options.seed)
        with quiet_libraries():
            model = load_trainable(prepared.base, options, prepared.device)
        collator = collator_for(
            model, packing=options.packing and options.attn_implementation in ("", *_FLASH)
        )
        fitting = _fitting(prepared, model, collator)
        if fitting.batch != prepared.batch:
            reporter.note(f"batch      {fitting.batch}: as much as fits into memory")
            prepared, arguments = fitting, _arguments(fitting)
        start_output(options)
        with quiet_libraries():
            return _run(prepared, model, arguments, collator, reporter)
    except Exception as error:
        known = known_failure(error, options, prepared.device, prepared.batch)
        if known is None:
            raise
        raise known from error


_FLASH = ("flash_attention_2", "flash_attention_3")


def check_before(options: TrainOptions, *, given: Iterable[str], reporter: Reporter) -> None:
    """Find what can be wrong, and encode the data, before several processes are started.

    Nothing here touches a GPU.
    """
    options = options.checked()
    check_output(options)
    base, _ = _checked_base(options, given, reporter)
    _encoded(options.data, base, options, reporter)
    if options.eval_data:
        _encoded([options.eval_data], base, options, reporter)


def prepare(options: TrainOptions, reporter: Reporter, *, given: Iterable[str] = ()) -> Prepared:
    """Find the model, encode the data, settle device and batch; nothing large is loaded."""
    set_threads(options)
    base, obstacle = _checked_base(options, given, reporter)
    device = choose_device(options)
    count, here = planned(options)
    train = _encoded(options.data, base, options, reporter)
    held_out: EncodedDataset | None = None
    if options.eval_data:
        held_out = _encoded([options.eval_data], base, options, reporter)
    elif wanted := options.held_out(len(train)):
        train, held_out = _held_out(train, wanted, options)
    guess = estimate(base, options, device, shares(options, count))
    batch = choose_batch(guess, options, device, train.report, count, here)
    return Prepared(options, base, device, train, held_out, guess, batch, obstacle)


def _checked_base(
    options: TrainOptions, given: Iterable[str], reporter: Reporter
) -> tuple[Base, str]:
    """The base model, and why its adapter cannot be written as GGUF; all that can be refused."""
    check_libraries(options)
    check_sharding(options)
    base = base_to_train(options, on_note=reporter.note)
    check_continued(base, options, given)
    own = (base.source, base.folder, *base.adapters)
    written = (Path(options.output, name) for name in (CONFIG, LOG))
    refuse_overwriting([options.output], own)
    refuse_overwriting(written, [*options.data, options.eval_data or None])
    obstacle = ""
    if base.is_gguf and options.method == "lora":
        planned_adapter = {"modules_to_save": options.modules_to_save}
        obstacle = adapter_obstacle(
            base, adapter_config(base.adapter) if base.adapter else planned_adapter
        )
    if obstacle and options.eval_f1:
        raise UsageError(
            f"--eval-f1 extracts with the adapter as GGUF, and there can be none: {obstacle}",
            hint="leave it out: the held-out loss is taken all the same",
        )
    return base, obstacle


def _held_out(
    train: EncodedDataset, wanted: int, options: TrainOptions
) -> tuple[EncodedDataset, EncodedDataset | None]:
    if wanted >= len(train):
        raise UsageError(f"--val-size {wanted} leaves nothing of {len(train)} examples to train on")
    kept, out = train.split(wanted, options.seed)
    if len(out):
        return kept, out
    if options.val_size == "auto":
        return train, None
    raise UsageError(
        f"--val-size {wanted}: every text has more examples than that", hint="give a larger one"
    )


def plan(prepared: Prepared) -> Plan:
    """What will be done, for people."""
    options, batch = prepared.options, prepared.batch
    sampler = BatchSampler(
        prepared.train.lengths.tolist(),
        examples=batch.examples,
        tokens=batch.tokens,
        seed=options.seed,
        processes=batch.processes,
    )
    per_epoch = math.ceil(len(sampler) / batch.accumulated)
    warnings = []
    if prepared.gguf_obstacle:
        warnings.append(
            f"llama.cpp cannot open the result beside the model: {prepared.gguf_obstacle}; use it "
            "with --backend transformers, or merge it: iepile export --to gguf"
        )
    return Plan(
        options=options,
        base=prepared.base,
        device=prepared.device,
        report=prepared.train.report,
        examples=len(prepared.train),
        held_out=0 if prepared.held_out is None else len(prepared.held_out),
        guess=prepared.guess,
        batch=batch,
        steps=options.max_steps or math.ceil(per_epoch * options.epochs),
        warnings=tuple(warnings),
    )


def dry_run(
    options: TrainOptions, *, given: Iterable[str] = (), reporter: Reporter | None = None
) -> tuple[Plan, list[tuple[str, bool]]]:
    """The plan, and the first example as runs of text with whether each is learnt."""
    prepared = prepare(options.checked(), reporter or Reporter(), given=given)
    tokenizer = hf_tokenizer(prepared.base.folder, prepared.base.remote_code)
    example = prepared.train[0]
    learnt = [int(label) != IGNORED for label in example["labels"]]
    runs: list[tuple[str, bool]] = []
    # Whole runs are decoded at once: a character may be spread over several tokens.
    for is_learnt, run in itertools.groupby(
        zip(example["input_ids"].tolist(), learnt, strict=True), key=lambda pair: pair[1]
    ):
        runs.append((str(tokenizer.decode([token for token, _ in run])), is_learnt))
    return plan(prepared), runs


# ------------------------------------------------------------------------------------------ data


def build_encoder(base: Base, options: TrainOptions) -> Encoder:
    """The encoder of a base model's examples."""
    return Encoder(
        base.tokenizer,
        base.template,
        Limits.of(options),
        system=options.system,
        learns_prompt=options.train_on_prompt,
    )


def _encoder_elsewhere(
    source: Path, folder: Path, remote_code: bool, template: Any, options: TrainOptions
) -> Encoder:
    """The same encoder, made in another process."""
    tokenizer = open_tokenizer(source, folder, remote_code)
    base = Base("", source, folder, (), template.bind(tokenizer), remote_code)
    base.__dict__["tokenizer"] = tokenizer
    return build_encoder(base, options)


def _encoded(
    files: Iterable[str], base: Base, options: TrainOptions, reporter: Reporter
) -> EncodedDataset:
    paths = [Path(file) for file in files]
    encoder = build_encoder(base, options)
    return encode_dataset(
        cache_folder() / "encoded",
        dataset_key(paths, encoder, tokenizer_digest(base)),
        paths,
        encoder,
        workers=options.workers,
        factory=EncoderFactory(
            _encoder_elsewhere,
            (base.source, base.folder, base.remote_code, base.template, options),
        ),
        on_example=reporter.encoding,
    )


# --------------------------------------------------------------------------------------- the run


def _arguments(prepared: Prepared) -> Any:
    options, base = prepared.options, prepared.base
    layers = empty_model(base.folder, base.remote_code)._no_split_modules if options.fsdp else ()
    with quiet_libraries():
        arguments = training_arguments(
            options,
            prepared.device,
            prepared.batch,
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


def largest_batch(
    model: Any, collator: Any, train: EncodedDataset, most: int, device: Device
) -> int:
    """The largest batch of at most ``most`` of the longest examples for which memory is enough."""
    import torch
    from accelerate import find_executable_batch_size

    order = sorted(range(len(train)), key=lambda row: -int(train.lengths[row]))
    if device.kind == "cuda" and not getattr(model, "hf_device_map", None):
        model.to(device.kind)

    @find_executable_batch_size(  # type: ignore[untyped-decorator]
        starting_batch_size=most, reduce_batch_size_fn=None
    )
    def tried(size: int) -> int:
        given = collator([train[row] for row in order[:size]])
        given.pop("tokens")
        inputs = {
            key: value.to(device.kind) if hasattr(value, "to") else value
            for key, value in given.items()
        }
        model.train()
        with torch.autocast(device.kind, device.torch_dtype, enabled=device.dtype != "fp32"):
            loss = model(**inputs).loss
        loss.backward()
        model.zero_grad(set_to_none=True)
        return size

    return int(tried())


def _run(
    prepared: Prepared, model: Any, arguments: Any, collator: Any, reporter: Reporter
) -> Result:
    options = prepared.options
    if options.packing and not isinstance(collator, PackedCollator):
        reporter.note("batches are padded: this attention cannot keep the examples of a row apart")
    began = time.perf_counter()
    with StopRequest() as stop:
        trainer = training.make_trainer(
            model,
            arguments,
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
        tokens_per_second=trainer.meter.mean,
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
    from iepile_cli.training.evaluation import F1Scorer

    files = (options.eval_data,) if options.eval_data else options.data
    numbers = list(dict.fromkeys(int(number) for number in held_out.numbers))
    random.Random(options.seed).shuffle(numbers)
    wanted = set(numbers[: options.eval_f1])
    every = itertools.chain.from_iterable(read_examples(Path(file)) for file in files)
    examples = (example for number, example in enumerate(every) if number in wanted)
    return F1Scorer.of(prepared.base, examples, options.system)


def _facts(prepared: Prepared, trainer: Any, seconds: float, best: float | None) -> dict[str, Any]:
    """What settings and model card say of the run."""
    history = trainer.state.log_history
    return {
        "examples": len(prepared.train),
        "report": prepared.train.report,
        "device": f"{prepared.device.kind}, {prepared.device.dtype}",
        "batch": str(prepared.batch),
        "steps": trainer.state.global_step,
        "time": readable_time(seconds),
        "loss": next((float(log["loss"]) for log in reversed(history) if "loss" in log), math.nan),
        "best": best,
        "gguf_obstacle": prepared.gguf_obstacle,
        **_kinds(prepared.options),
    }


def _kinds(options: TrainOptions) -> dict[str, Any]:
    """The tasks, languages and sources of the training lines."""
    from iepile_cli.task.table import TASKS

    tasks: set[str] = set()
    languages: set[str] = set()
    sources: set[str] = set()
    for file in options.data:
        for example in read_examples(Path(file)):
            sources.add(example.source)
            task = TASKS.get(example.task)
            if task:
                tasks.add(task.name)
                languages |= {
                    name
                    for name, words in task.instruction.items()
                    if json.dumps(words, ensure_ascii=False) in example.question
                }
    return {
        "tasks": tuple(sorted(tasks)),
        "languages": tuple(sorted(languages)),
        "sources": sorted(source for source in sources if source),
    }


# ---------------------------------------------------------------------------------------- errors


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
        getattr(error, "errno", None) in _NO_ROOM
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

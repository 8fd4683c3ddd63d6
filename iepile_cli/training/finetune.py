"""One training run from options to the folder that ``extract`` and ``export`` take."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_cli.config import cache_folder
from iepile_cli.errors import UsageError
from iepile_cli.training import loop
from iepile_cli.training.base import (
    Base,
    empty_model,
    find_base,
    open_tokenizer,
    quiet_libraries,
    tokenizer_digest,
    training_library,
)
from iepile_cli.training.device import Place, choose_place
from iepile_cli.training.encoding import Encoder, Limits
from iepile_cli.training.estimate import Batch, Estimate, choose_batch, estimate
from iepile_cli.training.examples import read_examples
from iepile_cli.training.failing import known_failure
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.output import check_output, finish, start_output
from iepile_cli.training.plan import Plan, shown_example, work
from iepile_cli.training.rows import PaddedCollator, row_collator
from iepile_cli.training.scaling import (
    join_deepspeed,
    local_processes,
    planned,
    scaling_arguments,
    shares,
)
from iepile_cli.training.signals import Stopped, StopRequest
from iepile_cli.training.store import Opener, Store, cores, make_store, store_key
from iepile_cli.training.watcher import Watcher
from iepile_cli.training.weights import check_continued, load_trainable


@dataclass(frozen=True)
class Result:
    """What a run came to: its folder, steps, last loss, trained tokens a second, best F1."""

    output: Path
    steps: int
    loss: float
    tokens_per_second: float
    best: float | None = None


@dataclass(frozen=True)
class Prepared:
    """All that is settled before weights are loaded."""

    options: TrainOptions
    base: Base
    place: Place
    train: Store
    held_out: Any
    guess: Estimate
    batch: Batch
    processes: int = 1

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
            "examples_per_step": self.batch.examples * self.batch.accumulated * self.processes,
        }


def train(
    options: TrainOptions,
    *,
    given: Iterable[str] = (),
    watcher: Watcher | None = None,
) -> Result:
    """Train as the options say and write the result into ``options.output``.

    ``given`` names the options that the user set himself. Raises ``UsageError``, ``DataError`` or
    ``ModelError``; ``Stopped`` after Ctrl-C or SIGTERM, when a checkpoint has been written.
    """
    watcher = watcher or Watcher()
    options = options.checked()
    check_output(options)
    prepared = prepare(options, watcher)
    watcher.note(plan(prepared).summary())
    try:
        with quiet_libraries():
            # Before the model: with ZeRO-3 it tells how weights are loaded in parts.
            arguments = _arguments(prepared)
            # A new adapter's weights are drawn before the Trainer sets its seed.
            training_library("transformers").set_seed(options.seed)
            model = load_trainable(
                prepared.base, options, prepared.place, given=given, note=watcher.note
            )
            start_output(options, prepared.base)
            return _run(prepared, model, arguments, watcher)
    except Exception as error:
        known = known_failure(error, options, prepared.place, prepared.batch)
        if known is None:
            raise
        raise known from error


def check_before(options: TrainOptions, *, given: Iterable[str], watcher: Watcher) -> None:
    """Find what can be wrong, and encode the data, before several processes are started.

    Nothing here touches a GPU.
    """
    options = options.checked()
    check_output(options)
    loop.check_libraries(options)
    base = find_base(options, on_note=watcher.note)
    if base.adapters and not options.fresh_lora and options.method == "lora":
        check_continued(base.adapters[-1], options, given, lambda _: None)
    _encoded(options.data, base, options, watcher)
    if options.eval_data:
        _encoded([options.eval_data], base, options, watcher)


def prepare(options: TrainOptions, watcher: Watcher) -> Prepared:
    """Find the model, encode the data, settle device and batch; nothing large is loaded."""
    torch = training_library("torch")
    for name in ("transformers", "accelerate"):
        training_library(name)
    loop.check_libraries(options)
    place = choose_place(options)
    count, here = planned(options)
    if place.device == "cpu" and local_processes() > 1:
        # Processes on the same cores get in each other's way.
        torch.set_num_threads(min(torch.get_num_threads(), max(1, cores() // here)))
    base = find_base(options, on_note=watcher.note)
    store = _encoded(options.data, base, options, watcher)
    held_out = _held_out(options, base, store, watcher)
    guess = estimate(base, options, place, shares(options, count))
    batch = choose_batch(guess, options, place, store.report, count, here)
    return Prepared(options, base, place, store, held_out, guess, batch, count)


def plan(prepared: Prepared) -> Plan:
    """What will be done, for people."""
    return Plan(
        options=prepared.options,
        base=prepared.base,
        place=prepared.place,
        report=prepared.train.report,
        examples=len(_taken(prepared)),
        held_out=0 if prepared.held_out is None else len(prepared.held_out),
        guess=prepared.guess,
        batch=prepared.batch,
        processes=prepared.processes,
        work=work(prepared.train, prepared.batch.examples, prepared.options),
    )


def dry_run(options: TrainOptions, *, watcher: Watcher | None = None) -> tuple[Plan, list[Any]]:
    """The plan, and one example as runs of text with whether each is learnt."""
    prepared = prepare(options.checked(), watcher or Watcher())
    return plan(prepared), shown_example(prepared.train, prepared.base)


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
    return Encoder(
        tokenizer,
        template.bind(tokenizer),
        Limits.of(options),
        system=options.system,
        learns_prompt=options.train_on_prompt,
    )


def _encoded(files: Iterable[str], base: Base, options: TrainOptions, watcher: Watcher) -> Store:
    paths = [Path(file) for file in files]
    encoder = build_encoder(base, options)
    key = store_key(paths, encoder, tokenizer_digest(base))
    opener = Opener(
        _encoder_elsewhere, (base.source, base.folder, base.remote_code, base.template, options)
    )
    return make_store(
        cache_folder() / "encoded",
        key,
        paths,
        encoder,
        workers=options.workers,
        opener=opener,
        on_example=watcher.encoding,
    )


def _held_out(options: TrainOptions, base: Base, store: Store, watcher: Watcher) -> Any:
    """The examples to evaluate on: another file's, or some of the training file's."""
    if options.eval_data:
        return _encoded([options.eval_data], base, options, watcher)
    if not options.val_size:
        return None
    if options.val_size >= len(store):
        raise UsageError(
            f"--val-size {options.val_size} leaves nothing of {len(store)} examples to train on"
        )
    return Part(store, split(len(store), options.val_size, options.seed)[1])


@dataclass(frozen=True)
class Part:
    """Some examples of a store."""

    store: Store
    chosen: list[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.store[self.chosen[index]]


def split(count: int, held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on and to hold out, drawn by the seed, each in order."""
    import random

    out = set(random.Random(seed).sample(range(count), held_out))
    return [i for i in range(count) if i not in out], sorted(out)


def _taken(prepared: Prepared) -> Any:
    """The examples to train on."""
    store, options = prepared.train, prepared.options
    if not options.val_size:
        return store
    return Part(store, split(len(store), options.val_size, options.seed)[0])


# --------------------------------------------------------------------------------------- the run


def _arguments(prepared: Prepared) -> Any:
    options, base = prepared.options, prepared.base
    layers = empty_model(base.folder, base.remote_code)._no_split_modules if options.fsdp else ()
    arguments = loop.training_arguments(
        options,
        prepared.place,
        prepared.batch,
        evaluates=prepared.held_out is not None,
        scaling=scaling_arguments(options, layers or ()),
    )
    if options.deepspeed:
        # Reading the device opens the connection between the processes.
        _ = arguments.device
        join_deepspeed()
    return arguments


def _run(prepared: Prepared, model: Any, arguments: Any, watcher: Watcher) -> Result:
    options = prepared.options
    rows = row_collator(model) if options.packing else None
    if options.packing and not rows:
        watcher.note("this model brings its own attention: batches are padded")
    pad = model.config.pad_token_id
    collator = rows or PaddedCollator(0 if pad is None else int(pad))
    began = time.perf_counter()
    with StopRequest() as stop:
        trainer = loop.make_trainer(
            model,
            arguments,
            train=_taken(prepared),
            held_out=prepared.held_out,
            collator=collator,
            judge=_judge(prepared),
            stop=stop,
            watcher=watcher,
            mark=prepared.mark,
            neftune=options.neftune,
            report_to=options.report_to,
        )
        last = loop.last_checkpoint(Path(options.output), prepared.mark) if options.resume else None
        if options.resume and last is None:
            watcher.note("no checkpoint to go on from: starting anew")
        try:
            if last and loop.is_done(last) and not (options.deepspeed or options.fsdp):
                watcher.note("all steps are done already: the result is written")
                loop.take_up(trainer, last)
            else:
                trainer.train(resume_from_checkpoint=str(last) if last else None)
        finally:
            watcher.finished()
        if stop.asked and trainer.state.global_step < trainer.state.max_steps:
            raise Stopped(
                f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; "
                "a checkpoint is written",
                hint=f"go on with: iepile train --resume -o {options.output}",
            )
    facts = _facts(prepared, trainer, time.perf_counter() - began)
    finish(trainer, prepared.base, options, facts)
    return Result(
        output=Path(options.output),
        steps=int(trainer.state.global_step),
        loss=_last_loss(trainer.state.log_history),
        tokens_per_second=facts["tokens_per_second"],
        best=trainer.state.best_metric if options.eval_f1 else None,
    )


def _judge(prepared: Prepared) -> Callable[[Path], dict[str, float]] | None:
    """What scores the model by generation, if that is asked for."""
    options = prepared.options
    if not options.eval_f1:
        return None
    from iepile_cli.training.judging import Judge

    held_out = prepared.held_out
    if isinstance(held_out, Part):
        store, rows, files = held_out.store, held_out.chosen, options.data
    else:
        store, rows, files = held_out, list(range(len(held_out))), (options.eval_data,)
    wanted = {int(store.numbers[row]) for row in rows[: options.eval_f1]}
    every = itertools.chain.from_iterable(read_examples(Path(file)) for file in files)
    examples = (example for number, example in enumerate(every) if number in wanted)
    return Judge.of(prepared.base, examples, options.system)


def _last_loss(history: list[dict[str, Any]]) -> float:
    return next((float(log["loss"]) for log in reversed(history) if "loss" in log), math.nan)


def _facts(prepared: Prepared, trainer: Any, seconds: float) -> dict[str, Any]:
    """What the model card says of the run."""
    return {
        "examples": len(_taken(prepared)),
        "report": prepared.train.report,
        "place": prepared.place,
        "batch": prepared.batch.examples * prepared.batch.accumulated * prepared.processes,
        "steps": trainer.state.global_step,
        "seconds": seconds,
        "tokens_per_second": trainer.meter.mean,
        "loss": _last_loss(trainer.state.log_history),
        "best": trainer.state.best_metric,
        "best_checkpoint": trainer.state.best_model_checkpoint,
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

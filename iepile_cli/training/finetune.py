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

from iepile_cli.backends.gguf_weights import cache_folder
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.training import loop
from iepile_cli.training.base import (
    Base,
    find_base,
    open_tokenizer,
    quiet_libraries,
    training_library,
)
from iepile_cli.training.device import Place, choose_place
from iepile_cli.training.encoding import Encoder, Limits
from iepile_cli.training.estimate import Batch, Estimate, choose_batch, estimate
from iepile_cli.training.examples import read_examples
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.output import check_output, finish, start_output
from iepile_cli.training.plan import Plan, shown_example
from iepile_cli.training.rows import PaddedCollator, row_collator
from iepile_cli.training.scaling import processes, scaling_arguments
from iepile_cli.training.signals import Stopped, StopRequest
from iepile_cli.training.store import Opener, Store, make_store, store_key
from iepile_cli.training.watcher import Watcher
from iepile_cli.training.weights import load_trainable


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
            "examples_per_step": self.batch.examples * self.batch.accumulated * processes(),
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
    with quiet_libraries():
        # A new adapter's weights are drawn before the Trainer sets its seed.
        training_library("transformers").set_seed(options.seed)
        model = load_trainable(
            prepared.base, options, prepared.place, given=given, note=watcher.note
        )
        start_output(options, prepared.base)
        return _run(prepared, model, watcher)


def prepare(options: TrainOptions, watcher: Watcher) -> Prepared:
    """Find the model, encode the data, settle device and batch; nothing large is loaded."""
    torch = training_library("torch")
    for name in ("transformers", "accelerate"):
        training_library(name)
    place = choose_place(options)
    if place.device == "cpu" and processes() > 1:
        # Processes on the same cores get in each other's way.
        torch.set_num_threads(max(1, torch.get_num_threads() // processes()))
    base = find_base(options, on_note=watcher.note)
    store = _encoded(options.data, base, options, watcher)
    held_out = _held_out(options, base, store, watcher)
    guess = estimate(base, options, place)
    batch = choose_batch(guess, options, place, store.report, processes())
    return Prepared(options, base, place, store, held_out, guess, batch)


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
        processes=processes(),
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
    key = store_key(paths, encoder, base.source.name + base.folder.name)
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


def _run(prepared: Prepared, model: Any, watcher: Watcher) -> Result:
    options = prepared.options
    rows = row_collator(model) if options.packing else None
    if options.packing and not rows:
        watcher.note("this model brings its own attention: batches are padded")
    pad = model.config.pad_token_id
    collator = rows or PaddedCollator(0 if pad is None else int(pad))
    arguments = loop.training_arguments(
        options,
        prepared.place,
        prepared.batch,
        evaluates=prepared.held_out is not None,
        scaling=scaling_arguments(options, model),
    )
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
        )
        last = loop.last_checkpoint(Path(options.output), prepared.mark) if options.resume else None
        if options.resume and last is None:
            watcher.note("no checkpoint to go on from: starting anew")
        try:
            outcome = trainer.train(resume_from_checkpoint=str(last) if last else None)
        except RuntimeError as error:
            raise _out_of_memory(error, prepared) from error
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
        steps=int(outcome.global_step),
        loss=_last_loss(trainer.state.log_history),
        tokens_per_second=facts["tokens_per_second"],
        best=trainer.state.best_metric if options.eval_f1 else None,
    )


def _judge(prepared: Prepared) -> Callable[[Any], dict[str, float]] | None:
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


def _out_of_memory(error: RuntimeError, prepared: Prepared) -> Exception:
    """A line instead of a traceback for memory that ran out; other errors as they are."""
    if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
        return error
    batch = prepared.batch.examples
    smaller = f"--batch-size {batch // 2}, " if batch > 1 else ""
    four = "--bits 4, " if prepared.options.method == "lora" and prepared.options.bits > 4 else ""
    return ModelError(
        f"{prepared.place.device} ran out of memory with {batch} examples at once",
        hint=f"try {smaller}{four}--grad-checkpointing, or a smaller --max-length",
    )


def _last_loss(history: list[dict[str, Any]]) -> float:
    return next((float(log["loss"]) for log in reversed(history) if "loss" in log), math.nan)


def _facts(prepared: Prepared, trainer: Any, seconds: float) -> dict[str, Any]:
    """What the model card says of the run."""
    records = loop.read_log(Path(prepared.options.output, loop.LOG))
    tokens = max((int(record.get("tokens", 0)) for record in records), default=0)
    return {
        "examples": len(_taken(prepared)),
        "report": prepared.train.report,
        "place": prepared.place,
        "batch": prepared.batch.examples * prepared.batch.accumulated * processes(),
        "steps": trainer.state.global_step,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
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

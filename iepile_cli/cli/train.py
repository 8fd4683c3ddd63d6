"""``iepile train``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from iepile_cli.cli import console
from iepile_cli.cli.options import command, given_values
from iepile_cli.fields import option
from iepile_cli.formatting import plural, safe
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.reporting import Reporter

EXAMPLES = """
Examples:

\b
  iepile convert records.jsonl --task NER --schema schema.json -o train.jsonl
  iepile train --data train.jsonl -o my-adapter
  iepile train --data train.jsonl -o my-adapter --dry-run
  iepile train --recipe oneke-lora --data train.jsonl -o oneke-mine --bits 4
  iepile train --model llama3-8b-instruct --template alpaca --data train.jsonl -o out
  iepile train --adapter my-adapter --data more.jsonl -o my-adapter-2
  iepile train --resume -o my-adapter
  iepile train --recipe oneke-full --data train.jsonl -o full --nproc 8
"""

_FIRST = ("data", "output", "model", "adapter", "recipe", "config", "dry_run", "epochs")
# What is shown of a step: key of the log, label, format.
_SHOWN = (
    ("loss", "loss", ".4f"),
    ("eval_loss", "held-out loss", ".4f"),
    ("eval_f1", "F1", ".2f"),
    ("learning_rate", "lr", ".1e"),
    ("tokens_per_second", "tokens/s", ",.0f"),
)


@dataclass(frozen=True)
class SourceOptions:
    """Where further options are from, and whether there is only a plan."""

    recipe: str = option(
        "",
        completes="recipe",
        help="Start from a recipe of `iepile list recipes`; flags override it.",
    )
    config: str = option("", help="Options from a TOML file, such as a result's train.toml.")
    dry_run: bool = option(False, help="Show the plan and one example; train nothing.")


@command(first=_FIRST)
def train(context: typer.Context, options: TrainOptions, source: SourceOptions) -> None:
    """Fine-tune a model on converted data: LoRA, QLoRA, some layers or all weights."""
    from iepile_cli.training import distributed, finetune, prepare

    by_file, by_hand = given_values(context, TrainOptions)
    chosen = _chosen(options, by_file, by_hand, source)
    if source.dry_run:
        plan, example = prepare.dry_run(chosen, given=by_hand)
        console.put(safe(plan.summary()) + "\n")
        _show_example(example)
        return
    if chosen.nproc > 1 and not distributed.launched():
        with console.Progress() as progress:
            prepare.check_before(chosen, given=by_hand, reporter=TrainingProgress(progress))
        code = distributed.launch(chosen, given=by_hand, quiet=console.verbosity.quiet)
        if code:
            raise typer.Exit(code)
        return
    if not distributed.is_first():
        console.verbosity.quiet = True
    with console.Progress() as progress:
        result = finetune.train(chosen, given=by_hand, reporter=TrainingProgress(progress))
    if distributed.is_first():
        held_out = ""
        if result.best is not None:
            name, form = ("F1", ".2f") if chosen.eval_f1 else ("loss", ".4f")
            start = "" if result.start is None else f"{result.start:{form}} -> "
            held_out = f", held-out {name} {start}{result.best:{form}}"
        # A finished run that was resumed has trained nothing more.
        rate = result.tokens_per_second
        speed = f", {rate:,.0f} tokens/s" if rate else ""
        console.note(
            f"{result.output}: {plural(result.steps, 'step')}, last loss {result.loss:.4f}"
            f"{held_out}{speed}"
        )


def _chosen(
    options: TrainOptions,
    by_file: Mapping[str, Any],
    by_hand: Mapping[str, Any],
    source: SourceOptions,
) -> TrainOptions:
    """The options by their precedence: flags, ``--config``, the recipe, the user's configuration.

    ``--resume`` alone takes those of the run in the output folder.
    """
    from iepile_cli.registry import registry
    from iepile_cli.training.output import resumed_table
    from iepile_cli.training.recipes import options_from, read_table

    tables: list[Mapping[str, Any]] = [by_file]
    tables += [registry().get("recipe", source.recipe).table] if source.recipe else []
    tables += [read_table(Path(source.config))] if source.config else []
    if options.resume and not tables[1:]:
        tables.append(resumed_table(options.output, needed=not options.data))
    return options_from(*tables, by_hand)


class TrainingProgress(Reporter):
    """Shows a run's progress on a terminal, in a bar of its own or a given one; elsewhere a line
    now and then.
    """

    def __init__(self, progress: console.Progress, bar: console.Bar | None = None) -> None:
        self._progress = progress
        self._bar = bar or progress.bar("opening the model")
        self._encoded = self._steps = 0

    def note(self, message: str) -> None:
        """Write it above the progress bar."""
        self._progress.note(message)

    def encoding(self) -> None:
        """Count encoded examples."""
        self._encoded += 1
        if self._encoded % 100 == 0:
            self._bar.update(f"tokenising: {plural(self._encoded, 'example')}")

    def started(self, steps: int, done: int) -> None:
        """Begin the bar."""
        self._steps = steps
        self._bar.update("training", total=steps, done=done)

    def step(self, record: Mapping[str, Any]) -> None:
        """Show loss, learning rate and speed."""
        text = f"step {record['step']}/{self._steps}"
        for key, label, form in _SHOWN:
            if key in record:
                text += f"  {label} {record[key]:{form}}"
        self._bar.update(text, done=record["step"])
        scored = "eval_loss" in record or "eval_f1" in record
        tenth = max(1, self._steps // 10)
        if scored or (not self._progress.visible and record["step"] % tenth == 0):
            self.note(text)


def _show_example(runs: Sequence[tuple[str, bool]]) -> None:
    """Write an example with what is trained on marked: by colour on a terminal, else by lines."""
    console.put("\nan example; what is trained on is marked:\n")
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        parts = [(text, "bold green" if trained else "dim") for text, trained in runs]
        Console(highlight=False).print(Text.assemble(*parts))
        return
    for text, trained in runs:
        console.put(f"[{'trained' if trained else 'masked'}] {safe(text)}\n")

"""``iepile train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from iepile_cli.cli import console
from iepile_cli.cli.train_options import given_values, taking_options

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


@taking_options
def train(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Option(help="Start from a recipe: see `iepile list recipes`; flags override.")
    ] = "",
    config: Annotated[
        str, typer.Option(help="Options from a TOML file, such as a result's train.toml.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and one example; train nothing.")
    ] = False,
    **values: Any,
) -> None:
    """Fine-tune a model on converted data: LoRA, QLoRA, some layers or all weights."""
    from iepile_cli.cli.train_view import show_example, watching_training
    from iepile_cli.registry import registry
    from iepile_cli.training.finetune import check_before
    from iepile_cli.training.finetune import dry_run as plan_run
    from iepile_cli.training.finetune import train as train_model
    from iepile_cli.training.launching import launch
    from iepile_cli.training.options import options_from, read_table
    from iepile_cli.training.output import resumed_table
    from iepile_cli.training.scaling import is_first, launched

    by_file, by_hand = given_values(context, values)
    tables = [by_file]
    tables += [registry().get("recipe", recipe).table] if recipe else []
    tables += [read_table(Path(config))] if config else []
    if values["resume"] and not tables[1:]:
        tables.append(resumed_table(values["output"], needed=not values["data"]))
    options = options_from(*tables, by_hand)
    if dry_run:
        plan, example = plan_run(options)
        typer.echo(plan.summary())
        show_example(example)
        return
    if options.nproc > 1 and not launched():
        with watching_training() as watcher:
            check_before(options, given=by_hand, watcher=watcher)
        code = launch(options, given=by_hand, quiet=console.verbosity.quiet)
        if code:
            raise typer.Exit(code)
        return
    if not is_first():
        console.verbosity.quiet = True
    with watching_training() as watcher:
        result = train_model(options, given=by_hand, watcher=watcher)
    if is_first():
        best = "" if result.best is None else f", best F1 {result.best:.2f}"
        console.note(
            f"{result.output}: {result.steps} steps, last loss {result.loss:.4f}, "
            f"{result.tokens_per_second:.0f} tokens/s{best}"
        )

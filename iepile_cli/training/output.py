"""The folder that a run leaves: adapter or model, tokenizer, settings, log, plot and card.

What was trained is written into a hidden folder first and moved in whole files, the adapter's own
settings last, so that a full disk or a crash never leaves half an adapter. What only describes it
(GGUF form, loss curve, card) comes afterwards: when that fails, nothing trained is lost.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from iepile_cli import __version__
from iepile_cli.backends.tokenizers import hf_tokenizer
from iepile_cli.backends.transformers_loading import adapter_config
from iepile_cli.errors import ModelError, UsageError, first_line
from iepile_cli.models.adapter_settings import GGUF_ADAPTER, AdapterSettings
from iepile_cli.training.distributed import is_first, local_processes, processes
from iepile_cli.training.model import Base, Note
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.recipes import as_toml, read_table
from iepile_cli.writing import write_atomic

CONFIG = "train.toml"
CHECKPOINTS = "checkpoints"
LOG = "train_log.jsonl"
# Written last into a checkpoint: one without it was cut off while being written.
COMPLETE = "iepile-complete.json"
# The file that makes a folder an adapter or a model; it comes last.
_SEALS = ("adapter_config.json", "config.json")


def check_output(options: TrainOptions) -> None:
    """Refuse a folder that holds a result already, unless it is gone on with or replaced."""
    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, not a folder")
    if options.resume or options.overwrite or not folder.is_dir():
        return
    finished = any((folder / name).exists() for name in _SEALS)
    if finished or any(folder.glob(f"{CHECKPOINTS}/checkpoint-*")):
        raise UsageError(
            f"{folder} holds a {'trained model' if finished else 'run that was not finished'}",
            hint="--resume goes on with it, --overwrite starts anew",
        )


def resumed_table(output: str, *, needed: bool) -> dict[str, Any]:
    """The options of the run that an output folder holds; none if it holds none.

    Raises ``UsageError`` where they are needed.
    """
    if not output:
        raise UsageError("--resume needs the folder of the run", hint="give -o FOLDER")
    path = Path(output, CONFIG)
    if not path.is_file():
        if not needed:
            return {}
        raise UsageError(
            f"{output} holds no run to go on with",
            hint=f"there is no {CONFIG} in it; give --data to start one",
        )
    return {**read_table(path), "output": output}


def start_output(options: TrainOptions) -> None:
    """Make the folder, with the exact configuration and what was known before training."""
    if not is_first():
        return
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        (folder / LOG).unlink(missing_ok=True)
    # Of several machines each is told its own number of processes.
    here = local_processes() if local_processes() == processes() else 1
    write_atomic(folder / CONFIG, as_toml(replace(options, nproc=here)))


# ------------------------------------------------------------------------------------ the result


def save_result(
    trainer: Any, base: Base, options: TrainOptions, facts: dict[str, Any], note: Note
) -> None:
    """Write the result into the output folder; every process must call it.

    What only describes the result and cannot be written is noted.
    """
    folder = Path(options.output)
    partial = Path(folder, ".result")
    if is_first():
        shutil.rmtree(partial, ignore_errors=True)
    try:
        # With sharded weights all processes take part.
        trainer.save_model(str(partial))
        if not is_first():
            return
        settings = _fill(partial, base, options, facts)
        _move_in(partial, folder)
    finally:
        if is_first():
            shutil.rmtree(partial, ignore_errors=True)
    for what, describe in _descriptions(base, options, settings, facts):
        try:
            describe(folder)
        except Exception as error:
            note(f"{what} could not be written: {first_line(error)}")


def _fill(
    partial: Path, base: Base, options: TrainOptions, facts: dict[str, Any]
) -> AdapterSettings:
    for name in ("training_args.bin", "README.md"):
        (partial / name).unlink(missing_ok=True)
    hf_tokenizer(base.folder, remote_code=base.remote_code).save_pretrained(partial)
    rank: dict[str, Any] = {}
    if (partial / "adapter_config.json").is_file():
        # As they are in the adapter; it may have been gone on from another's.
        config = adapter_config(partial)
        rank = {"lora_r": config["r"], "lora_alpha": config["lora_alpha"]}
    settings = AdapterSettings(
        template=base.template.name,
        template_hash=base.template.hash(),
        base_model=base.name,
        method=options.method,
        system=options.system,
        **rank,
        max_length=options.max_length,
        passage_tokens=base.passage_tokens,
        tasks=facts["tasks"],
        languages=facts["languages"],
        version=__version__,
    )
    settings.write(partial)
    return settings


def _descriptions(
    base: Base, options: TrainOptions, settings: AdapterSettings, facts: dict[str, Any]
) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """What is written beside the result, by what it is called in a message."""
    if settings.lora_r and base.is_gguf and not facts["gguf_obstacle"]:
        from iepile_cli.training.gguf_export import write_gguf_adapter

        # What llama.cpp, which runs this base model, opens of the folder.
        yield (
            GGUF_ADAPTER,
            lambda folder: write_gguf_adapter(
                base.layout(), folder, folder / GGUF_ADAPTER, settings
            ),
        )
    yield "loss.png", lambda folder: draw_loss(read_log(folder / LOG), folder / "loss.png")
    card = model_card(base, options, settings, facts)
    yield "README.md", lambda folder: write_atomic(folder / "README.md", card)


def readable(folder: Path) -> None:
    """Let weights be read by whoever may read other files; safetensors keeps them private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~mask)


def _move_in(partial: Path, folder: Path) -> None:
    readable(partial)
    files = sorted(partial.iterdir(), key=lambda path: (path.name in _SEALS, path.name))
    # Of a result that was there before, its GGUF form would be another adapter's.
    for name in (*_SEALS, GGUF_ADAPTER):
        (folder / name).unlink(missing_ok=True)
    for file in files:
        target = folder / file.name
        if file.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        os.replace(file, target)


def draw_loss(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training loss, smoothed and as it is, and held-out loss over steps into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    points = [(record["step"], record["loss"]) for record in records if "loss" in record]
    if points:
        steps, losses = zip(*points, strict=True)
        axes.plot(steps, losses, color="C0", alpha=0.35, label="training")
        axes.plot(steps, smoothed(losses), color="C0", label="training, smoothed")
    held_out = [
        (record["step"], record["eval_loss"]) for record in records if "eval_loss" in record
    ]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="C1", marker="o", label="held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss of the answers' tokens")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(path, metadata={"Software": None})


def smoothed(losses: Sequence[float]) -> list[float]:
    """The exponential mean over about a twentieth of the steps, corrected for its start."""
    keep = 1 - 1 / max(1.0, len(losses) / 20)
    mean, weight, result = 0.0, 0.0, []
    for loss in losses:
        mean, weight = keep * mean + (1 - keep) * loss, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result


# -------------------------------------------------------------------------------------- the card


def model_card(
    base: Base, options: TrainOptions, settings: AdapterSettings, facts: dict[str, Any]
) -> str:
    """The card as Markdown with a YAML head, in the form of the Hugging Face hub."""
    lora = options.method == "lora"
    head = ["---", "library_name: " + ("peft" if lora else "transformers")]
    if not Path(base.name).exists():
        head.append(f"base_model: {base.name}")
    if settings.languages:
        head.append(f"language: [{', '.join(settings.languages)}]")
    head += ["tags: [information-extraction, iepile]", "---", ""]
    what = "LoRA adapter" if lora else "model"
    flags = f"--model {base.name} --adapter" if lora else "--model"
    body = [
        f"# {Path(options.output).resolve().name}",
        "",
        f"A {what} for schema-based information extraction, trained with iepile "
        f"{settings.version} from `{base.name}`.",
        "",
        f"    iepile extract {flags} {Path(options.output).name} --schema TYPES FILE",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in _rows(base, options, settings, facts)),
        "",
        "The exact configuration is in `train.toml`, the loss of each step in `train_log.jsonl` "
        "and `loss.png`.",
        "",
        "The answers come from the data named above and carry its licences' terms, beside "
        "those of the base model.",
        "",
    ]
    return "\n".join([*head, *body])


def _rows(
    base: Base, options: TrainOptions, settings: AdapterSettings, facts: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    report = facts["report"]
    yield "template", f"{settings.template} (`{settings.template_hash[:12]}`)"
    if settings.lora_r:
        yield "LoRA", f"r {settings.lora_r}, alpha {settings.lora_alpha:g}"
    if base.adapter_name:
        yield "trained on from", base.adapter_name
    yield "tasks", ", ".join(settings.tasks) or "not recorded"
    yield "sources", ", ".join(facts["sources"]) or "not recorded"
    yield "examples", f"{facts['examples']:,}"
    yield "too long", f"{report.split:,} lines split into passages, {report.left_out:,} left out"
    yield "steps", f"{facts['steps']:,} of {facts['batch']}"
    yield "learning rate", f"{options.learning_rate:g}, {options.scheduler}"
    yield "seed", options.seed
    yield "computed", f"{facts['device']}, {options.bits}-bit base weights"
    yield "time", facts["time"]
    yield "last loss", f"{facts['loss']:.4f}"
    if facts["best"] is not None:
        yield "best on held-out data", f"{facts['best']:.4f}"


# --------------------------------------------------------------------------- log and checkpoints


def cut_log(path: Path, step: int) -> list[dict[str, Any]]:
    """Keep the log's lines up to a step: what came after it is done again; gives those kept."""
    if not path.is_file():
        return []
    kept = [record for record in read_log(path) if step and record["step"] <= step]
    write_atomic(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))
    return kept


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a training log; a last line that was cut off is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


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

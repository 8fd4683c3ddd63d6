"""The folder that a run leaves: adapter or model, tokenizer, settings, log, picture and card.

Everything is written into a hidden folder first and moved in whole files, the adapter's own
settings last, so that a full disk or a crash never leaves half an adapter.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from iepile_cli import __version__
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.models.adapter_settings import GGUF_ADAPTER, AdapterSettings
from iepile_cli.training.base import Base, first_line, hf_tokenizer, quiet_libraries
from iepile_cli.training.card import model_card
from iepile_cli.training.gguf_adapter import write_gguf_adapter
from iepile_cli.training.loop import CHECKPOINTS, LOG, read_log
from iepile_cli.training.options import TrainOptions, as_toml, read_table
from iepile_cli.training.picture import draw_loss
from iepile_cli.training.scaling import is_first, local_processes, processes

CONFIG = "train.toml"
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


def start_output(options: TrainOptions, base: Base) -> None:
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
    _write_whole(folder / CONFIG, as_toml(replace(options, nproc=here)))


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def finish(trainer: Any, base: Base, options: TrainOptions, facts: dict[str, Any]) -> None:
    """Write the result into the output folder; every process must call it."""
    folder = Path(options.output)
    partial = Path(folder, ".result")
    if is_first():
        shutil.rmtree(partial, ignore_errors=True)
    try:
        with quiet_libraries():
            # With sharded weights all processes take part.
            trainer.save_model(str(partial))
        if not is_first():
            return
        _fill(partial, base, options, facts)
        _move_in(partial, folder)
    except OSError as error:
        raise ModelError(
            f"{folder}: the result cannot be written: {error.strerror or error}",
            hint=f"the last checkpoint is whole; go on with: iepile train --resume -o {folder}",
        ) from None
    except Exception as error:
        # safetensors reports a full disk by an error class of its own.
        if type(error).__name__ != "SafetensorError":
            raise
        raise ModelError(f"{folder}: the result cannot be written: {first_line(error)}") from None
    finally:
        if is_first():
            shutil.rmtree(partial, ignore_errors=True)


def _fill(partial: Path, base: Base, options: TrainOptions, facts: dict[str, Any]) -> None:
    for name in ("training_args.bin", "README.md"):
        (partial / name).unlink(missing_ok=True)
    with quiet_libraries():
        hf_tokenizer(base.folder, base.remote_code).save_pretrained(partial)
    settings = AdapterSettings(
        template=base.template.name,
        template_hash=base.template.hash(),
        base_model=base.name,
        method=options.method,
        system=options.system,
        **_rank(partial),
        max_length=options.max_length,
        tasks=facts["tasks"],
        languages=facts["languages"],
        over=tuple(map(str, base.adapters if options.fresh_lora else base.adapters[:-1])),
        version=__version__,
    )
    settings.write(partial)
    if settings.lora_r and base.source.suffix == ".gguf" and not options.modules_to_save:
        # What llama.cpp, which runs this base model, opens of the folder.
        write_gguf_adapter(base, partial, partial / GGUF_ADAPTER, settings)
    log = Path(options.output, LOG)
    draw_loss(read_log(log), partial / "loss.png")
    card = model_card(base, options, settings, facts)
    (partial / "README.md").write_text(card, encoding="utf-8")


def _rank(partial: Path) -> dict[str, Any]:
    """Rank and alpha as they are in the adapter; it may have been gone on from another's."""
    from iepile_cli.training.weights import adapter_config

    if not (partial / "adapter_config.json").is_file():
        return {}
    config = adapter_config(partial)
    return {"lora_r": config["r"], "lora_alpha": config["lora_alpha"]}


def readable(folder: Path) -> None:
    """Let weights be read by whoever may read other files; safetensors keeps them private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~mask)


def _move_in(partial: Path, folder: Path) -> None:
    readable(partial)
    files = sorted(partial.iterdir(), key=lambda path: (path.name in _SEALS, path.name))
    for name in _SEALS:
        (folder / name).unlink(missing_ok=True)
    for file in files:
        target = folder / file.name
        if file.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        os.replace(file, target)


def writing_folder(output: Path) -> Path:
    """A hidden folder beside what is being made, on the same disk."""
    output.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))

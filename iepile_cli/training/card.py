"""The model card of a result: what it was made from, how, and how to use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iepile_cli.models.adapter_settings import AdapterSettings
from iepile_cli.training.base import Base
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.plan import readable_time


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
    flag = f"--model {base.name} --adapter" if lora else "--model"
    body = [
        f"# {Path(options.output).resolve().name}",
        "",
        f"A {what} for schema-based information extraction, trained with iepile "
        f"{settings.version} from `{base.name}`.",
        "",
        f"    iepile extract {flag} {Path(options.output).name} --schema TYPES FILE",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in _rows(options, settings, facts)),
        "",
        "The exact configuration is in `train.toml`, the loss of each step in `train_log.jsonl` "
        "and `loss.png`.",
        "",
        "The answers are learnt from the data named above and carry its licences' terms, beside "
        "those of the base model.",
        "",
    ]
    return "\n".join([*head, *body])


def _rows(
    options: TrainOptions, settings: AdapterSettings, facts: dict[str, Any]
) -> list[tuple[str, Any]]:
    report, place = facts["report"], facts["place"]
    rows: list[tuple[str, Any]] = [
        ("template", f"{settings.template} (`{settings.template_hash[:12]}`)"),
        ("tasks", ", ".join(settings.tasks) or "not recorded"),
        ("sources", ", ".join(facts["sources"]) or "not recorded"),
        ("examples", f"{facts['examples']:,}"),
        ("cut or left out", f"{report.cut:,} cut, {report.left_out:,} left out"),
        ("steps", f"{facts['steps']:,} of {facts['batch']} examples"),
        ("learning rate", f"{options.learning_rate:g}, {options.scheduler}"),
        ("seed", options.seed),
        ("computed", f"{place.device}, {place.dtype}, {options.bits}-bit base weights"),
        ("time", readable_time(facts["seconds"])),
        ("last loss", f"{facts['loss']:.4f}"),
    ]
    if settings.lora_r:
        rows.insert(1, ("LoRA", f"r {settings.lora_r}, alpha {settings.lora_alpha:g}"))
    if settings.over:
        rows.append(("lies over", ", ".join(settings.over)))
    if facts["best"] is not None:
        rows.append(("best on held-out data", f"{facts['best']:.4f}"))
    return rows

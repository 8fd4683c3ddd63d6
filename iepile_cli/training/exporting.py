"""``iepile export``: from base model and adapter to what other programs open.

``merged`` is a folder of safetensors, ``gguf-adapter`` the adapter for llama.cpp, ``gguf`` the
merged model in one file, ``ollama`` a folder with that file and a Modelfile. Each is written
beside its place first and moved there whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from iepile_cli.errors import UsageError
from iepile_cli.models.adapter_settings import AdapterSettings
from iepile_cli.training.base import Base, find_base, hf_tokenizer, quiet_libraries
from iepile_cli.training.export_options import FORMS, ExportOptions
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.output import readable, writing_folder
from iepile_cli.training.weights import adapter_config, merge_adapters

Note = Callable[[str], None]


def export(options: ExportOptions, *, note: Note = lambda _: None) -> Path:
    """Export a model; gives the path of what was written.

    Raises ``UsageError``, or ``ModelError`` for a model that cannot be brought into the form.
    """
    if options.to not in FORMS:
        raise UsageError(f"--to {options.to} is not known", hint=f"one of {', '.join(FORMS)}")
    if not options.output:
        raise UsageError("no place to write to", hint="give -o PATH")
    if options.to == "gguf-adapter" and not options.adapter:
        raise UsageError("--to gguf-adapter needs an --adapter")
    if options.to in ("gguf", "ollama"):
        from iepile_cli.training.gguf_model import written_directly

        # A type that is not known is said before a large model is merged.
        written_directly(options.quantise)
    output = Path(options.output)
    if output.exists() and not options.overwrite:
        raise UsageError(f"{output} is there already", hint="--overwrite replaces it")
    base = find_base(
        TrainOptions(
            model=options.model,
            adapter=options.adapter,
            template=options.template,
            trust_remote_code=options.trust_remote_code,
        ),
        on_note=note,
    )
    partial = writing_folder(output)
    try:
        with quiet_libraries():
            made = _MAKERS[options.to](base, options, partial, note)
        _place(made, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def _place(made: Path, output: Path) -> None:
    if made.is_dir():
        readable(made)
    if output.is_dir():
        shutil.rmtree(output)
    os.replace(made, output)


def _merged(base: Base, options: ExportOptions, folder: Path, note: Note) -> Path:
    import torch
    import transformers

    made = folder / "merged"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base.folder, dtype="auto", trust_remote_code=base.remote_code
    )
    kept = model.dtype
    if base.adapters:
        note(f"merging {', '.join(path.name for path in base.adapters)}")
        # A merge in 16 bits would round each sum; in 32 bits only the result is rounded.
        model = merge_adapters(model.to(torch.float32), base.adapters).to(kept)
    model.save_pretrained(made)
    hf_tokenizer(base.folder, base.remote_code).save_pretrained(made)
    replace(settings_of(base), method="merged").write(made)
    return made


def settings_of(base: Base) -> AdapterSettings:
    """What the exported model records of itself: the adapter's settings, else the template's."""
    recorded = base.settings
    if recorded:
        return recorded
    rank = adapter_config(base.adapters[-1]) if base.adapters else {}
    return AdapterSettings(
        template=base.template.name,
        template_hash=base.template.hash(),
        base_model=base.name,
        lora_r=int(rank.get("r", 0)),
        lora_alpha=float(rank.get("lora_alpha", 0)),
    )


def _gguf_adapter(base: Base, options: ExportOptions, folder: Path, note: Note) -> Path:
    from iepile_cli.training.gguf_adapter import write_gguf_adapter

    if len(base.adapters) > 1:
        raise UsageError(
            "--to gguf-adapter takes one adapter",
            hint="export each, or merge them: --to gguf",
        )
    made = folder / "adapter.gguf"
    write_gguf_adapter(base, base.adapters[-1], made, settings_of(base))
    return made


def _gguf(base: Base, options: ExportOptions, folder: Path, note: Note) -> Path:
    from iepile_cli.training.gguf_model import quantise, write_gguf_model, written_directly

    merged = _merged(base, options, folder, note)
    direct = written_directly(options.quantise)
    made = folder / "model.gguf"
    note(f"writing GGUF ({options.quantise})")
    settings = replace(settings_of(base), method="merged")
    write_gguf_model(base, merged, made, options.quantise if direct else "f16", settings)
    if direct:
        return made
    smaller = folder / "smaller.gguf"
    quantise(made, smaller, options.quantise)
    return smaller


def _ollama(base: Base, options: ExportOptions, folder: Path, note: Note) -> Path:
    from iepile_cli.training.ollama import modelfile

    model = _gguf(base, options, folder, note)
    made = folder / "ollama"
    made.mkdir()
    os.replace(model, made / "model.gguf")
    text = modelfile(base.template, base.tokenizer, "model.gguf", base.settings)
    (made / "Modelfile").write_text(text, encoding="utf-8")
    return made


_MAKERS: dict[str, Callable[[Base, ExportOptions, Path, Note], Path]] = {
    "merged": _merged,
    "gguf-adapter": _gguf_adapter,
    "gguf": _gguf,
    "ollama": _ollama,
}

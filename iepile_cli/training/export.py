"""``iepile export``: from base model and adapter to what other programs open.

``merged`` is a folder of safetensors, ``gguf-adapter`` the adapter for llama.cpp, ``gguf`` the
merged model in one file, ``ollama`` a folder with that file and a Modelfile. Each is written
beside its place first and moved there whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from iepile_cli.backends.gguf import GgufFile
from iepile_cli.backends.gguf_layout import Layout
from iepile_cli.backends.gguf_merging import FORMATS, merge_adapters
from iepile_cli.backends.tokenizers import hf_tokenizer, open_tokenizer
from iepile_cli.backends.transformers_loading import (
    adapter_config,
    load_weights,
    longest_sequence,
    merge_adapter,
)
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.fields import check_fields
from iepile_cli.models import NO_ADAPTER, Resolved, resolve_model
from iepile_cli.models.adapter_settings import GGUF_ADAPTER, AdapterSettings, read_adapter_settings
from iepile_cli.templates import Template, Tokenizer
from iepile_cli.training.gguf_export import (
    lora_obstacle,
    quantise,
    write_gguf_adapter,
    write_gguf_model,
    written_directly,
)
from iepile_cli.training.model import (
    Base,
    Note,
    find_base,
    hf_config,
    quiet_libraries,
    settled_template,
    training_library,
)
from iepile_cli.training.options import ExportOptions
from iepile_cli.training.output import readable
from iepile_cli.writing import refuse_overwriting

# Longer prompts than iepile sends by itself; more would only take memory.
_OLLAMA_CONTEXT = 8192


def export(options: ExportOptions, *, note: Note = lambda _: None) -> Path:
    """Export a model; gives the path of what was written.

    Raises ``UsageError``, or ``ModelError`` for a model that cannot be brought into the form.
    """
    check_fields(options)
    if not options.output:
        raise UsageError("no place to write to", hint="give -o PATH")
    if options.to == "gguf-adapter" and not options.adapter:
        raise UsageError("--to gguf-adapter needs an --adapter")
    if options.to in ("gguf", "ollama"):
        # A type that is not known is said before a large model is merged.
        written_directly(options.quantise)
    output = Path(options.output)
    if options.to in ("gguf", "gguf-adapter") and output.suffix != ".gguf":
        # By their names GGUF files are known when they are opened.
        raise UsageError(f"-o {output}: a GGUF file's name ends in .gguf", hint=f"-o {output}.gguf")
    refuse_overwriting([output], [options.model or None, *options.adapter])
    if output.exists() and not options.overwrite:
        raise UsageError(f"{output} is there already", hint="--overwrite replaces it")
    parts = _gguf_parts(options)
    if parts:
        refuse_overwriting([output], [parts.path, *parts.adapters])
        return _placed(output, lambda folder: _joined(parts, options, folder, note))
    base = find_base(
        options.model,
        options.adapter or [NO_ADAPTER],
        template=options.template,
        remote_code=options.trust_remote_code,
        on_note=note,
    )
    refuse_overwriting([output], [base.path, base.folder, *base.adapters])
    with quiet_libraries():
        return _placed(output, lambda folder: _MAKERS[options.to](base, options, folder, note))


def _placed(output: Path, make: Callable[[Path], Path]) -> Path:
    """Put what is made in a folder beside ``output`` into its place."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{output.name}-", dir=output.parent, ignore_cleanup_errors=True
    ) as folder:
        made = make(Path(folder))
        if made.is_dir():
            readable(made)
        if output.exists():
            os.replace(output, Path(folder, "replaced"))
        os.replace(made, output)
    return output


# ---------------------------------------------------------------- a GGUF model, merged by NumPy


def _gguf_parts(options: ExportOptions) -> Resolved | None:
    """A GGUF model, with adapters that are LoRA, for what is made in GGUF; else ``None``."""
    if options.to == "merged":
        return None
    found = resolve_model(options.model or None, options.adapter or [NO_ADAPTER])
    if found.format != "gguf" or not all(_is_lora(path, found.path) for path in found.adapters):
        return None
    files = tuple(_gguf_adapter_of(path) or path for path in found.adapters)
    if options.to == "gguf-adapter" and [bool(read_adapter_settings(one)) for one in files] != [
        True
    ]:
        # One adapter; settings are added to a file of others by writing it anew.
        return None
    return replace(found, adapters=files)


def _gguf_adapter_of(adapter: Path) -> Path | None:
    """An adapter's GGUF file, where it is one or its folder has one."""
    file = adapter / GGUF_ADAPTER if adapter.is_dir() else adapter
    return file if file.is_file() else None


def _is_lora(adapter: Path, base: Path) -> bool:
    """Whether an adapter is a GGUF file, or a PEFT folder that can be one over a GGUF model."""
    if _gguf_adapter_of(adapter):
        return True
    try:
        Layout.of_gguf(base)
        return not lora_obstacle(adapter_config(adapter))
    except ModelError:
        return False


def _joined(parts: Resolved, options: ExportOptions, folder: Path, note: Note) -> Path:
    """Write or merge without unpacking and torch; adapters in GGUF also for unknown families."""
    tokenizer = open_tokenizer(parts.path)
    template = settled_template(parts, tokenizer, options.template)
    settings = settings_of(parts, template)
    adapters = [
        _as_gguf(adapter, parts.path, folder / f"{number}.gguf", settings)
        for number, adapter in enumerate(parts.adapters)
    ]
    if options.to == "gguf-adapter":
        # The file of a result stays there.
        return Path(shutil.copy(adapters[0], folder / "adapter.gguf"))
    kind = options.quantise.lower()
    made = folder / "model.gguf"
    if adapters:
        note(f"merging {', '.join(path.name for path in parts.adapters)}")
    direct = kind if kind in FORMATS else "f16"
    merge_adapters(parts.path, adapters, made, direct, settings)
    with GgufFile(made) as file:
        formats, longest = file.formats(), file.context_length()
    if formats != {kind.upper()}:
        # What no adapter changes is still in the format of the base model.
        note(f"writing GGUF ({options.quantise})")
        smaller = folder / "smaller.gguf"
        quantise(made, smaller, options.quantise)
        made = smaller
    if options.to == "gguf":
        return made
    return _ollama_folder(made, template, tokenizer, settings, longest)


def _as_gguf(adapter: Path, base: Path, output: Path, settings: AdapterSettings) -> Path:
    """An adapter as GGUF: itself, or written from a PEFT folder for the base model's layout."""
    if adapter.is_file():
        return adapter
    write_gguf_adapter(Layout.of_gguf(base), adapter, output, settings)
    return output


# ------------------------------------------------------------------------------ from safetensors


def _merged(base: Base, options: ExportOptions, folder: Path, note: Note) -> Path:
    made = folder / "merged"
    model = load_weights(base.folder, dtype="auto", trust_remote_code=base.remote_code)
    if base.adapters:
        training_library("peft")
        note(f"merging {', '.join(path.name for path in base.adapters)}")
    for adapter in base.adapters:
        model = merge_adapter(model, adapter)
    model.save_pretrained(made)
    hf_tokenizer(base.folder, remote_code=base.remote_code).save_pretrained(made)
    replace(settings_of(base, base.template), method="merged").write(made)
    return made


def settings_of(model: Base | Resolved, template: Template) -> AdapterSettings:
    """What an export records of itself: what adapter or model record, and what is known of them."""
    path = model.adapters[-1] if model.adapters else model.path
    found = model.found if isinstance(model, Base) else model
    # The catalogue knows of its entries what was found after they were made.
    known: dict[str, Any] = (
        {"passage_tokens": found.passage_tokens, "by_task": found.by_task}
        | {"tasks": found.tasks, "languages": found.languages}
        if found
        else {}
    )
    recorded = read_adapter_settings(path)
    if recorded:
        return replace(recorded, **known)
    rank = adapter_config(path) if model.adapters and path.is_dir() else {}
    return AdapterSettings(
        **known,
        template=template.name,
        template_hash=template.hash(),
        base_model=model.name,
        lora_r=int(rank.get("r", 0)),
        lora_alpha=float(rank.get("lora_alpha", 0)),
    )


def _gguf_adapter(base: Base, options: ExportOptions, folder: Path, note: Note) -> Path:
    if len(base.adapters) > 1:
        raise UsageError(
            "--to gguf-adapter takes one adapter", hint="export each, or merge them: --to gguf"
        )
    made = folder / "adapter.gguf"
    write_gguf_adapter(base.layout(), base.adapters[-1], made, settings_of(base, base.template))
    return made


def _gguf(base: Base, options: ExportOptions, folder: Path, note: Note) -> Path:
    # A family without a form in GGUF is refused before a large model is merged.
    base.layout()
    merged = _merged(base, options, folder, note)
    direct = written_directly(options.quantise)
    made = folder / "model.gguf"
    note(f"writing GGUF ({options.quantise})")
    settings = replace(settings_of(base, base.template), method="merged")
    write_gguf_model(base, merged, made, options.quantise if direct else "f16", settings)
    if direct:
        return made
    smaller = folder / "smaller.gguf"
    quantise(made, smaller, options.quantise)
    return smaller


def _ollama(base: Base, options: ExportOptions, folder: Path, note: Note) -> Path:
    model = _gguf(base, options, folder, note)
    longest = longest_sequence(hf_config(base.folder, base.remote_code))
    return _ollama_folder(
        model, base.template, base.tokenizer, settings_of(base, base.template), longest
    )


def _ollama_folder(
    model: Path,
    template: Template,
    tokenizer: Tokenizer,
    settings: AdapterSettings,
    longest: int,
) -> Path:
    """A folder beside a model file with that file and its Modelfile."""
    from iepile_cli.training.ollama import modelfile

    made = model.with_name("ollama")
    made.mkdir()
    os.replace(model, made / "model.gguf")
    text = modelfile(template, tokenizer, "model.gguf", settings, min(longest, _OLLAMA_CONTEXT))
    (made / "Modelfile").write_text(text, encoding="utf-8")
    return made


_MAKERS: dict[str, Callable[[Base, ExportOptions, Path, Note], Path]] = {
    "merged": _merged,
    "gguf-adapter": _gguf_adapter,
    "gguf": _gguf,
    "ollama": _ollama,
}

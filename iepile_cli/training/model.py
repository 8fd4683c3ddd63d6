"""The base model as training and export need it, with the adapters over it, and what is trained.

A GGUF file is unpacked once into the cache, weights and tokenizer, so that what follows knows one
form only. Its examples are tokenised by llama.cpp's own vocabulary all the same, as ``extract``
does.

What is trained (a LoRA adapter, some layers, or all) is in 32 bits always: in 16, small updates
would be rounded away. Going on from an adapter keeps its rank, alpha and target modules.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_cli.backends.gguf import fingerprint
from iepile_cli.backends.gguf_layout import Layout, unpack_adapter, unpacked
from iepile_cli.backends.opening import check_adapters, fitting_template
from iepile_cli.backends.tokenizers import foreign_failure, open_tokenizer
from iepile_cli.backends.transformers_loading import (
    adapter_config,
    apply_adapter,
    load_weights,
    quantisation,
    refuse_foreign_code,
)
from iepile_cli.backends.transformers_loading import quiet_libraries as quiet_transformers
from iepile_cli.config import cache_folder
from iepile_cli.errors import ModelError, UsageError, first_line, install_hint
from iepile_cli.models import NO_ADAPTER, Resolved, resolve_model
from iepile_cli.models.adapter_settings import read_adapter_settings
from iepile_cli.registry import registry
from iepile_cli.templates import Template, Tokenizer
from iepile_cli.training.device import Device, round_frozen
from iepile_cli.training.distributed import own_gpu
from iepile_cli.training.options import TrainOptions

Note = Callable[[str], None]
# A tokenizer's files; code of its own is among them.
_TOKENIZER = ("*token*.json", "vocab*", "merges*", "*.model", "*.tiktoken", "*.py")


@dataclass(frozen=True)
class Base:
    """A base model: its name, where it is, and the adapters that are over it.

    ``path`` is the file or folder it was found at, ``folder`` the one transformers reads, and
    ``adapters`` are folders that PEFT reads. ``adapter_name`` is what the user knows them by, and
    ``found`` what is known of base and adapters.
    """

    name: str
    path: Path
    folder: Path
    adapters: tuple[Path, ...]
    template: Template
    remote_code: bool = False
    adapter_name: str = ""
    found: Resolved | None = None

    @property
    def passage_tokens(self) -> int:
        """The longest passage, in tokens, that its adapters answer well; 0: not known."""
        return self.found.passage_tokens if self.found and self.adapters else 0

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that encodes examples."""
        return open_tokenizer(self.path, remote_code=self.remote_code)

    @property
    def adapter(self) -> Path | None:
        """The adapter to go on from."""
        return self.adapters[-1] if self.adapters else None

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file, which llama.cpp opens."""
        return self.path.suffix == ".gguf"

    def layout(self) -> Layout:
        """How its weights lie in GGUF files; raises ``ModelError`` where that is not known."""
        return Layout.of(hf_config(self.folder, self.remote_code), self.name)


def base_to_train(options: TrainOptions, *, on_note: Note = lambda _: None) -> Base:
    """The base model of a training run, with the adapter that it goes on from.

    Without ``--model`` and ``--adapter`` that is the embedded model with its own adapter. Raises
    ``ModelError`` and ``UsageError`` for what is not there or does not fit together.
    """
    goes_on = options.method == "lora" and not options.model
    adapters = [options.adapter] if options.adapter else [] if goes_on else [NO_ADAPTER]
    base = find_base(
        options.model,
        adapters,
        template=options.template,
        remote_code=options.trust_remote_code,
        on_note=on_note,
    )
    recorded = read_adapter_settings(base.adapter) if base.adapter else None
    if len(base.adapters) > 1 or (recorded and recorded.over):
        raise UsageError(
            f"{base.adapter_name} needs other adapters below it, and one can be gone on from",
            hint="merge them first: iepile export --to merged, then --model",
        )
    return base


def find_base(
    model: str,
    adapters: Iterable[str],
    *,
    template: str = "",
    remote_code: bool = False,
    on_note: Note = lambda _: None,
) -> Base:
    """Find a base model, unpack it if it is a GGUF file, and settle the template.

    Raises ``ModelError`` and ``UsageError`` for what is not there or does not fit together.
    """
    given = list(adapters)
    found = resolve_model(model or None, given)
    folder = found.path
    remote = remote_code or bool(found.entry and found.entry.remote_code)
    if found.format == "gguf":
        training_library("gguf")
        with quiet_libraries():
            folder = unpacked(found.path, on_note=on_note)
    elif not remote:
        refuse_foreign_code(folder)
    tokenizer = open_tokenizer(found.path, remote_code=remote)
    form = settled_template(found, tokenizer, template)
    folders = tuple(_as_folder(path, folder, remote) for path in found.adapters)
    own = found.entry.adapters[0] if found.entry and not given and found.entry.adapters else ""
    shown = ", ".join(name for name in given if name != NO_ADAPTER) or own
    base = Base(found.name, found.path, folder, folders, form, remote, shown, found)
    base.__dict__["tokenizer"] = tokenizer
    return base


def settled_template(found: Resolved, tokenizer: Tokenizer, name: str = "") -> Template:
    """The template as named, else the one that fits; raises ``ModelError`` for adapters' others."""
    known = registry()
    form: Template = (
        known.get("template", name) if name else fitting_template(found, tokenizer, known)
    )
    form = form.bind(tokenizer)
    if not name:
        check_adapters(found, form)
    return form


def _as_folder(adapter: Path, base: Path, remote_code: bool) -> Path:
    """An adapter as the folder that PEFT reads: itself, or a GGUF file unpacked into the cache."""
    if adapter.is_dir() and (adapter / "adapter_config.json").is_file():
        return adapter
    from filelock import FileLock

    file = adapter / "adapter.gguf" if adapter.is_dir() else adapter
    folder = cache_folder() / "unpacked" / f"{file.stem}-{fingerprint(file)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / "adapter_config.json").is_file():
            training_library("peft")
            with quiet_libraries():
                model = empty_model(base, remote_code)
            unpack_adapter(file, model, folder)
    return folder


def hf_config(folder: Path, remote_code: bool = False) -> Any:
    """The transformers configuration of a folder; raises ``ModelError``."""
    transformers = training_library("transformers")
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=remote_code)
    except Exception as error:
        if remote_code:
            raise foreign_failure(folder, error) from None
        if not isinstance(error, (OSError, ValueError, KeyError, ImportError)):
            raise
        raise ModelError(
            f"{folder}: its configuration cannot be read: {first_line(error)}"
        ) from None


def empty_model(folder: Path, remote_code: bool = False) -> Any:
    """A folder's model without weights: what can be counted and asked before they are loaded."""
    torch, transformers = training_library("torch"), training_library("transformers")
    config = hf_config(folder, remote_code)
    try:
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(
                config, trust_remote_code=remote_code
            )
    except Exception as error:
        if remote_code:
            raise foreign_failure(folder, error) from None
        raise


def tokenizer_digest(base: Base) -> str:
    """A hash of what a base model's tokens depend on, by which encoded examples are found again."""
    if base.path.is_file():
        return fingerprint(base.path)
    total = hashlib.sha256()
    for path in sorted(path for name in _TOKENIZER for path in base.folder.glob(name)):
        total.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def training_library(name: str, needs: str = "") -> Any:
    """Import a library that training needs; raises ``ModelError`` that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = needs or install_hint("train")
        raise ModelError(f"training needs {name}: {first_line(error)}", hint=hint) from None


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep transformers and others from drawing bars and warning; we say what goes on.

    What they print is no data of ours (DeepSpeed prints a line when it is imported): it goes to
    standard error.
    """
    training_library("transformers")
    quiet_transformers()
    for name in ("bitsandbytes", "accelerate", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        # Between these libraries' own versions; nothing that a user could do about.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


# ------------------------------------------------------------------------------------- its weights


def load_trainable(base: Base, options: TrainOptions, device: Device) -> Any:
    """The model with what is to be trained set so; raises ``ModelError`` or ``UsageError``."""
    import torch

    lora = options.method == "lora"
    how: dict[str, Any] = {"dtype": device.torch_dtype if lora else torch.float32}
    if device.rounds_frozen:
        # As the file has them: in 32 bits first, the whole model would take twice the memory.
        how["dtype"] = "auto"
    if options.bits < 16:
        how["quantization_config"] = quantisation(
            options.bits, how["dtype"], kind=options.quant_type, double=options.double_quant
        )
        how["device_map"] = {"": own_gpu() if device.kind == "cuda" else device.kind}
    if options.attn_implementation:
        how["attn_implementation"] = options.attn_implementation
    model = load_weights(base.folder, trust_remote_code=base.remote_code, **how)
    model.config.use_cache = False
    if options.upcast_layernorm:
        for name, weight in model.named_parameters():
            if weight.ndim == 1 and "norm" in name.lower():
                weight.data = weight.data.to(torch.float32)
    if options.method == "full":
        return model
    if options.method == "freeze":
        return freeze(model, options.trainable_layers, options.trainable_modules)
    training_library("peft")
    for weight in model.parameters():
        weight.requires_grad = False
    if base.adapter:
        model = apply_adapter(model, base.adapter, train=True)
    else:
        model = with_lora(model, options, base)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.float32)
    if device.rounds_frozen:
        round_frozen(model)
    return model


def freeze(model: Any, layers: int, modules: str) -> Any:
    """Train only the last ``layers`` layers (the first ones if negative), in them ``modules``.

    ``modules`` are names of parts of a layer, with commas; ``all`` means the whole layer.
    """
    count = int(model.config.num_hidden_layers)
    chosen = range(count - layers, count) if layers > 0 else range(-layers)
    names = _names(modules)
    trained = 0
    for name, weight in model.named_parameters():
        parts = name.split(".")
        # Whole path components, so that layer 1 is not layer 10 too.
        layer = next((int(part) for part in parts if part.isdecimal()), None)
        weight.requires_grad = layer in chosen and (
            names == ["all"] or not set(names).isdisjoint(parts)
        )
        trained += weight.requires_grad
    if not trained:
        found = (re.search(r"\.\d+\.([^.]+)\.", name) for name, _ in model.named_parameters())
        raise UsageError(
            f"--trainable-modules {modules} with --trainable-layers {layers} names no weights",
            hint=f"parts of a layer: {', '.join(sorted({match[1] for match in found if match}))}",
        )
    return model


def with_lora(model: Any, options: TrainOptions, base: Base) -> Any:
    """A new LoRA adapter over a model."""
    import peft

    settings = peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        r=options.lora_r,
        lora_alpha=options.alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets(model, options.target_modules),
        modules_to_save=_names(options.modules_to_save) or None,
    )
    lora = peft.get_peft_model(model, settings)
    local = Path(base.name)
    lora.peft_config["default"].base_model_name_or_path = (
        str(local.resolve()) if local.exists() else base.name
    )
    return lora


def targets(model: Any, asked: str) -> Any:
    """LoRA's target modules: every linear layer but the output, or those of a list of names."""
    if asked == "all":
        return "all-linear"
    names = _names(asked)
    import torch

    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) or hasattr(module, "in_features")
    }
    ends = [name for name, _ in model.named_modules()]
    unknown = [
        name for name in names if not any(end == name or end.endswith(f".{name}") for end in ends)
    ]
    if unknown or not names:
        raise UsageError(
            f"--target-modules: this model has no {', '.join(unknown) or 'module of no name'}",
            hint=f"'all', or from: {', '.join(sorted(linear))}",
        )
    return names


def check_continued(base: Base, options: TrainOptions, given: Iterable[str]) -> None:
    """Compare what was asked for with the settings of the adapter that is gone on from.

    ``given`` names the options that the user set. Raises ``UsageError`` naming what differs.
    """
    if base.adapter is None:
        return
    own = adapter_config(base.adapter)
    asked = set(given)
    modules = sorted(own["target_modules"] if isinstance(own.get("target_modules"), list) else ())
    wanted = sorted(_names(options.target_modules))
    differing = []
    for name, value, has in (
        ("lora_r", options.lora_r, own.get("r")),
        ("lora_alpha", options.alpha, own.get("lora_alpha")),
    ):
        if name in asked and value != has:
            differing.append(f"{name.replace('_', '-')} is {has}, not {value:g}")
    if "target_modules" in asked and wanted not in (modules, ["all"]):
        differing.append(f"target-modules is {','.join(modules)}, not {','.join(wanted)}")
    if differing:
        raise UsageError(
            f"adapter {base.adapter_name}: its {'; its '.join(differing)}",
            hint="leave these options out to go on with the adapter's own, or give "
            "--adapter none to start a new one",
        )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]

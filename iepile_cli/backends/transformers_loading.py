"""Models for transformers: on which device, in how many bits, with which adapters.

``load`` gives a model ready to decode from a folder of weights or a GGUF file; training takes base
weights and adapters by the same functions. What is loaded is whole: transformers fills weights
that a file lacks with random numbers, and PEFT lets an adapter lack weights of the model or have
others; both only warn. Here they are errors.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_cli.backends.gguf_layout import unpacked
from iepile_cli.backends.protocol import ConstrainingTokenizer, Options
from iepile_cli.backends.tokenizers import foreign_failure, open_tokenizer
from iepile_cli.errors import ModelError, UsageError, first_line
from iepile_cli.formatting import plural


@dataclass(frozen=True)
class Loaded:
    """An opened model; ``context`` is its longest sequence in tokens."""

    model: Any
    device: Any
    tokenizer: ConstrainingTokenizer
    context: int
    stops: frozenset[int]


def load(path: Path, options: Options) -> Loaded:
    """Load a model; raises ``ModelError``, and ``UsageError`` for options that cannot be."""
    quiet_libraries()
    place = device_for(options.device)
    bits = options.bits or (32 if place == "cpu" else 16)
    if bits < 16 and place.startswith("mps"):
        raise UsageError(f"--bits {bits} needs CUDA or the CPU", hint="on a Mac: a GGUF model")
    if options.compile and (bits < 16 or options.max_memory):
        raise UsageError(
            "--compile is for whole weights of 16 or 32 bits on one device",
            hint="leave it out, or --bits and --max-memory",
        )
    if options.max_memory and place != "cuda":
        raise UsageError(
            f"--max-memory shares a model out among GPUs, and this one goes to {place}",
            hint="leave it out, or --device cuda",
        )
    gguf = path.suffix == ".gguf"
    if not gguf and not options.trust_remote_code:
        refuse_foreign_code(path)
    # The libraries' bars go there whatever they are told; errors come as exceptions.
    unseen = contextlib.nullcontext() if options.verbose else redirect_stderr(io.StringIO())
    with unseen, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # bitsandbytes cuts down whole weights only, so those of a GGUF file are unpacked first.
        whole = unpacked(path) if gguf and bits < 16 else path
        model = _weights(whole, options, place, bits, gguf=whole.suffix == ".gguf")
        model = _adapted(model, options.adapters, merge=bits >= 16).eval()
    if getattr(model, "_is_stateful", False):
        raise ModelError(f"{path}: this kind of model has no cache that can be taken back")
    tokenizer = open_tokenizer(path, remote_code=options.trust_remote_code)
    return Loaded(model, model.device, tokenizer, *_limits(model))


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice off stderr, and let MPS use the CPU at need."""
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def device_for(asked: str) -> str:
    """The device to use: as asked, else CUDA, else MPS, else the CPU; raises ``UsageError``."""
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not asked or asked == "auto":
        return next((name for name, there in here.items() if there), "cpu")
    kind, _, number = asked.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise UsageError(f"no device is called {asked!r}", hint="cuda, cuda:1, mps or cpu")
    if not here.get(kind, True):
        raise UsageError(f"--device {asked}: torch {torch.__version__} finds none here")
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise UsageError(f"--device {asked}: there are {torch.cuda.device_count()} here")
    return asked


def max_memory(parts: tuple[str, ...]) -> dict[int | str, str] | None:
    """``("20GiB",)`` for every GPU, or ``("0=20GiB", "cpu=64GiB")``; raises ``UsageError``."""
    import torch

    limits: dict[int | str, str] = {}
    for part in (one.strip() for given in parts for one in given.split(",")):
        where, equals, size = part.rpartition("=")
        place = not equals or where.isdigit() or where == "cpu"
        if not place or not re.fullmatch(r"\d+(\.\d+)?[GM]i?B", size, re.IGNORECASE):
            raise UsageError(f"--max-memory {part}", hint="e.g. 20GiB, or 0=20GiB,cpu=64GiB")
        if not equals:
            limits |= dict.fromkeys(range(torch.cuda.device_count()), size)
        else:
            limits[int(where) if where.isdigit() else where] = size
    return limits or None


def half_precision(device: str) -> Any:
    """bfloat16 where the device computes in it, else float16."""
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.startswith("mps"):
        try:
            torch.ones(1, dtype=torch.bfloat16, device="mps").sum().item()
        except (RuntimeError, TypeError):
            return torch.float16
    return torch.bfloat16


def _weights(path: Path, options: Options, place: str, bits: int, *, gguf: bool) -> Any:
    import torch

    how: dict[str, Any] = {"local_files_only": True}
    if bits >= 16:
        how["dtype"] = torch.float32 if bits == 32 else half_precision(place)
    else:
        how["quantization_config"] = quantisation(bits, torch.bfloat16)
        how["dtype"] = torch.bfloat16
    if place == "cuda":
        how["device_map"], how["max_memory"] = "auto", max_memory(options.max_memory)
    else:
        how["device_map"] = {"": place}
    if gguf:
        how["gguf_file"] = path.name
        path = path.parent
    else:
        how["trust_remote_code"] = options.trust_remote_code
    try:
        return load_weights(path, **how)
    except Exception as error:
        if is_out_of_memory(error):
            raise _no_memory(path, bits) from None
        raise


def _adapted(model: Any, adapters: tuple[str, ...], *, merge: bool) -> Any:
    """A model with adapters applied, one after the other: merged into its weights, or beside."""
    names = [f"adapter{number}" for number in range(len(adapters))]
    with tempfile.TemporaryDirectory(prefix="iepile-") as scratch:
        # All are unpacked for the model as it is before the first one is applied.
        folders = [_peft_folder(Path(path), model, Path(scratch)) for path in adapters]
        for name, folder in zip(names, folders, strict=True):
            if merge:
                model = merge_adapter(model, folder)
            else:
                model = apply_adapter(model, folder, name=name)
    if names and not merge:
        model.base_model.set_adapter(names)
    return model


def _peft_folder(adapter: Path, model: Any, scratch: Path) -> Path:
    """An adapter as the folder that PEFT reads; a GGUF file is unpacked into ``scratch``."""
    if adapter.suffix == ".gguf" and adapter.is_file():
        from iepile_cli.backends.gguf_layout import unpack_adapter

        return unpack_adapter(adapter, model, scratch / f"{len(list(scratch.iterdir()))}")
    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter}: not an adapter (adapter_config.json or a .gguf file)")
    return adapter


def _limits(model: Any) -> tuple[int, frozenset[int]]:
    """The longest sequence in tokens, and the tokens that end an answer."""
    config = model.config.get_text_config()
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = config.eos_token_id if ends is None else ends
    listed = ends if isinstance(ends, list) else [ends]
    return longest_sequence(config), frozenset(end for end in listed if isinstance(end, int))


def _no_memory(path: Path, bits: int) -> ModelError:
    smaller = "--bits 4, " if bits > 4 else ""
    return ModelError(
        f"{path}: its weights do not fit into memory with {bits} bits",
        hint=f"{smaller}several GPUs with --max-memory, or a GGUF file of it",
    )


_SHOWN = 3


def load_weights(folder: Path, **how: Any) -> Any:
    """The causal language model in a folder; ``how`` are arguments of ``from_pretrained``.

    Raises ``ModelError`` for a folder that cannot be opened or lacks weights, and what torch
    raises when memory runs out.
    """
    import transformers

    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, **how
        )
    # A file may hold anything, and a model's own code raise anything.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if how.get("trust_remote_code") and "auto_map" in _written_config(folder):
            raise foreign_failure(folder, error) from None
        raise ModelError(f"{folder}: cannot be opened: {first_line(error)}") from None
    check_loaded(folder, info)
    return model


def refuse_foreign_code(folder: Path) -> None:
    """Raise ``ModelError`` for a model that cannot be opened without code that comes with it."""
    config = _written_config(folder)
    if "auto_map" not in config:
        return
    from transformers import CONFIG_MAPPING

    if config.get("model_type") not in CONFIG_MAPPING:
        raise ModelError(
            f"{folder}: this model ({config.get('model_type')}) runs code that comes with it",
            hint="--trust-remote-code runs it; do so only if you trust its publisher",
        )


def _written_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder as it is written; empty where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def longest_sequence(config: Any) -> int:
    """The longest sequence of a model in tokens, by its configuration."""
    names = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
    lengths = [getattr(config, name, None) for name in (*names, "model_max_length")]
    return next((length for length in lengths if isinstance(length, int) and length > 0), 4096)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine has no memory left."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "not enough memory" in said
    )


def check_loaded(path: Path, info: dict[str, Any]) -> None:
    """Raise ``ModelError`` when loading left weights at random values.

    ``info`` is what ``from_pretrained(output_loading_info=True)`` gives beside the model.
    """
    missing = sorted(map(str, info.get("missing_keys") or ()))
    mismatched = sorted(str(key[0]) for key in info.get("mismatched_keys") or ())
    for names, what in ((missing, "lacks"), (mismatched, "has other shapes for")):
        if names:
            raise ModelError(
                f"{path}: {what} {plural(len(names), 'weight')} of this model: {_named(names)}",
                hint="its files are not complete, or its config.json is another model's",
            )


def quantisation(bits: int, dtype: Any, *, kind: str = "nf4", double: bool = True) -> Any:
    """How bitsandbytes keeps weights in 4 (QLoRA's NF4, double quantisation) or 8 bits."""
    import transformers

    if bits == 8:
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
    )


def adapter_config(folder: Path) -> dict[str, Any]:
    """The settings of a LoRA adapter folder; raises ``ModelError``."""
    try:
        settings: dict[str, Any] = json.loads(
            (folder / "adapter_config.json").read_text(encoding="utf-8")
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: not a LoRA adapter: {first_line(error)}") from None
    if settings.get("peft_type", "LORA") != "LORA":
        raise ModelError(f"{folder}: a {settings['peft_type']} adapter, not LoRA")
    return settings


def apply_adapter(model: Any, adapter: Path, *, name: str = "default", train: bool = False) -> Any:
    """A model with a PEFT adapter over it; beside those that it has, under its own name.

    Raises ``ModelError`` for an adapter that is damaged or not this model's.
    """
    import peft

    adapter_config(adapter)
    stored = _stored_names(adapter)
    try:
        if isinstance(model, peft.PeftModel):
            model.load_adapter(str(adapter), adapter_name=name, is_trainable=train)
        else:
            model = peft.PeftModel.from_pretrained(
                model, str(adapter), adapter_name=name, is_trainable=train
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        shapes = "size mismatch" in str(error)
        raise _misfit(adapter, "its weights have other shapes" if shapes else first_line(error))  # noqa: B904
    wanted = set(
        peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    )
    for names, what in (
        ({one for one in stored if "lora_" in one} - wanted, "of its weights are not in it"),
        (wanted - stored, "weights that it should have are missing"),
    ):
        if names:
            raise _misfit(adapter, f"{len(names)} {what}: {_named(sorted(names))}")
    return model


def merge_adapter(model: Any, adapter: Path) -> Any:
    """A model with an adapter merged into its weights; raises ``ModelError``.

    Each weight is summed in 32 bits, module by module, and rounded once: a sum in 16 bits would
    lose what LoRA adds to large values, and the whole model in 32 bits take twice the memory.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = apply_adapter(model, adapter)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "merge"):
            base = module.get_base_layer()
            dtypes = {key: weight.dtype for key, weight in base.named_parameters()}
            quantised = any(not dtype.is_floating_point for dtype in dtypes.values())
            if not quantised:
                module.to(torch.float32)
            module.merge()
            if not quantised:
                for key, weight in base.named_parameters():
                    weight.data = weight.data.to(dtypes[key])
    return model.unload()


def _stored_names(adapter: Path) -> set[str]:
    """The names of the weights in an adapter's file."""
    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        if not (adapter / "adapter_model.bin").is_file():
            raise ModelError(f"{adapter}: no adapter_model.safetensors in it")
        import torch

        return set(torch.load(adapter / "adapter_model.bin", "meta", weights_only=True))
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{adapter}: its weights are damaged: {first_line(error)}") from None


def _misfit(adapter: Path, reason: str) -> ModelError:
    base = adapter_config(adapter).get("base_model_name_or_path")
    return ModelError(
        f"adapter {adapter} does not fit this base model: {reason}",
        hint=f"it was trained on {base}" if base else "",
    )


def _named(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more

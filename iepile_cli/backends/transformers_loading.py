"""Weights for transformers: on which device, in how many bits, with which adapters.

Goes in: a folder of weights or a GGUF file, and ``Options``. Comes out: a model ready to decode,
its tokenizer in the forms that templates and constraints need, and its longest sequence.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import warnings
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_cli import parallel
from iepile_cli.backends.gguf_weights import unpacked
from iepile_cli.backends.protocol import ConstrainingTokenizer, Options
from iepile_cli.backends.tokenizers import open_tokenizer
from iepile_cli.backends.transformers_weights import (
    apply_adapter,
    is_out_of_memory,
    load_weights,
    longest_sequence,
    merge_adapter,
    quantisation,
    refuse_foreign_code,
)
from iepile_cli.errors import ModelError, UsageError

BITS = (4, 8, 16, 32)


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
    if bits not in BITS:
        raise UsageError(f"--bits {bits}", hint=f"one of {', '.join(map(str, BITS))}")
    if bits < 16 and place.startswith("mps"):
        raise UsageError(f"--bits {bits} needs CUDA or the CPU", hint="on a Mac: a GGUF model")
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


def prepare_libraries(threads: int = 0) -> None:
    """Set torch's threads, which must come before it is imported, and quiet the libraries."""
    parallel.set_torch_threads(threads)
    quiet_libraries()


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
        from iepile_cli.backends.gguf_lora import unpack_adapter

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

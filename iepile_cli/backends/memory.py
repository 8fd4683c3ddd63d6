"""How much memory there is: of the machine, and of the devices that a model is on."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any, NamedTuple


def free_memory(devices: Iterable[Any]) -> int | None:
    """Bytes that a model may still take on the devices that it is on; None if not known."""
    import psutil
    import torch

    total = 0
    for device in set(devices):
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            # What torch holds for later it can use as well.
            total += free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        elif device.type == "mps":
            held = torch.mps.driver_allocated_memory()
            total += max(0, int(torch.mps.recommended_max_memory()) - int(held))
        elif device.type == "cpu":
            total += int(psutil.virtual_memory().available)
        else:
            return None
    return total


def bytes_per_token(model: Any) -> int:
    """Bytes that the keys and values of one token take in the cache of a model."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 1
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    pairs = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * pairs * width * model.dtype.itemsize)


def readable_memory() -> str:
    """The machine's memory for people."""
    import psutil

    known = psutil.virtual_memory()
    return f"{known.available / 2**30:.1f} of {known.total / 2**30:.1f} GiB available"


class Gpu(NamedTuple):
    """An NVIDIA GPU: its name, and its memory and what of it is free, in bytes."""

    name: str
    memory: int
    free: int


@functools.cache
def nvidia_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs of this machine as its driver tells, without torch; empty without any."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    asked = [program, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout
        rows = [line.rsplit(",", 2) for line in told.splitlines() if line.strip()]
        return tuple(
            Gpu(name.strip(), int(all_) << 20, int(free) << 20) for name, all_, free in rows
        )
    # A driver that does not answer is none; what it says of a part of a GPU is no number.
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def fits_here(need: int | None) -> str:
    """Whether a model that takes ``need`` bytes fits this machine: where, or why not.

    ``GPU`` (in one), ``yes`` (in free memory), ``tight`` (in memory of which a part is in use),
    ``no``, or nothing where the need is not known.
    """
    import psutil

    if need is None:
        return ""
    memory = psutil.virtual_memory()
    if any(need <= gpu.free for gpu in nvidia_gpus()):
        return "GPU"
    if need <= memory.available:
        return "yes"
    return "tight" if need <= memory.total else "no"

"""How much memory there is: of the machine, and of the devices that a model lies on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any


def machine_memory() -> tuple[int, int] | None:
    """Bytes of the machine's memory that are available, and all of them; None if not known."""
    try:
        import psutil

        found = psutil.virtual_memory()
        return int(found.available), int(found.total)
    except ImportError:
        pass
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            sizes = {name: int(rest.split()[0]) << 10 for name, _, rest in _pairs(lines)}
        return sizes["MemAvailable"], sizes["MemTotal"]
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:
        # How much of it is free Apple's system does not tell this way.
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    return total, total


def _pairs(lines: Iterable[str]) -> Iterable[tuple[str, str, str]]:
    return (line.partition(":") for line in lines)


def free_memory(devices: Iterable[Any]) -> int | None:
    """Bytes that a model may still take on the devices that it lies on; None if not known."""
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
            known = machine_memory()
            if known is None:
                return None
            total += known[0]
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
    known = machine_memory()
    if known is None:
        return "not known"
    available, total = (size / 2**30 for size in known)
    return f"{available:.1f} of {total:.1f} GiB available"

"""What torch and its libraries can do on this machine."""

from __future__ import annotations

from importlib import metadata, util
from typing import Any

from iepile_cli.backends.memory import readable_memory

_MISSING = "not installed, needed for {1}: pip install {0}"
# What each library is for, besides torch and transformers themselves.
_FOR = {"bitsandbytes": "--bits 4 and 8", "gguf": "GGUF files"}


def capabilities() -> dict[str, str]:
    """Facts by name: devices with their memory, bfloat16, and libraries; loads torch."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    facts = {"device": "cuda" if cuda else "mps" if mps else "cpu"}
    if cuda:
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            facts[f"cuda:{number}"] = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    else:
        facts["cuda"] = _no_cuda(torch)
    facts["mps"] = "yes" if mps else "no, only on a Mac with Apple's own processor"
    facts["bf16"] = _bf16(torch, facts["device"])
    facts["memory"] = readable_memory()
    for name, purpose in _FOR.items():
        there = util.find_spec(name) is not None
        facts[name] = (
            f"{metadata.version(name)}, for {purpose}" if there else _MISSING.format(name, purpose)
        )
    return facts


def _no_cuda(torch: Any) -> str:
    if torch.version.cuda or torch.version.hip:
        return "no, torch is built for it and finds no GPU or driver"
    return "no, this torch is built without it, see pytorch.org/get-started"


def _bf16(torch: Any, device: str) -> str:
    """Whether the device that is taken by itself computes in bfloat16."""
    if device == "cuda":
        return "yes" if torch.cuda.is_bf16_supported() else "no, --bits 16 is fp16 there"
    if device == "mps":
        from iepile_cli.backends.hf_loading import half_precision

        return "yes" if half_precision("mps") is torch.bfloat16 else "no, --bits 16 is fp16 there"
    try:
        own = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):
        own = False
    return "yes" if own else "slow: this processor has no instructions for it"

"""What torch and its libraries can do on this machine."""

from __future__ import annotations

from importlib import metadata, util

_MISSING = "not installed: pip install {}"
# What each library is for, besides torch and transformers themselves.
_FOR = {"bitsandbytes": "4 and 8 bits", "gguf": "GGUF files"}


def capabilities() -> dict[str, str]:
    """Facts by name: devices with their memory, bfloat16, and libraries; loads torch."""
    import torch

    facts = {"device": "cpu"}
    if torch.backends.mps.is_available():
        facts["device"] = "mps"
    if torch.cuda.is_available():
        facts["device"] = "cuda"
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            facts[f"cuda:{number}"] = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        facts["bf16"] = "yes" if torch.cuda.is_bf16_supported() else "no"
    elif torch.version.cuda is None and facts["device"] == "cpu":
        facts["cuda"] = "this torch is built without it: see pytorch.org/get-started"
    for name, purpose in _FOR.items():
        there = util.find_spec(name) is not None
        facts[purpose] = f"{name} {metadata.version(name)}" if there else _MISSING.format(name)
    return facts

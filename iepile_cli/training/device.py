"""Where and in which number format a run computes, and how much memory is free there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iepile_cli.errors import UsageError
from iepile_cli.training.base import training_library
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.scaling import own_gpu

# Seconds for which a device's speed is measured.
_MEASURED = 0.2


@dataclass(frozen=True)
class Place:
    """A device (``cpu``, ``cuda``, ``mps``), a number format, and why that format was chosen."""

    device: str
    dtype: str
    why: str = ""

    @property
    def torch_dtype(self) -> Any:
        """The format as torch names it."""
        import torch

        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[self.dtype]

    def free_memory(self) -> int:
        """Bytes that are free on the device."""
        if self.device == "cuda":
            import torch

            return int(torch.cuda.mem_get_info(own_gpu())[0])
        import psutil

        return int(psutil.virtual_memory().available)

    def rate(self) -> float:
        """Operations a second that the device reaches in a large product of matrices, measured."""
        import time

        import torch

        size = 4096 if self.device == "cuda" else 1024
        one = torch.ones(size, size, dtype=self.torch_dtype, device=self.device)
        waits = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}
        wait = waits.get(self.device, lambda: None)
        torch.mm(one, one)
        wait()
        count, began, seconds = 0, time.perf_counter(), 0.0
        while seconds < _MEASURED and count < 1000:
            torch.mm(one, one)
            wait()
            count += 1
            seconds = time.perf_counter() - began
        return 2.0 * size**3 * count / seconds


def choose_place(options: TrainOptions) -> Place:
    """The device and number format for some options.

    On CUDA bf16 where the GPU computes with it, otherwise fp16; fp32 elsewhere. Raises
    ``UsageError`` for a device that is not there or a format it cannot train in.
    """
    torch = training_library("torch")
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    device = options.device
    if device == "auto":
        device = next(name for name, is_there in there.items() if is_there)
    if not there[device]:
        raise UsageError(f"--device {device}: there is none on this machine")
    if options.dtype != "auto":
        if options.dtype == "fp16" and device != "cuda":
            raise UsageError(
                f"--dtype fp16 cannot train on {device}", hint="use --dtype bf16 or fp32"
            )
        return Place(device, options.dtype, "asked for")
    return Place(device, *_format(device, torch))


def _format(device: str, torch: Any) -> tuple[str, str]:
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU computes in bf16"
        return "fp16", "this GPU does not compute in bf16"
    if device == "mps":
        return "fp32", "training on MPS is stable in fp32"
    # Autocast to bf16 makes a whole step no faster even on a CPU that has it, and rounds away what
    # LoRA adds to large values: measured, after one step the loss was 1.29 with it, 1.20 without.
    return "fp32", "bf16 is no faster on a CPU and learns worse"

"""What other libraries raise in a run, as a line that says what to do."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from iepile_cli.errors import IEPileError, ModelError, first_line
from iepile_cli.training.batch import Batch
from iepile_cli.training.device import Device
from iepile_cli.training.distributed import LostProcess, processes
from iepile_cli.training.options import TrainOptions

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
# How torch and safetensors tell of the same.
_FAILED_WRITES = (
    "PytorchStreamWriter failed writing",
    "unexpected pos",
    *(f"(os error {number})" for number in _UNWRITABLE),
)
# With less than this free, a failed write is taken for a full disk.
_FULL = 32 << 20


def known_failure(
    error: Exception, options: TrainOptions, device: Device, batch: Batch
) -> IEPileError | None:
    """A user's error for memory or disk that ran out, or a missing library; ``None`` for others."""
    if isinstance(error, IEPileError):
        return None
    text = str(error)
    if "out of memory" in text or "can't allocate memory" in text:
        return _out_of_memory(options, device, batch)
    if (
        getattr(error, "errno", None) in _UNWRITABLE
        or any(sign in text for sign in _FAILED_WRITES)
        or _is_full(Path(options.output))
    ):
        return ModelError(
            f"{options.output}: cannot be written: "
            f"{getattr(error, 'strerror', None) or 'no space left on device'}",
            hint="what was saved before is whole; then go on with: "
            f"iepile train --resume -o {options.output}",
        )
    lost = type(error).__name__ in ("DistBackendError", "DistNetworkError") or "gloo" in text
    if processes() > 1 and lost:
        return LostProcess("another process of this run has ended")
    if isinstance(error, ImportError):
        return ModelError(f"a library is missing: {first_line(error)}")
    return None


def _is_full(folder: Path) -> bool:
    """Whether the disk of a folder is full: not all libraries say so when they cannot write."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    return there is not None and shutil.disk_usage(there).free < _FULL


def _out_of_memory(options: TrainOptions, device: Device, batch: Batch) -> ModelError:
    ways = [f"--batch-size {batch.examples // 2}"] if batch.examples > 1 else []
    ways += [f"--tokens-per-batch {batch.tokens // 2}"] if batch.tokens else []
    ways += ["--bits 4"] if options.method == "lora" and options.bits > 4 else []
    what = f"{batch.tokens:,} tokens" if batch.tokens else f"{batch.examples} examples"
    return ModelError(
        f"{device.kind} ran out of memory with {what} at once",
        hint=f"try {', '.join([*ways, '--grad-checkpointing'])}, or a smaller --max-length",
    )

"""What other libraries raise in a run, as a line that says what to do."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from iepile_cli.errors import IEPileError, ModelError
from iepile_cli.training.base import first_line
from iepile_cli.training.device import Place
from iepile_cli.training.estimate import Batch
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.scaling import processes

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How torch and safetensors tell of the same.
_FAILED_WRITES = (
    "PytorchStreamWriter failed writing",
    "unexpected pos",
    *(f"(os error {number})" for number in _NO_ROOM),
)
_OUT_OF_TOUCH = ("DistBackendError", "DistNetworkError")
# With less than this free, a failed write is taken for a full disk.
_FULL = 32 << 20


class LostProcess(IEPileError):
    """Another process of the run has ended, and so this one must."""

    # Told apart by the process that started both.
    exit_code = 69


def known_failure(
    error: Exception, options: TrainOptions, place: Place, batch: Batch
) -> IEPileError | None:
    """A user's error for memory or disk that ran out, or a missing library; ``None`` for others."""
    if isinstance(error, IEPileError):
        return None
    text = str(error)
    if "out of memory" in text or "can't allocate memory" in text:
        return _out_of_memory(options, place, batch)
    if (
        getattr(error, "errno", None) in _NO_ROOM
        or any(sign in text for sign in _FAILED_WRITES)
        or _is_full(Path(options.output))
    ):
        return ModelError(
            f"{options.output}: cannot be written: "
            f"{getattr(error, 'strerror', None) or 'no space left on device'}",
            hint="what was saved before is whole; then go on with: "
            f"iepile train --resume -o {options.output}",
        )
    if processes() > 1 and ("gloo" in text or type(error).__name__ in _OUT_OF_TOUCH):
        return LostProcess("another process of this run has ended")
    if isinstance(error, ImportError):
        return ModelError(f"a library is missing: {first_line(error)}")
    return None


def _is_full(folder: Path) -> bool:
    """Whether the disk of a folder is full: not all libraries say so when they cannot write."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    return there is not None and shutil.disk_usage(there).free < _FULL


def _out_of_memory(options: TrainOptions, place: Place, batch: Batch) -> ModelError:
    examples = batch.examples
    smaller = f"--batch-size {examples // 2}, " if examples > 1 else ""
    four = "--bits 4, " if options.method == "lora" and options.bits > 4 else ""
    return ModelError(
        f"{place.device} ran out of memory with {examples} examples at once",
        hint=f"try {smaller}{four}--grad-checkpointing, or a smaller --max-length",
    )

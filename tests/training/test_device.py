"""The number format that a device gets when none is asked for."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest

from iepile_cli.errors import UsageError
from iepile_cli.training.device import choose_device
from iepile_cli.training.options import TrainOptions

pytest.importorskip("torch")
ON_CPU = TrainOptions(device="cpu")


def test_a_cpu_computes_in_fp32_unless_told_otherwise() -> None:
    place = choose_device(ON_CPU)
    assert (place.kind, place.dtype) == ("cpu", "fp32")
    assert "bf16" in place.reason
    asked = choose_device(dataclasses.replace(ON_CPU, dtype="bf16"))
    assert (asked.dtype, asked.reason) == ("bf16", "asked for")
    with pytest.raises(UsageError, match="fp16 cannot train on cpu"):
        choose_device(dataclasses.replace(ON_CPU, dtype="fp16"))


def test_idle_threads_sleep_on_a_busy_machine() -> None:
    """OpenMP reads it when torch is imported: it must be set before."""
    code = (
        "import os, sys; import iepile_cli.training.prepare; assert 'torch' not in sys.modules; "
        "from iepile_cli.parallel import set_torch_threads; set_torch_threads(3); import torch; "
        "assert torch.get_num_threads() == 3; assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE'"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

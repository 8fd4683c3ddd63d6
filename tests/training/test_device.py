"""The number format that a device gets when none is asked for."""

from __future__ import annotations

import dataclasses

import pytest

from iepile_cli.errors import UsageError
from iepile_cli.training.device import choose_place
from iepile_cli.training.options import TrainOptions

pytest.importorskip("torch")
ON_CPU = TrainOptions(device="cpu")


def test_a_cpu_computes_in_fp32_unless_told_otherwise() -> None:
    place = choose_place(ON_CPU)
    assert (place.device, place.dtype) == ("cpu", "fp32")
    assert "bf16" in place.why
    asked = choose_place(dataclasses.replace(ON_CPU, dtype="bf16"))
    assert (asked.dtype, asked.why) == ("bf16", "asked for")
    with pytest.raises(UsageError, match="fp16 cannot train on cpu"):
        choose_place(dataclasses.replace(ON_CPU, dtype="fp16"))

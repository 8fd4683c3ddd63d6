"""What ``iepile list backends`` says that this machine can do, and what to install for the rest."""

from __future__ import annotations

import json
from importlib import util
from typing import Any

import pytest

from iepile_cli.backends import transformers as backend
from iepile_cli.cli.app import run

torch = pytest.importorskip("torch")


def test_the_report_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "backends", "--json"]) == 0
    rows = {row["name"]: row["details"] for row in json.loads(capsys.readouterr().out)}
    assert {"gpu", "memory", "uses"} <= set(rows["llama-cpp"])
    wanted = {"device", "mps", "bf16", "memory", "bitsandbytes", "gguf", "torch", "transformers"}
    assert wanted <= set(rows["transformers"])
    assert any(name.startswith("cuda") for name in rows["transformers"])
    assert {"openai", "servers"} <= set(rows["openai"])
    assert "GiB available" in rows["llama-cpp"]["memory"]
    assert run(["list", "backends"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert all(len(fields) == 6 for fields in lines)
    facts = {fields[0]: fields[5] for fields in lines}
    assert "bf16: " in facts["transformers"]
    assert "uses: " in facts["llama-cpp"]


def test_what_is_missing_comes_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = util.find_spec
    monkeypatch.setattr(
        backend.util,
        "find_spec",
        lambda name: None if name in ("bitsandbytes", "gguf") else found(name),
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    facts = backend.capabilities()
    assert facts["bitsandbytes"].endswith("needed for --bits 4 and 8: pip install bitsandbytes")
    assert facts["gguf"].endswith("pip install gguf")
    assert "pytorch.org" in facts["cuda"]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "no GPU or driver" in backend.capabilities()["cuda"]


def test_a_gpu_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "mem_get_info": lambda number: ((number + 1) * 2**30, 24 * 2**30),
        "get_device_name": lambda number: f"Card {number}",
        "is_bf16_supported": lambda: False,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    facts = backend.capabilities()
    assert facts["device"] == "cuda"
    assert facts["cuda:1"] == "Card 1, 2.0 of 24.0 GiB free"
    assert facts["bf16"].startswith("no")

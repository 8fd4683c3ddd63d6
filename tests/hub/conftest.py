"""The hub on loopback, and a folder for downloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub.hub_server import HubServer


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models folder of this test."""
    folder = tmp_path / "models"
    monkeypatch.setenv("IEPILE_MODELS", str(folder))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return folder

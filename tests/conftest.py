"""Fixtures that every room's tests share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

# Reference vectors, corpora and tokenizers that lie beside the repository where they are at hand.
SHARED = Path(os.environ.get("IEPILE_TEST_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_configure() -> None:
    """Give each of several test processes processors of its own (pytest -n).

    What they start has as many threads as it has processors; threads that wait for each other
    on one processor would take many times as long.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if worker and workers and hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        own = processors[int(worker.removeprefix("gw")) :: int(workers)]
        os.sched_setaffinity(0, own or processors)


@pytest.fixture(scope="session")
def merged_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where merged models are kept for all tests: to merge takes a second or two."""
    return tmp_path_factory.mktemp("merged")


@pytest.fixture(autouse=True)
def _own_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, merged_models: Path
) -> None:
    """Keep the tests away from the user's configuration and caches."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("IEPILE_")]:
        if name != "IEPILE_TEST_SHARED":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    (home / "cache" / "iepile").mkdir(parents=True)
    (home / "cache" / "iepile" / "merged").symlink_to(merged_models)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material; skips the test when it is not there."""
    if not SHARED.is_dir():
        pytest.skip("the reference material is not beside the repository")
    return SHARED


def vector_cases(name: str) -> list[dict[str, Any]]:
    """The cases of a reference vector file, empty when it is not there: for parametrize."""
    path = SHARED / "vectors" / f"{name}.json"
    if not path.is_file():
        return []
    cases: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return cases


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The GGUF file of the embedded model."""
    from iepile_cli.models import DEFAULT_MODEL, resolve_model

    return resolve_model(DEFAULT_MODEL).path

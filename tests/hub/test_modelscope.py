"""Downloads from ModelScope, by its own package, from the hub on loopback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hub.hub_server import HubServer
from hub.test_download import BIG, HALF, Quiet

from iepile_cli.errors import DownloadError, UsageError
from iepile_cli.hub import download, plan_download
from iepile_cli.models import resolve_model


@pytest.fixture
def modelscope(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    pytest.importorskip("modelscope_hub")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
    return hub


def test_same_name_other_hub(modelscope: HubServer, store: Path) -> None:
    files = {"pytorch_model.bin": BIG, "config.json": b"{}", "configuration.py": b"x"}
    modelscope.add("ZJUNLP/OneKE", files)
    modelscope.cut["pytorch_model.bin"] = [HALF]
    planned = plan_download("oneke", source="modelscope")
    download(planned, Quiet())
    assert modelscope.starts("pytorch_model.bin") == [0, HALF]
    found = resolve_model("oneke")
    assert (found.path, found.template) == (store / "oneke", "llama2_zh")
    assert not (store / "oneke" / "configuration.py").exists()


def test_damage_and_absence(modelscope: HubServer, store: Path) -> None:
    modelscope.add("datasets/ZJUNLP/IEPile", {"train.json": b"{}", "dev.json": b"{}"})
    modelscope.damage["dev.json"] = 9
    with pytest.raises(DownloadError, match=r"dev\.json: damaged twice"):
        download(plan_download("iepile", source="modelscope"), Quiet())
    with pytest.raises(DownloadError, match="owner/none: not found at http://"):
        plan_download("owner/none", source="modelscope")


def test_missing_package_names_the_extra(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(UsageError) as caught:
        plan_download("oneke", source="modelscope")
    assert "pip install" in caught.value.hint
    assert "[modelscope]" in caught.value.hint
    with pytest.raises(UsageError, match="not known to be at modelscope"):
        plan_download("knowlm-13b-ie", source="modelscope")

"""``iepile doctor``, and what is said to who has not said what to extract."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iepile_cli import installation
from iepile_cli.backends.memory import fits_here, nvidia_gpus
from iepile_cli.cli.app import run
from iepile_cli.errors import install_hint
from iepile_cli.installation import extras, install_lines

PROGRAM = [sys.executable, "-m", "iepile_cli"]


def test_it_says_what_works_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    rows = [line.split("\t") for line in out.splitlines()]
    assert all(len(row) == 4 and row[1] in {"yes", "no", "-"} for row in rows)
    found = {row[0]: row for row in rows}
    assert found["embedded model"][1] == "yes"
    assert "merged" in found["embedded model"][2]
    for name in ("llama.cpp", "memory", "processor", "GPU", "models here", "completion", "network"):
        assert found[name][2]


def test_json_has_every_check_with_the_lines_that_install(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["extract"] is True
    checks = {check["name"]: check for check in told["checks"]}
    for extra in extras():
        check = checks[f"extra {extra.name}"]
        assert check["ok"] is (None if extra.missing else True)
        assert set(check["install"]) == ({"pip", "pipx", "uv"} if extra.missing else set())
        assert all(f"[{extra.name}]'" in line for line in check["install"].values())


def test_it_loads_neither_torch_nor_transformers() -> None:
    script = (
        "import sys; from iepile_cli.cli.app import run; run(['doctor', '--json']); "
        "heavy = {'torch', 'transformers', 'pyarrow', 'networkx', 'rdflib'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


def test_a_broken_installation_is_named_and_exits_with_1(tmp_path: Path) -> None:
    broken = tmp_path / "llama_cpp"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('libllama.so: no such file')")
    closed = tmp_path / "file"
    closed.write_text("")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}",
        "IEPILE_CACHE": str(closed / "cache"),
    }
    done = subprocess.run(
        [*PROGRAM, "doctor"], env=environment, capture_output=True, text=True, check=False
    )
    found = {line.split("\t")[0]: line.split("\t") for line in done.stdout.splitlines()}
    assert done.returncode == 1, done.stderr
    assert found["llama.cpp"][1] == "no"
    assert "libllama.so" in found["llama.cpp"][2]
    assert found["llama.cpp"][3] == "pip install llama-cpp-python"
    assert found["folder of cache"][1:] == [
        "no", str(closed / "cache"), "cannot be written: IEPILE_CACHE names another place",
    ]  # fmt: skip
    assert found["openai"]


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the driver tell of GPUs."""
    nvidia_gpus.cache_clear()

    def tell(text: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    yield tell
    nvidia_gpus.cache_clear()


@pytest.mark.skipif(sys.platform == "win32", reason="the driver's stand-in is a script")
def test_gpus_are_those_that_the_driver_tells_of(
    gpu: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu("NVIDIA H200, 143771, 143000\nOdd, Name, 8192, 100")
    first, second = nvidia_gpus()
    assert first == ("NVIDIA H200", 143771 << 20, 143000 << 20)
    assert second.name == "Odd, Name"
    assert [fits_here(need) for need in (None, 10**9, 140 * 10**9)] == ["", "GPU", "GPU"]
    assert fits_here(10**15) == "no"
    assert run(["doctor"]) == 0
    found = {line.split("\t")[0]: line.split("\t") for line in capsys.readouterr().out.splitlines()}
    assert found["GPU"][1] == "yes"
    assert "NVIDIA H200" in found["GPU"][2]
    if "CPU" in found["llama.cpp"][2]:
        assert "GGML_CUDA" in found["llama.cpp"][3]


@pytest.mark.skipif(sys.platform == "win32", reason="the driver's stand-in is a script")
def test_a_driver_that_says_something_else_has_no_gpus(gpu: Any) -> None:
    gpu("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver")
    assert nvidia_gpus() == ()


# --------------------------------------------------------------------------- lines that install


def described(folder: Path, monkeypatch: Any, url: str | None, editable: bool = False) -> None:
    """Have an installation of the program that came from ``url``."""
    made = folder / "iepile_cli-0.1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: iepile-cli\nVersion: 0.1.0\nProvides-Extra: all\n"
        "Provides-Extra: server\nProvides-Extra: odd\nRequires-Dist: typer<1,>=0\n"
        "Requires-Dist: iepile-cli[server]; extra == 'all'\n"
        "Requires-Dist: hypothesis[cli]>=1; extra == 'server'\n"
        "Requires-Dist: no-such-library; python_version > '3' and extra == 'odd'\n"
    )
    if url is not None:
        told = {"url": url, "dir_info": {"editable": editable}}
        (made / "direct_url.json").write_text(json.dumps(told))
    monkeypatch.syspath_prepend(str(folder))
    installation._origin.cache_clear()


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    yield
    installation._origin.cache_clear()


def test_lines_name_where_the_program_came_from(tmp_path: Path, monkeypatch: Any) -> None:
    source = tmp_path / "a folder"
    source.mkdir()
    described(tmp_path, monkeypatch, source.as_uri())
    assert install_lines("train") == {
        "pip": f"pip install '{source}[train]'",
        "pipx": f"pipx install --force '{source}[train]'",
        "uv": f"uv tool install --force '{source}[train]'",
    }
    assert install_hint("train").startswith(f"pip install '{source}[train]', pipx install")
    source.rmdir()
    installation._origin.cache_clear()
    assert install_lines("train")["pip"] == "pip install '.[train]'"
    assert install_hint("train").startswith(
        "in the program's source folder: pip install '.[train]'"
    )


def test_lines_of_a_wheel_and_of_a_checkout_in_use(tmp_path: Path, monkeypatch: Any) -> None:
    wheel = tmp_path / "iepile_cli-0.1.0-py3-none-any.whl"
    wheel.touch()
    described(tmp_path, monkeypatch, wheel.as_uri())
    assert install_lines("train")["uv"] == (
        f"uv tool install --force 'iepile-cli[train] @ {wheel.as_uri()}'"
    )
    for folder in tmp_path.glob("*.dist-info"):
        (folder / "direct_url.json").write_text(
            json.dumps({"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
        )
    installation._origin.cache_clear()
    assert install_lines("train")["pip"] == f"pip install -e '{tmp_path}[train]'"


def test_extras_are_those_of_the_metadata_with_what_is_there(
    tmp_path: Path, monkeypatch: Any
) -> None:
    described(tmp_path, monkeypatch, None)
    server, odd = extras()
    (library,) = server.libraries
    assert (server.name, library.name, library.wanted) == ("server", "hypothesis", ">=1")
    assert library.version
    assert (odd.name, odd.missing) == ("odd", ["no-such-library"])
    assert server.missing == []


# ---------------------------------------------------------------------------------- first use


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty on Windows")
def test_on_a_terminal_five_lines_say_how_to_begin() -> None:
    from terminal import Terminal

    with Terminal([*PROGRAM, "extract", "a b.txt"], os.environ) as terminal:
        shown, code = terminal.rest()
    assert code == 2
    lines = shown.strip().splitlines()
    assert len(lines) == 5
    assert "iepile extract --schema person,location,organization 'a b.txt'" in shown


def test_elsewhere_one_line_says_it() -> None:
    done = subprocess.run(
        [*PROGRAM, "extract"], input="x", capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no --schema" in done.stderr

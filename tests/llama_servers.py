"""Real llama.cpp servers on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

KINDS = ("llama-cpp-python", "llama-server")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def installed(kind: str) -> bool:
    return kind == "llama-cpp-python" or shutil.which("llama-server") is not None


@contextmanager
def serving(kind: str, model: Path, log: Path, *, context: int = 2048) -> Iterator[str]:
    """A server of a model; gives its address. ``log`` holds what it writes."""
    port = free_port()
    where = ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as written:
        process = subprocess.Popen(
            [*_command(kind, model, context), *where], stdout=written, stderr=subprocess.STDOUT
        )
        try:
            url = f"http://127.0.0.1:{port}/v1"
            wait_for(url, process)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes], *, seconds: float = 120) -> None:
    """Wait until a server answers; raises ``AssertionError`` when it ends or takes too long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer after {seconds:g} s")


def _command(kind: str, model: Path, context: int) -> Sequence[str | os.PathLike[str]]:
    if kind == "llama-server":
        sizes = ["--ctx-size", str(4 * context), "--parallel", "4"]
        return ["llama-server", "--model", str(model), *sizes]
    sizes = ["--n_ctx", str(context), "--interrupt_requests", "false"]
    return [sys.executable, "-m", "llama_cpp.server", "--model", str(model), *sizes]

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
def serving(
    kind: str, model: Path, log: Path, *, context: int = 2048, adapter: Path | None = None
) -> Iterator[str]:
    """A server of a model; gives its address. ``log`` holds what it writes."""
    port = free_port()
    process = started(kind, model, log, port, context=context, adapter=adapter)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def started(
    kind: str,
    model: Path,
    log: Path,
    port: int,
    *,
    context: int = 2048,
    adapter: Path | None = None,
) -> subprocess.Popen[bytes]:
    """The process of a server that may not answer yet."""
    where = ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("ab") as written:
        return subprocess.Popen(
            [*_command(kind, model, context, adapter), *where],
            stdout=written,
            stderr=subprocess.STDOUT,
        )


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


def _command(
    kind: str, model: Path, context: int, adapter: Path | None
) -> Sequence[str | os.PathLike[str]]:
    if kind == "llama-server":
        sizes = ["--ctx-size", str(4 * context), "--parallel", "4"]
        overlay = ["--lora", str(adapter)] if adapter else []
        return ["llama-server", "--model", str(model), *sizes, *overlay]
    sizes = ["--n_ctx", str(context), "--interrupt_requests", "false"]
    overlay = ["--lora_path", str(adapter)] if adapter else []
    return [sys.executable, "-m", "llama_cpp.server", "--model", str(model), *sizes, *overlay]

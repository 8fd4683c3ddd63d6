"""A program on a terminal of its own, for tests of what people see and press."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

_CONTROL = re.compile(
    rb"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][0-9A-B]|[=>78cDEHM])"
)


class Terminal:
    """Runs a program on a new terminal of the given width; use as a context manager."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, columns: int = 100
    ) -> None:
        self._end, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._process = subprocess.Popen(
            command,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=dict(environment),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(inner)
        self._seen = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._end)

    def press(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def wait_for(self, pattern: str, *, seconds: float = 30) -> str:
        """What has appeared up to and with a pattern; it is then forgotten. Fails after a while."""
        limit = time.monotonic() + seconds
        while True:
            text = self.text()
            found = re.search(pattern, text)
            if found:
                self._seen = b""
                return text
            if time.monotonic() > limit or not self._read(0.2):
                raise AssertionError(f"{pattern!r} did not appear in {text!r}")

    def text(self) -> str:
        """What has appeared, without the terminal's control sequences."""
        return _CONTROL.sub(b"", self._seen).decode("utf-8", "replace").replace("\r", "")

    def rest(self, *, seconds: float = 30) -> tuple[str, int]:
        """What appears until the program ends, and its exit code."""
        limit = time.monotonic() + seconds
        while self._read(0.2) and time.monotonic() < limit:
            pass
        return self.text(), self._process.wait(timeout=5)

    def _read(self, seconds: float) -> bool:
        """Read what is there; whether more may come."""
        if not select.select([self._end], [], [], seconds)[0]:
            return self._process.poll() is None
        try:
            more = os.read(self._end, 65536)
        except OSError:
            return False
        # fish waits for the answers of a terminal: what it is, and where its cursor stands.
        if b"\x1b[c" in more or b"\x1b[0c" in more:
            os.write(self._end, b"\x1b[?62;c")
        if b"\x1b[6n" in more:
            os.write(self._end, b"\x1b[1;1R")
        self._seen += more
        return bool(more)

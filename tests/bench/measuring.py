"""What a command takes: wall time, processor time and memory, over all its processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class Measured(NamedTuple):
    """Wall seconds, processor seconds, and the peak of resident MiB (0: not watched).

    Pages that processes share count once.
    """

    wall: float
    cpu: float
    peak: float


def measured(command: Sequence[str], path: Sequence[str] = (), *, memory: bool = False) -> Measured:
    """Run a command, its output thrown away, with some folders before ``PYTHONPATH``.

    With ``memory`` that is watched; time is for another run then, as the kernel holds a process up
    while its pages are counted. Raises ``SystemExit`` where it fails:
    what it took would then say nothing.
    """
    folders = filter(None, (*path, os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    # Where nothing compiled is kept, every start would compile all modules.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = os.times()
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    peak = 0.0
    while memory and child.poll() is None:
        peak = max(peak, sum(map(_resident, _tree(child.pid))))
        time.sleep(0.03)
    child.wait()
    wall = time.perf_counter() - start
    after = os.times()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    cpu = after.children_user + after.children_system
    return Measured(wall, cpu - before.children_user - before.children_system, peak)


def _tree(root: int) -> Iterator[int]:
    yield root
    try:
        for task in Path(f"/proc/{root}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))
    except (OSError, ValueError):
        return


def _resident(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0

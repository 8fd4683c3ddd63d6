"""What a cluster costs beside one process, and how memory grows: runs with a backend that computes
next to nothing, so that what is left is reading, planning, grounding, writing and Ray.

    python tests/bench/cluster.py --texts 20000 --replicas 2
    python tests/bench/cluster.py --texts 1000000 --replicas 2 --no-single

Processor seconds are those of the program and all its processes; they do not depend on what else
runs on the machine. Memory is the resident size of each kind of process, its highest in each tenth
of the time. Needs the extra ``ray``, for ``--replicas`` above 0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from gazetteer_plugin import write_plugin  # noqa: E402


def write_texts(folder: Path, count: int, files: int = 10) -> Path:
    """Files of one-sentence records, about 100 characters each."""
    folder.mkdir()
    for number in range(files):
        with (folder / f"{number}.jsonl").open("w") as file:
            for n in range(number * count // files, (number + 1) * count // files):
                text = (
                    f"Person{n} of Firm{n % 97} met Ann{n % 1013} in Oslo{n % 31}, later in Rome."
                )
                file.write(json.dumps({"id": f"d{n}", "text": text}) + "\n")
    return folder


class Watch:
    """The processor time and the memory of a process and of all that it started."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = psutil.Process(process.pid)
        self.seconds: dict[int, float] = {}
        self.memory: dict[str, list[int]] = {}

    def look(self) -> None:
        largest: dict[str, int] = {}
        for one in [self.process, *self.process.children(recursive=True)]:
            try:
                times, size = one.cpu_times(), one.memory_info().rss
                words = one.cmdline() or [""]
            except psutil.Error:
                continue
            self.seconds[one.pid] = times.user + times.system
            kind = "replica" if "MapWorker" in words[0] else ""
            kind = "command" if one.pid == self.process.pid else kind
            if kind:
                largest[kind] = max(largest.get(kind, 0), size)
        for kind, size in largest.items():
            self.memory.setdefault(kind, []).append(size)


def measured(words: list[str], environment: dict[str, str]) -> Watch:
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "iepile_cli", *words], env=environment, text=True
    )
    watch = Watch(process)
    while process.poll() is None:
        try:
            watch.look()
        except psutil.Error:
            break
        time.sleep(0.2)
    assert process.wait() == 0
    wall = time.monotonic() - started
    total = sum(watch.seconds.values())
    print(f"  {wall:.1f} s, {total:.1f} processor seconds")
    for kind, sizes in watch.memory.items():
        bounds = [len(sizes) * tenth // 10 for tenth in range(11)]
        tenths = [sizes[begin:end] for begin, end in pairwise(bounds)]
        shown = " ".join(f"{max(tenth, default=0) / 1e6:.0f}" for tenth in tenths)
        print(f"  {kind}: MB in each tenth of the run: {shown}")
    watch.seconds[0] = 0.0
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--no-single", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_plugin(folder / "site")
        environment = {**os.environ, "PYTHONPATH": f"{folder / 'site'}{os.pathsep}{ROOT}"}
        inputs = write_texts(folder / "in", options.texts)
        base = ["-q", "extract", str(inputs), "--schema", "name,place", "--backend", "gazetteer"]
        single, out = folder / "single.jsonl", folder / "out"
        costs = []
        if not options.no_single:
            print("one process")
            costs.append(measured([*base, "-o", str(single)], environment))
        if options.replicas:
            shards = -(-options.texts // 1000)
            print(f"{options.replicas} replicas, {shards} shards")
            ray = ["--ray", "local", "--replicas", str(options.replicas), "-o", str(out)]
            costs.append(measured([*base, *ray], environment))
        seconds = [sum(one.seconds.values()) for one in costs]
        if len(seconds) == 2:
            each = 1000 * (seconds[1] - seconds[0]) / options.texts
            print(f"overhead: {each:.2f} processor milliseconds a text, the start included")
            joined = b"".join(path.read_bytes() for path in sorted(out.glob("part-*")))
            print(f"the same bytes: {joined == single.read_bytes()}")


if __name__ == "__main__":
    main()

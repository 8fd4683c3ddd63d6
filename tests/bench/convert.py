"""Records a second and memory of ``iepile convert``, beside a plain single-process loop.

    python tests/bench/convert.py [--records 200000] [--types 18] [--words 40] [--workers 2]

The loop does what upstream's converter does for entities: all records in memory, sets of labels,
``json.dumps`` for instruction, answer and row, all rows in memory before they are written. Both
run on the same file, turn about, each in a process of its own; memory is the peak of the sum over
all its processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def write_records(path: Path, count: int, types: int, words: int) -> None:
    """Synthetic entity records: 40 words, none to six entities of one to three words each."""
    dice = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(dice.choices(letters, k=dice.randint(2, 9))) for _ in range(5000)]
    with path.open("w") as file:
        for _ in range(count):
            tokens = dice.choices(vocabulary, k=words)
            entities = []
            for _ in range(dice.randint(0, 6)):
                at = dice.randrange(words - 3)
                mention = " ".join(tokens[at : at + dice.randint(1, 3)])
                kind = f"entity type {dice.randrange(types):02d}"
                entities.append({"entity": mention, "entity_type": kind})
            file.write(json.dumps({"text": " ".join(tokens), "entity": entities}) + "\n")
    names = [f"entity type {number:02d}" for number in range(types)]
    path.with_name("schema.json").write_text(f"{json.dumps(names)}\n[]\n{{}}\n")


def plain_loop(source: str, target: str, schema: str, shuffle: bool) -> None:
    """A converter of entities in the plain way."""
    from iepile_cli.task.table import TASKS

    asked = TASKS["NER"].instruction["en"]
    with open(schema) as file:
        names = set(json.loads(file.readline()))
    with open(source) as file:
        records = [json.loads(line) for line in file]
    rows = []
    for record in records:
        kept, seen = [], set()
        for entry in record["entity"]:
            pair = entry["entity"], entry["entity_type"]
            if pair not in seen:
                seen.add(pair)
                kept.append(entry)
        positive = {entry["entity_type"] for entry in kept}
        others = list(names - positive)
        asked = sorted(positive | set(random.sample(others, len(others))))
        if shuffle:
            random.shuffle(asked)
        size = 6
        batches = [asked[at : at + size] for at in range(0, len(asked), size)]
        for batch in batches:
            answer: dict[str, list[str]] = {name: [] for name in batch}
            for entry in kept:
                if entry["entity_type"] in answer:
                    answer[entry["entity_type"]].append(entry["entity"])
            for found in answer.values():
                found.sort(key=record["text"].find)
            instruction = json.dumps(
                {
                    "instruction": asked,
                    "schema": batch,
                    "input": record["text"],
                },
                ensure_ascii=False,
            )
            rows.append(
                {
                    "task": "NER",
                    "source": "bench",
                    "instruction": instruction,
                    "output": json.dumps(answer, ensure_ascii=False),
                }
            )
    with open(target, "w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def measured(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MB (sum over the process tree) of a command."""
    before = os.times()
    start = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    peak = [0.0]

    def watch() -> None:
        while child.poll() is None:
            peak[0] = max(peak[0], sum(_resident(pid) for pid in _tree(child.pid)))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    child.wait()
    watcher.join()
    wall = time.perf_counter() - start
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    if child.returncode:
        raise SystemExit(f"{command} ended with {child.returncode}")
    return wall, cpu, peak[0]


def _tree(root: int) -> list[int]:
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        except (OSError, ValueError):
            continue
    return found


def _resident(pid: int) -> float:
    """Proportional set size in MB: pages that processes share count once."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def main() -> None:
    """Run both, turn about, and report the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--types", type=int, default=18)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shuffle", action="store_true", help="schema items in random order")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain_loop(*options.plain, options.shuffle)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "bench", "train.json")
        source.parent.mkdir()
        write_records(source, options.records, options.types, options.words)
        schema, target = str(source.with_name("schema.json")), str(Path(folder, "rows.jsonl"))
        ours = [sys.executable, "-m", "iepile_cli", "-q", "convert", str(source), "-o", target]
        ours += ["--shuffle"] if options.shuffle else []
        ours += ["--task", "NER", "--workers", str(options.workers)]
        plain = [sys.executable, __file__, "--plain", str(source), target, schema]
        plain += ["--shuffle"] if options.shuffle else []
        rates: dict[str, list[float]] = {"plain": [], "iepile": []}
        for _ in range(options.rounds):
            for name, command in (("plain", plain), ("iepile", ours)):
                wall, cpu, peak = measured(command)
                rates[name].append(options.records / wall)
                size = os.path.getsize(target) / 1e6
                print(
                    f"{name:7} {options.records / wall:10,.0f} records/s  {wall:6.2f} s wall  "
                    f"{cpu:6.2f} s cpu  {peak:6.0f} MB  {size:6.0f} MB written"
                )
        best = {name: max(some) for name, some in rates.items()}
        print(f"ratio of the best: {best['iepile'] / best['plain']:.1f}")


if __name__ == "__main__":
    main()

"""How fast `iepile eval` is beside a plain loop that works as the IEPile repository's script does.

    python tests/bench/eval.py [--texts 200000] [--repeat 3]

Writes a prediction file of two rows a text, scores it both ways in separate processes, one after
the other, and prints wall time, CPU time (children included), peak memory and the ratio.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import string
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

TYPES = ("person", "organization", "location", "time", "money", "product", "event", "art", "law")
SENTENCE = (
    "You are an expert in named entity recognition. Please extract entities that match the "
    "schema definition from the input. Return an empty list if the entity type does not exist. "
    "Please respond in the format of a JSON string."
)


def write_predictions(path: Path, texts: int) -> None:
    rng = random.Random(1)
    letters = string.ascii_lowercase
    words = ["".join(rng.choices(letters, k=rng.randint(3, 8))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(texts):
            sentence = rng.choices(words, k=rng.randint(10, 30))
            text = " ".join(sentence)
            gold = []
            for _ in range(rng.randint(0, 4)):
                start = rng.randrange(len(sentence) - 2)
                mention = " ".join(sentence[start : start + rng.randint(1, 2)])
                gold.append({"entity": mention, "entity_type": rng.choice(TYPES)})
            for batch in (TYPES[:6], TYPES[6:]):
                answer: dict[str, list[str]] = {kind: [] for kind in batch}
                for entity in gold:
                    if entity["entity_type"] in answer and rng.random() < 0.8:
                        answer[entity["entity_type"]].append(entity["entity"])
                if rng.random() < 0.3:
                    answer[rng.choice(batch)].append(rng.choice(sentence))
                output = json.dumps(answer)
                row = {
                    "id": hashlib.sha256(text.encode()).hexdigest(),
                    "task": "NER",
                    "source": f"s{number % 3}",
                    "instruction": json.dumps(
                        {"instruction": SENTENCE, "schema": batch, "input": text}
                    ),
                    "label": json.dumps(gold),
                    "output": output if rng.random() > 0.01 else output[:-5],
                }
                file.write(json.dumps(row) + "\n")


def plain_loop(path: str) -> None:
    """Everything into memory, then one document after the other with the json module."""
    documents: dict[str, dict[str, object]] = {}
    outputs: dict[str, list[str]] = defaultdict(list)
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            key = row["source"] + row["id"]
            if key not in documents:
                documents[key] = {
                    "label": json.loads(row["label"]),
                    "source": row["source"],
                    "input": json.loads(row["instruction"])["input"],
                }
            outputs[key].append(row["output"])
    hits = gold_count = predicted_count = errors = 0
    for key, document in documents.items():
        predicted = []
        for output in outputs[key]:
            try:
                answer = json.loads(output)
            except ValueError:
                errors += 1
                continue
            for kind, mentions in answer.items():
                predicted += [(mention, kind) for mention in mentions if isinstance(mention, str)]
        gold = [(entry["entity"], entry["entity_type"]) for entry in document["label"]]  # type: ignore[attr-defined]
        left = gold.copy()
        for fact in predicted:
            if fact in left:
                hits += 1
                left.remove(fact)
        gold_count += len(gold)
        predicted_count += len(predicted)
    print(json.dumps([len(documents), errors, gold_count, predicted_count, hits]))


def measure(command: list[str]) -> tuple[float, float, float, str]:
    """Wall seconds, CPU seconds, peak MiB of all its processes together, and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(resident, [process.pid, *children(process.pid)])))
        time.sleep(0.02)
    wall = time.perf_counter() - start
    after = os.times()
    printed = process.stdout.read() if process.stdout else ""
    cpu = after.children_user + after.children_system - measure.before  # type: ignore[attr-defined]
    measure.before = after.children_user + after.children_system  # type: ignore[attr-defined]
    return wall, cpu, peak / 2**20, printed


measure.before = 0.0  # type: ignore[attr-defined]


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def resident(pid: int) -> int:
    """Bytes of memory that are this process's share (shared pages divided among their users)."""
    for name, unit in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
                if line.startswith(unit):
                    return int(line.split()[1]) * 1024
        except OSError:
            continue
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain_loop(options.plain)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.jsonl"
        write_predictions(path, options.texts)
        print(f"{2 * options.texts:,} rows, {path.stat().st_size / 1e6:.0f} MB")
        ours = [sys.executable, "-m", "iepile_cli", "--quiet", "eval", str(path), "--json", "-"]
        loop = [sys.executable, __file__, "--plain", str(path)]
        best: dict[str, list[float]] = {}
        for _ in range(options.repeat):
            for name, command in (("plain loop", loop), ("iepile eval", ours)):
                wall, cpu, peak, _printed = measure(command)
                print(f"{name:12} {wall:6.2f} s wall {cpu:6.2f} s CPU {peak:6.0f} MiB")
                kept = best.setdefault(name, [wall, cpu, peak])
                best[name] = [min(kept[0], wall), min(kept[1], cpu), max(kept[2], peak)]
        plain, own = best["plain loop"], best["iepile eval"]
        print(f"{plain[0] / own[0]:.1f} times faster (wall), {plain[1] / own[1]:.1f} (CPU)")


if __name__ == "__main__":
    main()

"""How fast ``iepile eval`` is beside IEPile's own script, task by task.

    python tests/bench/eval.py [--tasks NER RE EE] [--texts 200000] [--repeat 3]

The script needs jieba and rouge_chinese; ``PYTHONPATH`` may say where they are.

Writes a prediction file of two rows a text and scores it both ways in separate processes, turn
about; prints wall time, CPU time (children included), peak memory and the ratios. With
``IEPILE_UPSTREAM`` set to a checkout of zjunlp/IEPile, its ``eval_func.py`` is run; otherwise a
plain loop is, which does what that script does: everything into memory, then one document after
the other with the ``json`` module.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import string
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measuring import measured

UPSTREAM = os.environ.get("IEPILE_UPSTREAM", "")
TYPES = ("person", "organization", "location", "time", "money", "product", "event", "art", "law")
ROLES = ("agent", "victim", "place", "time", "instrument")
SENTENCE = (
    "You are an expert in named entity recognition. Please extract entities that match the "
    "schema definition from the input. Return an empty list if the entity type does not exist. "
    "Please respond in the format of a JSON string."
)
Entry = dict[str, Any]


def write_predictions(path: Path, texts: int, task: str = "NER") -> None:
    """Two schema batches a text, none to four items of which four of five are found."""
    rng = random.Random(1)
    letters = string.ascii_lowercase
    words = ["".join(rng.choices(letters, k=rng.randint(3, 8))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(texts):
            sentence = rng.choices(words, k=rng.randint(10, 30))
            text = " ".join(sentence)

            def mention(sentence: list[str] = sentence) -> str:
                start = rng.randrange(len(sentence) - 2)
                return " ".join(sentence[start : start + rng.randint(1, 2)])

            gold = [_entry(task, rng, mention) for _ in range(rng.randint(0, 4))]
            for batch in (TYPES[:6], TYPES[6:]):
                answer: dict[str, list[Any]] = {kind: [] for kind in batch}
                for entry in gold:
                    if _kind(entry) in answer and rng.random() < 0.8:
                        answer[_kind(entry)].append(_answer(task, entry))
                if rng.random() < 0.3:
                    invented = _entry(task, rng, mention)
                    answer[rng.choice(batch)].append(_answer(task, invented))
                schema: Any = batch
                if task == "EE":
                    schema = [
                        {"event_type": kind, "trigger": True, "arguments": ROLES} for kind in batch
                    ]
                output = json.dumps(answer)
                row = {
                    "id": hashlib.sha256(text.encode()).hexdigest(),
                    "task": task,
                    "source": f"s{number % 3}",
                    "instruction": json.dumps(
                        {"instruction": SENTENCE, "schema": schema, "input": text}
                    ),
                    "label": json.dumps(gold),
                    "output": output if rng.random() > 0.01 else output[:-5],
                }
                file.write(json.dumps(row) + "\n")


def _entry(task: str, rng: random.Random, mention: Callable[[], str]) -> Entry:
    kind = rng.choice(TYPES)
    if task == "NER":
        return {"entity": mention(), "entity_type": kind}
    if task == "RE":
        return {"head": mention(), "relation": kind, "tail": mention()}
    roles = rng.sample(ROLES, rng.randint(0, 3))
    arguments = [{"argument": mention(), "role": role} for role in roles]
    return {"event_trigger": mention(), "event_type": kind, "arguments": arguments}


def _kind(entry: Entry) -> str:
    return str(
        next(entry[key] for key in ("entity_type", "relation", "event_type") if key in entry)
    )


def _answer(task: str, entry: Entry) -> Any:
    if task == "NER":
        return entry["entity"]
    if task == "RE":
        return {"subject": entry["head"], "object": entry["tail"]}
    filled = {part["role"]: part["argument"] for part in entry["arguments"]}
    arguments = {role: filled.get(role, "NAN") for role in ROLES} if filled else {}
    return {"trigger": entry["event_trigger"], "arguments": arguments}


# ----------------------------------------------------------------------------------- plain loop


def plain_loop(path: str, task: str = "NER") -> None:
    """Everything into memory, then one document after the other with the json module."""
    documents: dict[str, dict[str, Any]] = {}
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
    units = 2 if task == "EE" else 1
    totals = [[0, 0, 0] for _ in range(units)]
    errors = 0
    for key, document in documents.items():
        predicted: list[list[Any]] = [[] for _ in range(units)]
        gold: list[list[Any]] = [[] for _ in range(units)]
        for output in outputs[key]:
            try:
                answer = json.loads(output)
            except ValueError:
                errors += 1
                continue
            for unit, fact in _predicted(task, answer):
                predicted[unit].append(fact)
        for unit, fact in _gold(task, document["label"]):
            gold[unit].append(fact)
        for total, mine, theirs in zip(totals, gold, predicted, strict=True):
            left = mine.copy()
            for fact in theirs:
                if fact in left:
                    total[2] += 1
                    left.remove(fact)
            total[0] += len(mine)
            total[1] += len(theirs)
    print(json.dumps([len(documents), errors, *(n for total in totals for n in total)]))


def _gold(task: str, entries: list[Entry]) -> Iterator[tuple[int, Any]]:
    for entry in entries:
        if task == "NER":
            yield 0, (entry["entity"], entry["entity_type"])
        elif task == "RE":
            yield 0, (entry["head"], entry["relation"], entry["tail"])
        else:
            yield 0, (entry["event_type"], entry["event_trigger"])
            for part in entry["arguments"]:
                yield 1, (entry["event_type"], part["argument"], part["role"])


def _predicted(task: str, answer: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    for kind, items in answer.items():
        for item in items:
            if task == "NER":
                if isinstance(item, str):
                    yield 0, (item, kind)
            elif not isinstance(item, dict):
                continue
            elif task == "RE":
                yield 0, (item.get("subject", ""), kind, item.get("object", ""))
            else:
                yield 0, (kind, item.get("trigger", ""))
                for role, filler in item.get("arguments", {}).items():
                    for part in filler if isinstance(filler, list) else [filler]:
                        if part != "NAN":
                            yield 1, (kind, part, role)


# ------------------------------------------------------------------------------------ measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["NER", "RE", "EE"])
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--plain", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain_loop(*options.plain)
        return
    for task in options.tasks:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "predictions.jsonl"
            write_predictions(path, options.texts, task)
            size = path.stat().st_size / 1e6
            print(f"{task}: {2 * options.texts:,} rows, {size:.0f} MB")
            compare(path, task, options.repeat)


def compare(path: Path, task: str, repeat: int) -> None:
    """Score a file both ways, turn about, and print the best of each."""
    ours = [sys.executable, "-m", "iepile_cli", "--quiet", "eval", str(path), "--json", "-"]
    other, loop = "plain loop", [sys.executable, __file__, "--plain", str(path), task]
    if UPSTREAM:
        script = str(Path(UPSTREAM) / "ie2instruction" / "eval_func.py")
        other, loop = "eval_func.py", [sys.executable, script, "--path1", str(path), "--task", task]
    best: dict[str, list[float]] = {}
    pair = ((other, loop), ("iepile eval", ours))
    for name, command in pair * repeat:
        wall, cpu, _ = measured(command)
        print(f"  {name:12} {wall:6.2f} s wall {cpu:6.2f} s CPU")
        kept = best.setdefault(name, [wall, cpu])
        best[name] = [min(kept[0], wall), min(kept[1], cpu)]
    for name, command in pair:
        print(f"  {name:12} {measured(command, memory=True).peak:6.0f} MiB")
    plain, own = best[other], best["iepile eval"]
    print(f"  {plain[0] / own[0]:.1f} times faster (wall), {plain[1] / own[1]:.1f} (CPU)")


if __name__ == "__main__":
    main()

"""Records a second and memory of ``iepile convert``, beside IEPile's converter, task by task.

    python tests/bench/convert.py [--tasks NER RE ...] [--modes sorted shuffled ...] \\
        [--records 20000] [--types 18] [--words 40] [--workers 2] [--rounds 3]

With ``IEPILE_UPSTREAM`` set to a checkout of zjunlp/IEPile, its ``convert_func.py`` is run (with
``PYTHONPATH`` as it is set: the script needs numpy and PyYAML). Otherwise, and for hard negatives
of tasks for which that script fails, a plain loop is run, which does what the script does: all
records in memory, sets of labels, ``json.dumps`` for instruction, answer and row, all rows in
memory before they are written. Both run on the same file, turn about, each in a process of its
own; memory is the peak of the sum over all its processes. ``steady`` is the ratio without
start-up, which is measured with a file of one record.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy
from measuring import measured

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = os.environ.get("IEPILE_UPSTREAM", "")
SIZES = {"NER": 6, "KG": 1}
MODES = {
    "sorted": ["--split", "train"],
    "shuffled": ["--split", "train", "--shuffle"],
    "half": ["--split", "train", "--shuffle", "--neg-ratio", "0.5"],
    "hard": ["--split", "train", "--shuffle", "--hard-negatives", "HARD"],
    "test": ["--split", "test"],
}
FIELDS = {"NER": "entity", "RE": "relation", "SPO": "relation", "KG": "relation"}
Json = dict[str, Any]

# ------------------------------------------------------------------------------- synthetic records


def write_records(path: Path, task: str, count: int, types: int, words: int) -> None:
    """Synthetic records: 40 words, none to six mentions of one to three words, or fewer tuples."""
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(5000)]
    with path.open("w") as file:
        for _ in range(count):
            tokens = rng.choices(vocabulary, k=words)

            def mention(tokens: list[str] = tokens) -> str:
                at = rng.randrange(words - 3)
                return " ".join(tokens[at : at + rng.randint(1, 3)])

            entries = [_entry(task, rng, types, mention) for _ in range(_many(task, rng))]
            record = {"text": " ".join(tokens), FIELDS.get(task, "event"): entries}
            file.write(json.dumps(record) + "\n")
    path.with_name("schema.json").write_text("".join(f"{one}\n" for one in _schema(task, types)))
    names = [f"type {number:02d}" for number in range(types)]
    if task == "SPO":
        names = [f"s_{name}_o" for name in names]
    hard = {
        name: [names[(at + 1) % types], names[(at + 2) % types]] for at, name in enumerate(names)
    }
    path.with_name("hard.json").write_text(json.dumps(hard))


def _many(task: str, rng: random.Random) -> int:
    return rng.randint(0, 6) if task == "NER" else rng.randint(0, 3)


def _roles(number: int) -> list[str]:
    return [f"role {(number * 3 + at) % 20:02d}" for at in range(5)]


def _entry(task: str, rng: random.Random, types: int, mention: Callable[[], str]) -> Json:
    number = rng.randrange(types)
    kind = f"type {number:02d}"
    if task == "NER":
        return {"entity": mention(), "entity_type": kind}
    if task in ("RE", "SPO", "KG"):
        ends = {"head": mention(), "head_type": "s", "tail": mention(), "tail_type": "o"}
        return {**ends, "relation": kind}
    arguments = [
        {"argument": mention(), "role": role}
        for role in rng.sample(_roles(number), rng.randint(0, 3))
    ]
    return {"event_trigger": mention(), "event_type": kind, "arguments": arguments}


def _schema(task: str, types: int) -> tuple[str, str, str]:
    names = [f"type {number:02d}" for number in range(types)]
    roles = {name: _roles(number) for number, name in enumerate(names)}
    lists: tuple[Any, Any, Any] = names, [], {}
    if task == "RE":
        lists = [], names, {}
    elif task == "SPO":
        lists = [f"s_{name}_o" for name in names], names, {}
    elif task == "KG":
        lists = ["s"], names, {"s": names}
    elif task in ("EE", "EEA"):
        lists = names, sorted({role for some in roles.values() for role in some}), roles
    return tuple(map(json.dumps, lists))  # type: ignore[return-value]


# ------------------------------------------------------------------------- the plain loop, per task


class Plain:
    """IEPile's way of converting, task by task, in its plainest form."""

    def __init__(self, task: str, schema: str, ratio: float, shuffle: bool, hard: str) -> None:
        lines = Path(schema).read_text().splitlines()
        types, relations, slots = map(json.loads, lines[:3])
        self.task, self.ratio, self.shuffle = task, ratio, shuffle
        self.slots = {name: set(some) for name, some in slots.items()}
        self.universe = set(relations if task in ("RE", "KG") else types)
        table = json.loads(Path(hard).read_text()) if hard else {}
        self.hard = {key: set(some) for key, some in table.items()}

    def label(self, entry: Json) -> str:
        if self.task == "NER":
            return str(entry["entity_type"])
        if self.task == "SPO":
            return f"{entry['head_type']}_{entry['relation']}_{entry['tail_type']}"
        return str(entry["relation" if self.task in ("RE", "KG") else "event_type"])

    def drawn(self, negative: list[str], own: Iterable[str], total: int) -> list[str]:
        # Drawn with numpy, and added up in Python, as there.
        count = sum(numpy.random.binomial(1, self.ratio, total))  # noqa: NPY002
        return random.sample(negative, min(max(count, 0 if own else 1), len(negative)))

    def ordered(self, labels: list[Any]) -> list[Any]:
        if self.shuffle:
            random.shuffle(labels)
            return labels
        return sorted(labels)

    def labels(self, entries: list[Json]) -> list[Any]:
        """The schema items to ask of a training record."""
        own = {self.label(entry) for entry in entries}
        negative = list(self.universe - own)
        if self.hard and own:
            asked = {other for name in own for other in self.hard[name]} | own
            rest = list(self.universe - asked)
            asked.update(random.sample(rest, min(len(rest), SIZES.get(self.task, 4))))
            labels = list(asked)
        elif self.task == "EEA":
            labels = list(own)
        else:
            labels = self.drawn(negative, own, len(self.universe)) + list(own)
        if self.task == "KG":
            return [("s", self.ordered(labels))]
        if self.task not in ("EE", "EEA"):
            return self.ordered(labels)
        roles = defaultdict(set)
        for entry in entries:
            roles[entry["event_type"]].update(one["role"] for one in entry["arguments"])
        items = []
        for name in labels:
            known, own_roles = self.slots[name], roles[name]
            drawn = self.drawn(list(known - own_roles), own_roles, len(known))
            items.append((name, drawn + list(own_roles)))
        for item in items if self.shuffle else ():
            random.shuffle(item[1])
        return self.ordered(items)

    def item(self, label: Any, triggers: dict[str, list[str]]) -> Any:
        """A schema item as the instruction shows it."""
        if self.task == "SPO":
            subject, *predicate, object_ = label.split("_")
            ends = {"subject_type": subject, "predicate": "_".join(predicate)}
            return {**ends, "object_type": object_}
        if self.task == "EE":
            return {"event_type": label[0], "trigger": True, "arguments": label[1]}
        if self.task == "EEA":
            return {"event_type": label[0], "trigger": triggers[label[0]], "arguments": label[1]}
        return {"entity_type": label[0], "attributes": label[1]} if self.task == "KG" else label

    def answer(self, batch: list[Any], entries: list[Json], text: str) -> str:
        found: dict[str, list[Json]] = defaultdict(list)
        for entry in entries:
            found[self.label(entry)].append(entry)
        answer: dict[str, Any] = {}
        for label in batch:
            if self.task == "KG":
                heads: Json = defaultdict(dict)
                for entry in entries:
                    if entry["relation"] in label[1]:
                        heads[entry["head"]].setdefault(entry["relation"], []).append(entry["tail"])
                answer["s"] = {head: heads[head] for head in sorted(heads, key=text.find)}
            elif self.task in ("EE", "EEA"):
                answer[label[0]] = [self.event(one, label[1], text) for one in found[label[0]]]
                if self.task == "EE":
                    answer[label[0]].sort(key=lambda one: text.find(one["trigger"]))
            else:
                answer[label] = self.flat(found[label], text)
        return json.dumps(answer, ensure_ascii=False)

    def flat(self, entries: list[Json], text: str) -> list[Any]:
        if self.task in ("RE", "SPO"):
            pairs = [{"subject": one["head"], "object": one["tail"]} for one in entries]
            return sorted(
                pairs, key=lambda one: (text.find(one["subject"]), text.find(one["object"]))
            )
        key = "entity" if self.task == "NER" else "event_trigger"
        return sorted((one[key] for one in entries), key=text.find)

    def event(self, entry: Json, roles: list[str], text: str) -> Json:
        values = defaultdict(set)
        for one in entry["arguments"]:
            values[one["role"]].add(one["argument"])
        arguments: Json = {}
        for role in roles:
            some = sorted(values[role], key=text.find) if role in values else ["NAN"]
            arguments[role] = some[0] if len(some) == 1 else some
        if not any(role in values for role in roles):
            arguments = {}
        return (
            {"trigger": entry["event_trigger"], "arguments": arguments}
            if self.task == "EE"
            else arguments
        )

    def test_labels(self, entries: list[Json]) -> list[Any]:
        if self.task == "KG":
            return [(name, list(some)) for name, some in self.slots.items()]
        if self.task == "EE":
            return [(name, list(some)) for name, some in self.slots.items()]
        if self.task == "EEA":
            return [(name, list(self.slots[name])) for name in {self.label(one) for one in entries}]
        return list(self.universe)


def distinct(task: str, entries: list[Json]) -> list[Json]:
    keys = {"NER": ("entity", "entity_type"), "EE": (), "EET": (), "EEA": (), "KG": ()}
    unique = keys.get(task, ("head", "relation", "tail"))
    seen, kept = set(), []
    for entry in entries:
        identity = tuple(entry[key] for key in unique)
        if not unique or identity not in seen:
            seen.add(identity)
            kept.append(entry)
    return kept


def batches(labels: list[Any], size: int) -> list[list[Any]]:
    if len(labels) < size:
        return [labels]
    end = len(labels) // size * size
    cut = [labels[at : at + size] for at in range(0, end, size)]
    if len(labels) - end >= max(1, size // 2):
        cut.append(labels[end:])
    else:
        cut[-1] = cut[-1] + labels[end:]
    return cut


def plain_loop(
    task: str,
    split: str,
    source: str,
    target: str,
    schema: str,
    ratio: str,
    shuffle: str,
    hard: str,
) -> None:
    """Convert a file as IEPile's script does."""
    import hashlib

    from iepile_cli.task.table import task_named

    words = task_named(task).instruction["en"]
    plain = Plain(task, schema, float(ratio), shuffle == "True", hard)
    field, size = FIELDS.get(task, "event"), SIZES.get(task, 4)
    with open(source) as file:
        records = [json.loads(line) for line in file]
    rows = []
    for record in records:
        entries, text = distinct(task, record[field]), record["text"]
        triggers = defaultdict(list)
        for entry in entries if task == "EEA" else ():
            triggers[entry["event_type"]].append(entry["event_trigger"])
        labels = plain.labels(entries) if split == "train" else plain.test_labels(entries)
        for batch in batches(labels, size) if labels else []:
            shown = [plain.item(one, triggers) for one in batch]
            asked = {"instruction": words, "schema": shown, "input": text}
            row = {"task": task, "source": "bench"}
            row["instruction"] = json.dumps(asked, ensure_ascii=False)
            if split == "train":
                row["output"] = plain.answer(batch, entries, text)
            else:
                row["id"] = hashlib.sha256(text.encode()).hexdigest()
                row["label"] = json.dumps(entries, ensure_ascii=False)
            rows.append(row)
    with open(target, "w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


# ------------------------------------------------------------------------------------- measuring


def commands(task: str, mode: str, source: Path, target: str, workers: int) -> list[Any]:
    """The command of the original (or of the plain loop), and ours."""
    schema, hard = str(source.with_name("schema.json")), str(source.with_name("hard.json"))
    flags = [hard if flag == "HARD" else flag for flag in MODES[mode]]
    shuffle, ratio = "--shuffle" in flags, "0.5" if mode == "half" else "1"
    size, split = str(SIZES.get(task, 4)), flags[1]
    ours = [sys.executable, "-m", "iepile_cli", "-q", "convert", str(source), "-o", target]
    ours += ["--task", task, "--lang", "en", "--split-num", size, "--workers", str(workers), *flags]
    ours += ["--schema", schema]
    if other(task, mode) == "plain":
        given = [task, split, str(source), target, schema, ratio, str(shuffle)]
        return [[sys.executable, __file__, "--plain", *given, hard if mode == "hard" else ""], ours]
    script = str(Path(UPSTREAM, "ie2instruction", "convert_func.py"))
    theirs = [sys.executable, script, "--src_path", str(source), "--tgt_path", target]
    theirs += ["--schema_path", schema, "--language", "en", "--task", task]
    theirs += ["--split_num", size, "--split", split, "--neg_schema", ratio]
    theirs += ["--random_sort"] if shuffle else []
    theirs += ["--cluster_mode", "--hard_negative_path", hard] if mode == "hard" else []
    return [theirs, ours]


def other(task: str, mode: str) -> str:
    """What the benchmark compares with."""
    fails = mode == "hard" and task in ("EE", "KG")
    return "upstream" if UPSTREAM and not fails else "plain"


def compare(task: str, mode: str, source: Path, target: str, options: argparse.Namespace) -> str:
    """Run both, turn about, on the records and on one of them; the table's row."""
    first = source.with_name("one").joinpath(source.name)
    first.parent.mkdir(exist_ok=True)
    with source.open() as file:
        first.write_text(next(line for line in file if '": []' not in line))
    for name in ("schema.json", "hard.json"):
        first.with_name(name).write_text(source.with_name(name).read_text())
    pair = commands(task, mode, source, target, options.workers)
    started = commands(task, mode, first, target, options.workers)
    # The fastest of the rounds counts; memory is watched in one of its own.
    runs = [
        [measured(one, [str(ROOT)]) for one in (*pair, *started)] for _ in range(options.rounds)
    ]
    walls = [min(run[at][0] for run in runs) for at in range(4)]
    cpu = [min(run[at][1] for run in runs) for at in range(4)]
    peaks = [measured(one, [str(ROOT)], memory=True).peak for one in pair]
    steady = [options.records / max(walls[at] - walls[at + 2], 1e-3) for at in (0, 1)]
    cells = [f"{wall:.2f}" for wall in walls[:2]]
    cells += [f"{walls[0] / walls[1]:.1f}", f"{steady[1] / steady[0]:.1f}"]
    cells += [f"{rate:,.0f}" for rate in steady]
    cells += [f"{one:.2f}" for one in cpu[:2]] + [f"{cpu[0] / cpu[1]:.1f}"]
    cells += [f"{one:.0f}" for one in peaks]
    return f"{task:5}{mode:10}{other(task, mode):10}" + "".join(f"{cell:>9}" for cell in cells)


def main() -> None:
    """Run both, turn about, and report the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = ["NER", "RE", "SPO", "EE", "EET", "EEA", "KG"]
    parser.add_argument("--tasks", nargs="+", default=every)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--types", type=int, default=18)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", nargs=8, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain_loop(*options.plain)
        return
    titles = ["wall", "ours", "ratio", "steady", "rec/s", "ours", "CPU", "ours", "ratio"]
    print(f"{'':25}" + "".join(f"{title:>9}" for title in (*titles, "MB", "ours")))
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder, "rows.jsonl"))
        for task in options.tasks:
            source = Path(folder, "bench", "train.json")
            source.parent.mkdir(exist_ok=True)
            write_records(source, task, options.records, options.types, options.words)
            for mode in options.modes:
                if task == "EEA" and mode == "hard":
                    continue
                print(compare(task, mode, source, target, options), flush=True)


if __name__ == "__main__":
    main()

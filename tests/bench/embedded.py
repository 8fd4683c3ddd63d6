"""What the embedded model's adapter answers: strict F1 on corpora, and sixty everyday sentences.

    python tests/bench/embedded.py scores CORPORA [--adapter A] [--texts 40] [--set NAME ...]
    python tests/bench/embedded.py everyday [--adapter A]

``CORPORA`` is the folder ``IE-en``, with ``--lang zh`` ``IE-zh``. Of each set so many records are
drawn from its test part, or its development part where it has none, and asked for all of the set's
types at once, with what ``extract`` does by default; ``eval`` scores them against the records. Both
print Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import iepile_cli as iepile

HERE = Path(__file__).parent
# set: what is known of it. "unseen": neither its texts nor most of its labels are trained on.
SETS = {
    "UNER-PUD-en": "news",
    "UNER-EWT": "news",
    "GUM-open": "other part trained on",
    "BTC": "other part trained on",
    "WNUT17": "other part trained on",
    "FewNERD-17": "other part trained on",
    "FewNERD-36": "other part trained on",
    "MultiCoNER2-en": "other part trained on",
    "STREUSLE": "other part trained on",
    "HWU-assistant": "other part trained on",
    "StackOverflowNER": "other part trained on",
    "snips": "other part trained on",
    "re3d": "other part trained on",
    "SOFC-Exp": "other part trained on",
    "Indian-legal": "unseen",
    "WIESP-sample": "unseen",
    "Materials-syntheses": "unseen",
    "ncbi": "unseen",
    "bc5cdr": "unseen",
    "bc2gm": "unseen",
    "BioNLP13CG": "unseen",
    "CRAFT": "unseen",
    "GENIA_NER": "unseen",
    "RE/FewRel": "unseen",
    "RE/KnowledgeNet": "other part trained on",
    "RE/FIRE": "other part trained on",
    "EE/PHEE": "unseen",
    "EE/GENEVA": "other part trained on",
}
CHINESE = {"UNER-GSDSIMP": "other part trained on", "UNER-PUD-zh": "unseen"}
LONGEST = 600  # characters of a text
EMPTY = 0.3  # this share of records without annotation is drawn from
# Of larger schemas the types that the sample has most often are asked.
MOST_TYPES = 40
PARTS = {
    "NER": ("entity", "entity_type"),
    "RE": ("relation", "relation"),
    "EE": ("event", "event_type"),
}


def drawn(
    folder: Path, key: str, texts: int, parts: Sequence[str] = ("test", "dev")
) -> list[dict[str, Any]]:
    """Records of a set, of the first of its parts that is there; the same for the same number."""
    path = next(path for part in parts if (path := folder / f"{part}.json").is_file())
    rng = random.Random(5)
    lines = path.read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines if line.strip()]
    records = [
        record
        for record in records
        if 20 < len(record["text"]) < LONGEST and (record.get(key) or rng.random() < EMPTY)
    ]
    rng.shuffle(records)
    return [{**record, "id": str(number)} for number, record in enumerate(records[:texts])]


def asked(folder: Path, key: str, label: str, records: list[dict[str, Any]]) -> list[Any]:
    """The schema to ask: all types of the set, or those that the records have most often."""
    lines = (folder / "schema.json").read_text("utf-8").splitlines()
    types = json.loads(lines[key == "relation"])
    counts = {name: 0 for name in types}
    for record in records:
        for item in record.get(key, ()):
            counts[item[label]] = counts.get(item[label], 0) + 1
    if len(types) > MOST_TYPES:
        types = sorted(counts, key=lambda name: -counts[name])[:MOST_TYPES]
    if key != "event":
        return types
    roles = json.loads(lines[2])
    return [
        {"event_type": name, "trigger": True, "arguments": roles.get(name, [])} for name in types
    ]


def score(model: Any, folder: Path, texts: int, scratch: Path) -> dict[str, Any]:
    """Strict scores of one set, as ``iepile eval`` gives them."""
    task = folder.parent.name
    key, label = PARTS[task]
    records = drawn(folder, key, texts)
    schema = iepile.read_schema({"task": task, "schema": asked(folder, key, label, records)})
    gold, predicted = scratch / "gold.jsonl", scratch / "predicted.jsonl"
    results = model.extract_all([record["text"] for record in records], schema)
    names = set(schema.names)
    write(gold, ({**r, key: [i for i in r.get(key, ()) if i[label] in names]} for r in records))
    write(
        predicted,
        (
            {**found.record, "id": record["id"]}
            for record, found in zip(records, results, strict=True)
        ),
    )
    return iepile.evaluate(predicted, gold=gold)


def write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def scores(arguments: argparse.Namespace) -> None:
    means: dict[str, list[float]] = {}
    print("| set | texts | P | R | F1 | 95 % |\n|---|---|---|---|---|---|")
    sets = CHINESE if arguments.lang == "zh" else SETS
    with opened(arguments) as model, tempfile.TemporaryDirectory() as scratch:
        for name, kind in sets.items():
            if arguments.set and name not in arguments.set:
                continue
            folder = Path(arguments.corpora) / (name if "/" in name else f"NER/{name}")
            report = score(model, folder, arguments.texts, Path(scratch))
            (task,) = report["tasks"].values()
            for unit, found in task["units"].items():
                micro = found["micro"]
                low, high = micro["interval_95"]["F1"]
                shown = name if len(task["units"]) == 1 else f"{name}, {unit}"
                row = " | ".join(f"{micro[value]:.1f}" for value in ("P", "R", "F1"))
                row = f"{task['documents']} | {row} | {low:.0f}-{high:.0f}"
                print(f"| {shown} ({kind}) | {row} |", flush=True)
                means.setdefault(f"{kind}, {unit}", []).append(micro["F1"])
    for kind, values in means.items():
        print(f"mean of {len(values)} sets, {kind}: {sum(values) / len(values):.1f}")


def opened(arguments: argparse.Namespace) -> iepile.Extractor:
    return iepile.load(adapter=arguments.adapter, language=arguments.lang)


def everyday(arguments: argparse.Namespace) -> None:
    """Print what is answered to the sentences of ``everyday.tsv``, or ``everyday-zh.tsv``."""
    name = "everyday-zh.tsv" if arguments.lang == "zh" else "everyday.tsv"
    print("| kind | asked | text | answer |\n|---|---|---|---|")
    with opened(arguments) as model:
        for line in (HERE / name).read_text("utf-8").splitlines():
            kind, schema, text = line.split("\t")
            task, _, names = schema.rpartition(": ")
            found = model.extract(text, names, task=task or None)
            answer = json.dumps(found.answer, ensure_ascii=False)
            print(f"| {kind} | {schema} | {text} | `{answer}` |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("scores")
    one.add_argument("corpora")
    one.add_argument("--texts", type=int, default=40)
    one.add_argument("--set", action="append")
    one.set_defaults(run=scores)
    other = commands.add_parser("everyday")
    other.set_defaults(run=everyday)
    for each in (one, other):
        each.add_argument("--adapter", action="append", default=[])
        each.add_argument("--lang", choices=("en", "zh"))
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()

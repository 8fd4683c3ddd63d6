"""What several readings of a text bring: recall, precision, strict F1 and time of each option.

    python tests/bench/readings.py CORPORA [--documents 16] [--model M] [--keep READINGS.json]

``CORPORA`` is the folder ``IE-en/NER``. Documents are runs of eight sentences of the development
parts; a mention is right when its type and words are in the document's gold annotation. Each
reading is made once; the options are then put together from them as ``extract`` does, with other
ways of merging beside. ``--keep`` stores the readings, or takes them from there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from iepile_cli.backends.opening import Opened, open_model
from iepile_cli.extraction import requests
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.pipeline import extract
from iepile_cli.extraction.readings import schema_orders
from iepile_cli.extraction.requests import ExtractOptions, SchemaInstructions
from iepile_cli.task import TASKS, SchemaItem

SETS = ("UNER-EWT", "WNUT17", "re3d")
SENTENCES = 8
ORDERS = 3
OF = SchemaInstructions.of
# A reading: of each document its mentions (type, start, words) with their scores; its seconds.
Mention = tuple[str, int, str]
Reading = tuple[list[dict[Mention, float]], float]


def documents(folder: Path, count: int) -> tuple[list[Document], list[set[tuple[str, str]]]]:
    """Runs of sentences that hold an entity somewhere, and their gold mentions."""
    lines = (folder / "dev.json").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines if line.strip()]
    runs = [records[at : at + SENTENCES] for at in range(0, len(records), SENTENCES)]
    runs = [run for run in runs if any(record["entity"] for record in run)]
    step = max(1, len(runs) // count)
    texts, gold = [], []
    for number, run in enumerate(runs[::step][:count]):
        texts.append(Document(folder.name, " ".join(r["text"] for r in run), line=number + 1))
        gold.append({(e["entity_type"], e["entity"]) for r in run for e in r["entity"]})
    return texts, gold


def with_context(self: SchemaInstructions, document: Document, language: str) -> Any:
    """Each passage put after the one before it, of which nothing may be mentioned."""
    before = ""
    for part in OF(self, document, language):
        asked = part.instruction
        longer = replace(asked, text=f"{before} {asked.text}".strip())
        before = asked.text
        yield replace(part, wording=longer.json)


def read(
    opened: Opened,
    texts: list[Document],
    schema: Any,
    first: float,
    *,
    instructions: Any = OF,
    **how: Any,
) -> Reading:
    """One reading with the schema as it is given, its first passage of ``first`` of the budget."""
    cut = requests.passages

    def elsewhere(*arguments: Any, **options: Any) -> Any:
        return cut(*arguments, **{**options, "first": first})

    options = ExtractOptions(min_score=0.0, all_occurrences=False, votes=1, **how).suiting(opened)
    started = time.monotonic()
    with (
        mock.patch.object(requests, "passages", elsewhere),
        mock.patch.object(SchemaInstructions, "of", instructions),
    ):
        results = extract(
            texts, opened.runner, opened.template, options, task=TASKS["NER"], schema=schema
        )
        found = [
            {
                (one.item.type, one.roles[0][1].start, one.roles[0][1].text): one.score or 0.0
                for one in result.items
            }
            for result in results
        ]
    return found, time.monotonic() - started


def readings(opened: Opened, folder: Path, texts: list[Document]) -> dict[str, Reading]:
    types = json.loads((folder / "schema.json").read_text("utf-8").splitlines()[0])
    orders = schema_orders([SchemaItem(name) for name in types], ORDERS)
    made = {f"order {n}": read(opened, texts, order, 0) for n, order in enumerate(orders)}
    made["shift"] = read(opened, texts, orders[0], 1 / 2)
    made["other"] = read(opened, texts, orders[1], 1 / 2)
    made["overlap"] = read(opened, texts, orders[0], 0, overlap=1)
    made["context"] = read(opened, texts, orders[0], 0, instructions=with_context)
    return made


def best(scores: list[float], count: int) -> float:
    return max(scores)


def mean(scores: list[float], count: int) -> float:
    return sum(scores) / count


def half(scores: list[float], count: int) -> float:
    return sum(scores) / count if 2 * len(scores) >= count else 0.0


def mean_of_half(scores: list[float], count: int) -> float:
    return sum(scores) / len(scores) if 2 * len(scores) >= count else 0.0


def merged(
    parts: list[Reading], merge: Callable[[list[float], int], float]
) -> tuple[list[dict[Mention, float]], float]:
    found = []
    for same in zip(*(mentions for mentions, _ in parts), strict=True):
        scores: dict[Mention, list[float]] = defaultdict(list)
        for mentions in same:
            for mention, score in mentions.items():
                scores[mention].append(score)
        found.append({key: merge(values, len(parts)) for key, values in scores.items()})
    return found, sum(seconds for _, seconds in parts)


def scored(
    found: list[dict[Mention, float]], gold: list[set[tuple[str, str]]], least: float
) -> Any:
    right = given = 0
    for mentions, wanted in zip(found, gold, strict=True):
        kept = {(kind, text) for (kind, _, text), score in mentions.items() if score >= least}
        right, given = right + len(kept & wanted), given + len(kept)
    total = sum(map(len, gold))
    precision, recall = right / max(1, given), right / max(1, total)
    return recall, precision, 2 * right / max(1, given + total)


def options_of(made: dict[str, Reading]) -> dict[str, Any]:
    orders = [made[f"order {n}"] for n in range(ORDERS)]
    shown = {
        "none": orders[0],
        "--overlap 1": made["overlap"],
        "the passage before as context": made["context"],
        "--passes 2": merged([orders[0], made["other"]], best),
        "passes 2 (same order)": merged([orders[0], made["shift"]], best),
    }
    for count, way in itertools.product((2, ORDERS), (half, mean_of_half, mean, best)):
        shown[f"--votes {count} ({way.__name__})"] = merged(orders[:count], way)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--model")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    kept: dict[str, Any] = {}
    if given.keep and given.keep.is_file():
        kept = json.loads(given.keep.read_text())
    opened = None
    rows: dict[str, list[Any]] = defaultdict(list)
    for name in SETS:
        texts, gold = documents(given.corpora / name, given.documents)
        if name not in kept:
            opened = opened or open_model(given.model)
            made = readings(opened, given.corpora / name, texts)
            kept[name] = {
                key: [[[*mention, score] for mention, score in one.items()] for one in found]
                + [seconds]
                for key, (found, seconds) in made.items()
            }
            if given.keep:
                given.keep.write_text(json.dumps(kept))
        made = {
            key: ([{(a, b, c): score for a, b, c, score in one} for one in value[:-1]], value[-1])
            for key, value in kept[name].items()
        }
        seconds = made["order 0"][1]
        for option, (found, took) in options_of(made).items():
            rows[option].append((*scored(found, gold, 0.25), took / seconds))
    print(f"| option | {' | '.join(SETS)} | mean: recall | precision | F1 | time |")
    print("|---" * (len(SETS) + 5) + "|")
    for option, cells in rows.items():
        means = [sum(column) / len(cells) for column in zip(*cells, strict=True)]
        each = " | ".join(f"{recall:.3f} / {f1:.3f}" for recall, _, f1, _ in cells)
        print(f"| {option} | {each} | " + " | ".join(f"{value:.3f}" for value in means) + " |")


if __name__ == "__main__":
    main()

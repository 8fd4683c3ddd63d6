"""What each signal of ``--hard-negatives auto`` is worth, on annotated entity corpora.

    python tests/bench/mining.py CORPUS [CORPUS ...]

A corpus is a folder with ``train.json``. Odd records teach a naive Bayes classifier which label a
mention has, from its words and its neighbours; on even records it confuses some. A row says which
share of these confusions is between a label and one of its three nearest, where nearness is a
signal alone, all that convert takes, all but one of these, or one more. ``names`` (words that the
labels' names share), ``overlap`` (mentions on the same words of a record) and ``cooccurrence``
(records that hold both) are signals that convert had once.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from iepile_cli.conversion import mining
from iepile_cli.task.records import read_annotations
from iepile_cli.task.table import task_named

NEAREST = 3
OLD = {"names": 0.5, "overlap": 0.6, "cooccurrence": 0.3}
ALL = (*mining.WEIGHTS, *OLD)
NOW = dict.fromkeys(mining.WEIGHTS).keys()
Pairs = Mapping[mining.Pair, Mapping[str, float]]
Example = tuple[str, list[str]]


def examples(records: list[dict[str, Any]]) -> Iterator[Example]:
    """The label of each mention, and its features."""
    for record in records:
        for entry in record["entity"]:
            yield entry["entity_type"], list(mining._words(record["text"], entry["entity"]))


def confusions(train: list[Example], test: list[Example]) -> Counter[mining.Pair]:
    """Which pairs of gold label and predicted label differ, and how often."""
    labels = Counter(label for label, _ in train)
    words: dict[str, Counter[str]] = {label: Counter() for label in labels}
    for label, features in train:
        words[label].update(features)
    size = len({word for some in words.values() for word in some})
    totals = {label: sum(some.values()) + size for label, some in words.items()}
    found: Counter[mining.Pair] = Counter()
    for label, features in test:

        def score(one: str, features: list[str] = features) -> float:
            own = sum(math.log((words[one][word] + 1) / totals[one]) for word in features)
            return math.log(labels[one]) + own

        best = max(labels, key=score)
        if best != label:
            found[label, best] += 1
    return found


def with_old_signals(pairs: Pairs, records: list[dict[str, Any]]) -> Pairs:
    """The signals of each pair, and the three that are gone."""
    overlap: Counter[mining.Pair] = Counter()
    both: Counter[mining.Pair] = Counter()
    count: Counter[str] = Counter()
    for record in records:
        present = sorted({entry["entity_type"] for entry in record["entity"]})
        count.update(present)
        both.update((one, other) for at, one in enumerate(present) for other in present[at + 1 :])
        held = [(entry["entity"], entry["entity_type"]) for entry in record["entity"]]
        overlap.update(
            {
                mining._pair(label, other)
                for at, (mention, label) in enumerate(held)
                for another, other in held[at + 1 :]
                if label != other and (mention in another or another in mention)
            }
        )

    def names(one: str, other: str) -> float:
        first, second = (set(mining._WORD.findall(name.lower())) for name in (one, other))
        return len(first & second) / max(len(first | second), 1)

    return {
        (one, other): {
            **signals,
            "names": names(one, other),
            "cooccurrence": max(0.0, both[one, other] - count[one] * count[other] / len(records))
            / (min(count[one], count[other]) + 2),
            "overlap": overlap[one, other] / (min(count[one], count[other]) + 2),
        }
        for (one, other), signals in pairs.items()
    }


def covered(
    found: Counter[mining.Pair], pairs: Pairs, labels: list[str], used: Callable[[str], bool]
) -> float:
    """The share of confusions that is between a label and one of its nearest."""
    weights = mining.WEIGHTS | OLD

    def nearness(one: str, other: str) -> float:
        rest = 1.0
        for signal, value in pairs.get(mining._pair(one, other), {}).items():
            if used(signal):
                rest *= 1 - weights[signal] * min(1.0, value)
        return 1 - rest

    hits = 0
    for label in labels:
        others = sorted(other for other in labels if other != label)
        near = sorted(others, key=lambda other, label=label: -nearness(label, other))[:NEAREST]
        hits += sum(found[label, other] for other in near if nearness(label, other) > 0)
    return hits / max(sum(found.values()), 1)


def main() -> None:
    task = task_named("NER")
    rows: dict[str, list[str]] = {}
    for name in sys.argv[1:]:
        lines = Path(name, "train.json").read_text(encoding="utf-8").splitlines()
        records = [record for line in lines if (record := json.loads(line)).get("entity")]
        odd, even = records[::2], records[1::2]
        survey = mining.Survey("NER")
        for record in odd:
            survey.add_gold(record["text"], read_annotations(task, record["entity"], []))
        labels = sorted(survey.holding)
        pairs = with_old_signals(mining.scores(survey, labels), odd)
        found = confusions(list(examples(odd)), list(examples(even)))
        chosen: dict[str, Callable[[str], bool]] = {
            **{
                f"{one} alone": lambda signal, one=one: signal == one
                for one in (*mining.WEIGHTS, *OLD)
            },
            **{
                f"without {one}": lambda signal, one=one: signal in NOW - {one}
                for one in mining.WEIGHTS
            },
            **{f"with {one}": lambda name, one=one: name in NOW | {one} for one in OLD},
            "all": lambda name: name in NOW,
        }
        chance = min(1.0, NEAREST / max(len(labels) - 1, 1))
        rows.setdefault("labels, confusions", []).append(f"{len(labels)}, {sum(found.values())}")
        rows.setdefault("chance", []).append(f"{chance:.0%}")
        for title, used in chosen.items():
            rows.setdefault(title, []).append(f"{covered(found, pairs, labels, used):.0%}")
    print(f"{'':22}" + "".join(f"{Path(name).name:>16}" for name in sys.argv[1:]))
    for title, cells in rows.items():
        print(f"{title:22}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()

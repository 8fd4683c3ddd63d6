"""A baseline without a model: what training rows list under a label is found again in test rows.

    python tests/bench/gazetteer.py train.jsonl [more.jsonl ...] --instructions test.jsonl > p.jsonl

A mention is taken where it stands between word boundaries; of overlapping ones the longest, and of
its labels the one that it had most often in training. A word that stood in a training text more
often outside of mentions than as one is left out. Score the rows with ``iepile eval``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

_WORD = re.compile(r"\w+|[^\w\s]")


def rows(path: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def learn(paths: list[str]) -> dict[str, Counter[str]]:
    """How often each mention (its words joined by spaces) had each label."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    texts: dict[str, int] = {}
    for path in paths:
        for row in rows(path):
            if row.get("task", "NER") != "NER":
                continue
            texts[json.loads(row["instruction"])["input"]] = 1
            for label, mentions in json.loads(row["output"]).items():
                for mention in mentions:
                    seen[" ".join(_WORD.findall(mention))][label] += 1
    spoken: Counter[str] = Counter()
    for text in texts:
        words = _WORD.findall(text)
        for size in range(1, 7):
            for start in range(len(words) - size + 1):
                phrase = " ".join(words[start : start + size])
                if phrase in seen:
                    spoken[phrase] += 1
    return {
        mention: labels
        for mention, labels in seen.items()
        if 2 * labels.total() >= spoken[mention] and re.search(r"\w", mention)
    }


def answer(known: dict[str, Counter[str]], instruction: str) -> dict[str, list[str]]:
    asked = json.loads(instruction)
    text = asked["input"]
    found: dict[str, list[str]] = {label: [] for label in asked["schema"]}
    words = list(_WORD.finditer(text))
    at = 0
    while at < len(words):
        for size in range(min(6, len(words) - at), 0, -1):
            labels = known.get(" ".join(word.group() for word in words[at : at + size]), Counter())
            fitting = [label for label, _ in labels.most_common() if label in found]
            if fitting:
                mention = text[words[at].start() : words[at + size - 1].end()]
                if mention not in found[fitting[0]]:
                    found[fitting[0]].append(mention)
                at += size - 1
                break
        at += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", nargs="+")
    parser.add_argument("--instructions", required=True)
    options = parser.parse_args()
    known = learn(options.train)
    for row in rows(options.instructions):
        output = json.dumps(answer(known, row["instruction"]), ensure_ascii=False)
        sys.stdout.write(json.dumps({**row, "output": output}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

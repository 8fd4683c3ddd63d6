"""Counts and upstream's numbers against plain loops that share no code with the package."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_rows import counts, scored, write

from iepile_cli.evaluation import EvalOptions, evaluate

WORDS = ["Ann", "Bob", "Rome", "an", "new York", "é中", 'q"q', "b\\s"]
TYPES = ["PER", "LOC", "ORG", "x y"]
ROLES = ["who", "where"]
MANY = 40


class Maker:
    """Random records of one task, gold and answers often alike, answers sometimes odd."""

    def __init__(self, task: str, seed: int) -> None:
        self.task = task
        self.dice = random.Random(f"{task} {seed}")

    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for number in range(MANY):
            gold = [self.gold() for _ in range(self.dice.randint(0, 5))]
            gold = list({json.dumps(one): one for one in gold}.values())
            name, source = f"d{self.dice.randint(0, MANY)}", self.dice.choice(["s", "t"])
            for batch in (TYPES[:2], TYPES[2:]):
                asked = {"instruction": "i", "schema": self.schema(batch), "input": f"t{number}"}
                record = {
                    "id": name,
                    "source": source,
                    "task": self.task,
                    "instruction": json.dumps(asked),
                    "label": json.dumps(gold),
                    "output": self.output(gold, batch),
                }
                rows.append(dict(self.dice.sample(sorted(record.items()), len(record))))
        if self.dice.random() < 0.5:
            self.dice.shuffle(rows)
        return rows

    def schema(self, batch: list[str]) -> list[Any]:
        if self.task in ("EE", "EEA"):
            return [{"event_type": kind, "trigger": True, "arguments": ROLES} for kind in batch]
        return batch

    def word(self) -> str:
        return self.dice.choice(WORDS)

    def gold(self) -> dict[str, Any]:
        kind = self.dice.choice(TYPES)
        if self.task == "NER":
            return {"entity": self.word(), "entity_type": kind}
        if self.task == "RE":
            return {"head": self.word(), "relation": kind, "tail": self.word()}
        event: dict[str, Any] = {"event_type": kind, "event_trigger": self.word()}
        if self.task != "EET":
            roles = self.dice.sample(
                [(w, r) for w in WORDS for r in ROLES], self.dice.randint(1, 3)
            )
            event["arguments"] = [{"argument": word, "role": role} for word, role in roles]
        return event

    def output(self, gold: list[dict[str, Any]], batch: list[str]) -> Any:
        answer: dict[str, Any] = {kind: [] for kind in batch}
        for entry in gold:
            entry = entry if self.dice.random() < 0.7 else self.gold()
            kind = next(
                entry[key] for key in ("entity_type", "relation", "event_type") if key in entry
            )
            if kind in answer or self.dice.random() < 0.1:
                answer.setdefault(kind, []).append(self.thing(entry))
        if self.dice.random() < 0.1:
            answer[self.dice.choice(TYPES)] = self.odd()
        text = json.dumps(answer)
        return self.dice.choice([text] * 12 + [text[:-1], f"{text} x", "", "null", "[]", "{}"])

    def odd(self) -> Any:
        return self.dice.choice([None, 3, "Ann", {}, [[]], ["Ann", 3, None], [{"a": []}], [{}]])

    def thing(self, entry: dict[str, Any]) -> Any:
        if self.task == "NER":
            return entry["entity"]
        if self.task == "RE":
            both = {"subject": entry["head"], "object": entry["tail"]}
            both = self.dice.choice([both] * 8 + [{"subject": entry["head"]}, {"object": 5}])
            return both
        if self.task == "EET":
            return entry["event_trigger"]
        roles: dict[str, Any] = {}
        for part in entry["arguments"]:
            roles.setdefault(part["role"], []).append(part["argument"])
        roles = {role: texts if len(texts) > 1 else texts[0] for role, texts in roles.items()}
        for role in ROLES:
            roles.setdefault(role, "NAN")
        if self.dice.random() < 0.1:
            roles[self.dice.choice(ROLES)] = self.dice.choice(
                [7, ["Ann", "NAN"], "Zoe", ["Bob"] * 2]
            )
        if self.task == "EEA":
            return roles
        event = {"trigger": entry["event_trigger"], "arguments": roles}
        return self.dice.choice([event] * 9 + [{"trigger": 4, "arguments": roles}])


def gold_facts(task: str, gold: list[dict[str, Any]]) -> list[list[tuple[Any, ...]]]:
    if task == "NER":
        return [[(entry["entity_type"], entry["entity"]) for entry in gold]]
    if task == "RE":
        return [[(entry["relation"], entry["head"], entry["tail"]) for entry in gold]]
    if task == "EET":
        return [[(entry["event_type"], entry["event_trigger"]) for entry in gold]]
    named = task == "EE"
    return [
        [(entry["event_type"], *([entry["event_trigger"]] if named else [])) for entry in gold],
        [
            (entry["event_type"], part["role"], part["argument"])
            for entry in gold
            for part in entry["arguments"]
        ],
    ]


def answer_facts(task: str, answer: dict[str, Any]) -> list[list[tuple[Any, ...]]]:
    facts: list[list[tuple[Any, ...]]] = [[], []] if task in ("EE", "EEA") else [[]]
    for kind, things in answer.items():
        for thing in things if isinstance(things, list) else []:
            if task in ("NER", "EET"):
                if isinstance(thing, str):
                    facts[0].append((kind, thing))
            elif not isinstance(thing, dict):
                continue
            elif task == "RE":
                ends = thing.get("subject", ""), thing.get("object", "")
                if all(isinstance(end, str) for end in ends):
                    facts[0].append((kind, *ends))
            else:
                trigger = thing.get("trigger", "")
                if task == "EE" and not isinstance(trigger, str):
                    continue
                facts[0].append((kind, trigger) if task == "EE" else (kind,))
                roles = thing.get("arguments", {}) if task == "EE" else thing
                facts[1] += [(kind, role, text) for role, text in told(roles)]
    return facts


def told(roles: Any) -> Iterator[tuple[str, Any]]:
    for role, texts in roles.items() if isinstance(roles, dict) else ():
        for text in texts if isinstance(texts, list) else [texts]:
            if text not in ("NAN", "", None) and not isinstance(text, (dict, list)):
                yield role, text


def decoded(output: str) -> dict[str, Any] | None:
    try:
        value = json.loads(output)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def expected(
    task: str, rows: list[dict[str, Any]], match: str, *, merged: bool
) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Documents, malformed answers, and gold, predicted and right of each unit.

    ``merged``: as upstream has it, one sample for each source and id, with its first label.
    """
    documents: dict[Any, tuple[str, list[str]]] = {}
    times: Counter[Any] = Counter()
    for row in rows:
        key: Any = row["source"] + row["id"]
        if not merged:
            same = (row["source"], row["id"], row["label"])
            batch = (same, json.dumps(json.loads(row["instruction"])["schema"]))
            times[batch] += 1
            key = same, times[batch]
        documents.setdefault(key, (row["label"], []))[1].append(row["output"])
    units = [[0, 0, 0] for _ in answer_facts(task, {})]
    malformed = 0
    for label, outputs in documents.values():
        gold = gold_facts(task, json.loads(label))
        predicted = answer_facts(task, {})
        for output in outputs:
            answer = decoded(output)
            malformed += answer is None
            for into, new in zip(predicted, answer_facts(task, answer or {}), strict=True):
                into += new
        for unit, mine, theirs in zip(units, gold, predicted, strict=True):
            one, other = Counter(mine), Counter(theirs)
            if match == "set":
                one, other = Counter(set(mine)), Counter(set(theirs))
            unit[0] += one.total()
            unit[1] += other.total()
            unit[2] += (one & other).total()
    return len(documents), malformed, [(gold, found, right) for gold, found, right in units]


@pytest.mark.parametrize("match", ["multiset", "set"])
@pytest.mark.parametrize("task", ["NER", "RE", "EET", "EE", "EEA"])
def test_counts(task: str, match: str, tmp_path: Path) -> None:
    for seed in range(4):
        rows = Maker(task, seed).rows()
        documents, malformed, units = expected(task, rows, match, merged=False)
        scores = scored(write(tmp_path / "p.jsonl", rows), match=match)
        assert (scores.documents, scores.rows["malformed"]) == (documents, malformed), seed
        assert [counts(scores, unit) for unit in range(len(units))] == units, seed


@pytest.mark.parametrize("match", ["multiset", "set"])
@pytest.mark.parametrize("task", ["NER", "RE", "EET", "EE", "EEA"])
def test_upstream_numbers(task: str, match: str, tmp_path: Path) -> None:
    for seed in range(4, 8):
        rows = Maker(task, seed).rows()
        documents, malformed, units = expected(task, rows, match, merged=True)
        path = write(tmp_path / "p.jsonl", rows)
        with evaluate(path, EvalOptions(literal=True, match=match, resamples=0)) as evaluation:
            total = evaluation.upstream()["total"]
        numbers: list[float] = [documents, malformed]
        for gold, found, right in units:
            precision = round(100 * right / found, 2) if found else 0
            recall = round(100 * right / gold, 2) if gold else 0
            both = precision + recall
            f1 = round(2 * precision * recall / both, 2) if both else 0
            numbers += [precision, recall, f1]
        assert list(total.values()) == numbers, seed

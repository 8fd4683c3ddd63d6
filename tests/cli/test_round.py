"""Once round: convert, answer, score, mine the confusions, convert again with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.cli.app import run

TEXTS = {
    "Ann met Bob in Rome.": [("Ann", "person"), ("Bob", "person"), ("Rome", "city")],
    "Oslo is in Norway.": [("Oslo", "city"), ("Norway", "country")],
    "Nothing here.": [],
}
TYPES = ["person", "city", "country", "vehicle", "work"]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "IE-en" / "NER" / "made"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        records = [
            {"text": text, "entity": [{"entity": it, "entity_type": kind} for it, kind in gold]}
            for text, gold in TEXTS.items()
        ]
        (folder / f"{split}.json").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "schema.json").write_text(f"{json.dumps(TYPES)}\n[]\n{{}}\n")
    monkeypatch.chdir(tmp_path)
    return folder


def answered(row: dict[str, Any]) -> dict[str, Any]:
    """A record with the answer of a model that takes cities for countries and invents a car."""
    asked = json.loads(row["instruction"])
    answer: dict[str, list[str]] = {kind: [] for kind in asked["schema"]}
    for entity in json.loads(row["label"]):
        kind = {"city": "country"}.get(entity["entity_type"], entity["entity_type"])
        if kind in answer:
            answer[kind].append(entity["entity"])
    if "vehicle" in answer and asked["input"] == "Nothing here.":
        answer["vehicle"].append("Volvo")
    return {**row, "output": json.dumps(answer)}


def test_once_round(corpus: Path, tmp_path: Path) -> None:
    assert run(["convert", str(corpus / "test.json"), "--split-num", "3", "-o", "test.jsonl"]) == 0
    rows = [json.loads(line) for line in Path("test.jsonl").read_text().splitlines()]
    # Five types in batches of three: 3 + 2.
    assert len(rows) == 2 * len(TEXTS)
    lines = [json.dumps(answered(row)) for row in rows]
    Path("pred.jsonl").write_text("\n".join(lines) + "\n")
    score = ["eval", "pred.jsonl", "--json", "scores.json", "--confusions", "mixed.json"]
    assert run([*score, "--fail-under", "50"]) == 0
    assert run([*score, "--fail-under", "60"]) == 1
    unit = json.loads(Path("scores.json").read_text())["tasks"]["NER"]["units"]["entity"]
    micro = unit["micro"]
    counts = [micro[key] for key in ("gold", "predicted", "correct", "hallucinated")]
    assert counts == [5, 6, 3, 1]
    assert (micro["P"], micro["R"], micro["F1"]) == (50, 60, 54.55)

    again = ["convert", str(corpus / "train.json"), "--hard-negatives", "mixed.json"]
    assert run([*again, "--neg-ratio", "0", "-o", "train.jsonl"]) == 0
    asked = {
        row["input"]: set(row["schema"])
        for row in (
            json.loads(json.loads(line)["instruction"])
            for line in Path("train.jsonl").read_text().splitlines()
        )
    }
    # Wherever a city is, the country that it was taken for is asked too.
    assert {"person", "city", "country"} <= asked["Ann met Bob in Rome."]

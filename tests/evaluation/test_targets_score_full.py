"""X07: what a model is trained to answer scores 100 when it is the prediction, for every task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_rows import scored, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iepile_cli.task.instruction import answer_json, dumps, instruction_json
from iepile_cli.task.records import distinct, read_annotations
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS, Task

WORDS = st.text("abcxyz é中\"\\'{}[]:,\n", min_size=1, max_size=6).filter(
    lambda word: word != "NAN"
)
KINDS = st.sampled_from(["A", "B b", "类型", 'q"q'])
ROLES = ("agent", "place")


@st.composite
def entries(draw: Any, task: Task) -> list[dict[str, Any]]:
    """Annotations of a task, in the layout of its row."""
    layout = task.layout
    found = []
    for _ in range(draw(st.integers(0, 4))):
        entry = {layout.type: draw(KINDS)}
        for _, key in layout.roles:
            entry[key] = draw(WORDS)
        for key in filter(None, (layout.subject_type, layout.object_type)):
            entry[key] = draw(KINDS)
        if layout.slot_list:
            entry[layout.slot_list] = [
                {layout.slot_role: draw(st.sampled_from(ROLES)), layout.slot_text: draw(WORDS)}
                for _ in range(draw(st.integers(0, 3)))
            ]
        elif layout.slot_role:
            entry[layout.slot_role] = draw(st.sampled_from(ROLES))
            entry[layout.slot_text] = draw(WORDS)
        found.append(entry)
    return found


def converted(task: Task, annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Test records, one for each type that is asked, with the training target as the answer."""
    things = distinct(read_annotations(task, annotations, []))
    items = dict.fromkeys(
        SchemaItem(
            thing.type,
            slots=ROLES if task.slots else (),
            subject_type=thing.subject_type,
            object_type=thing.object_type,
        )
        for thing in things
    )
    items.setdefault(SchemaItem("never there", slots=ROLES if task.slots else ()))
    rows = []
    for item in items:
        mine = [thing.roles for thing in things if thing.answers(item)]
        answer = answer_json(task, [(item, mine)], "some text")
        rows.append(
            {
                "id": "1",
                "task": task.name,
                "source": "s",
                "instruction": instruction_json(task, [item], "some text", "en"),
                "label": dumps(annotations),
                "output": dumps(answer),
            }
        )
    return rows


@pytest.mark.parametrize("match", ["multiset", "set"])
@pytest.mark.parametrize("name", TASKS)
def test_targets_score_full(name: str, match: str, tmp_path: Path) -> None:
    task = TASKS[name]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(entries(task))
    def check(annotations: list[dict[str, Any]]) -> None:
        # The converter leaves exact repetitions out of the label.
        unique = list({json.dumps(one, sort_keys=True): one for one in annotations}.values())
        if not task.layout.slot_list:
            things = read_annotations(task, unique, [])
            unique = unique if len(distinct(things)) == len(things) else unique[:1]
        scores = scored(write(tmp_path / "p.jsonl", converted(task, unique)), match=match)
        for unit in scores.units:
            micro = unit.micro
            assert micro.gold == micro.predicted == micro.true_predicted, (unit.name, unique)
        assert scores.rows["malformed"] == 0

    check()


def test_published_examples_score_full(shared: Path, tmp_path: Path) -> None:
    """Annotated corpora, asked for with their own schema."""
    for folder in ("IE-en/NER/wikigold", "IE-en/RE/re3d", "IE-en/EE/PHEE", "IE-zh/EE/fewfc_base"):
        task = TASKS[folder.split("/")[1]]
        schema = (shared / "data" / folder / "schema.json").read_text(encoding="utf-8").split("\n")
        types, roles, slots = (json.loads(line) for line in schema[:3])
        kinds = roles if task.layout.type == "relation" else types
        items = [SchemaItem(kind, slots=tuple(slots.get(kind, ()))) for kind in kinds]
        rows = []
        with (shared / "data" / folder / "test.json").open(encoding="utf-8") as file:
            for number, line in zip(range(150), file, strict=False):
                record = json.loads(line)
                annotations = record[task.layout.field]
                things = distinct(read_annotations(task, annotations, []))
                if len(things) < len(annotations):
                    continue
                answer = answer_json(
                    task,
                    [(i, [t.roles for t in things if t.answers(i)]) for i in items],
                    record["text"],
                )
                rows.append(
                    {
                        "id": str(number),
                        "task": task.name,
                        "source": folder,
                        "instruction": instruction_json(task, items, record["text"], "en"),
                        "label": dumps(annotations),
                        "output": dumps(answer),
                    }
                )
        scores = scored(write(tmp_path / "p.jsonl", rows))
        assert scores.documents == len(rows) > 50
        for unit in scores.units:
            assert (unit.micro.f1, unit.micro.hallucinated) == (100, 0), folder
            assert unit.micro.gold > 0

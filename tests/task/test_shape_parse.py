"""Reading answers: what is left out."""

from __future__ import annotations

import pytest

from iepile_cli.task import TASKS, SchemaItem, parse_answer
from iepile_cli.task.shape import FIXED, slot_name, slot_role


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("KG", {"person": {"Bob": {"born": "NAN", "job": ["NAN", "baker"]}}}),
        ("EE", {"person": [{"trigger": "NAN", "arguments": {"born": "NAN", "job": "baker"}}]}),
        ("EEA", {"person": [{"born": "NAN", "job": ["baker", "NAN"]}]}),
    ],
)
def test_the_word_for_none_is_no_filler(task: str, answer: dict[str, object]) -> None:
    item = SchemaItem("person", ("born", "job"))
    problems: list[str] = []
    ((_, found),) = parse_answer(TASKS[task], [item], answer, problems)
    assert problems == []
    (roles,) = found
    assert [pair for pair in roles if pair[0] != "entity"] == [("job", "baker")]


@pytest.mark.parametrize("slot", ["trigger", "trigger*", "subject**", "agent", "agent*", "*"])
def test_a_slot_is_told_from_a_fixed_role_of_its_name(slot: str) -> None:
    assert slot_role(slot) not in FIXED
    assert slot_name(slot_role(slot)) == slot
    assert (slot_role(slot) == slot) == (slot.rstrip("*") not in FIXED)

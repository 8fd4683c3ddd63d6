"""Reading answers: what is left out."""

from __future__ import annotations

import pytest

from iepile_cli.task import TASKS, SchemaItem, parse_answer


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

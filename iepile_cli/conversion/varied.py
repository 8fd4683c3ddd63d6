"""Records into training rows, each record after one of the readings of its annotation."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from iepile_cli.conversion.choosing import dice_for
from iepile_cli.conversion.converter import Converter, Report, Rows
from iepile_cli.conversion.plan import Plan
from iepile_cli.conversion.readings import READINGS, Reading, Readings, draw


class VariedConverter:
    """Does what ``Converter`` does, with the names that a reading gives to labels.

    Readings come from the plan's seed, and which one a record gets from its place in its file.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.readings = plan.readings or Readings()
        self.labels = tuple(dict.fromkeys(item.type for item in plan.items))
        self._made: dict[int, tuple[Reading, Converter | None]] = {}

    def convert(self, record: Any, number: int, report: Report) -> Rows:
        """The rows of one decoded record, as ``Converter.convert``; none if nothing is asked."""
        which = dice_for(self.plan.seed ^ READINGS, number).randrange(READINGS)
        if which not in self._made:
            self._made[which] = self._make(which)
        reading, converter = self._made[which]
        if converter is None:
            return [], []
        if isinstance(record, dict) and converter.field in record:
            entries = reading.entries(record[converter.field], converter.task.layout)
            record = {**record, converter.field: entries}
        return converter.convert(record, number, report)

    def _make(self, which: int) -> tuple[Reading, Converter | None]:
        plan = self.plan
        reading = draw(self.readings, self.labels, random.Random(f"{plan.seed}/{which}"))
        items = reading.items(plan.items)
        read = replace(
            plan,
            items=items,
            readings=None,
            hard=reading.hard(plan.hard),
            split_num=reading.split_num if plan.split_num is None else plan.split_num,
        )
        return reading, Converter(read) if items else None

"""The common document, scored in one go: a type with its mentions, strict matching, few facts.

Says exactly what ``Reader.label``, ``score`` and ``Tally.add`` say one after the other, in half
the time, and leaves to them every document that is out of the ordinary.
"""

from __future__ import annotations

from typing import TypeAlias

from iepile_cli.evaluation.document import Document
from iepile_cli.evaluation.matching import FEW, FULL
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.tally import CELL, Place, Tally

# One cell of a tally: document, label, and the five counts.
_GOLD, _PREDICTED, _FOUND, _RIGHT, _INVENTED = range(2, CELL)

# A document that has been read, where it goes, and the bytes [first, end) that it was read from.
Read: TypeAlias = tuple[Document, Place, int, int]


def is_plain(plan: Plan) -> bool:
    """Whether a plan scores documents as they stand, fact by fact."""
    return (
        plan.mode == "strict"
        and plan.match == "multiset"
        and not plan.asked_only
        and not plan.confusions
    )


def close_plain(document: Document, place: Place, first: int, end: int, tally: Tally) -> bool:
    """Score a document of a plan that ``is_plain``; False, and nothing done, if it is not usual."""
    reader, text = document.reader, document.text
    _, _, name, label = document.key
    if label is None or reader.unusual or reader.plain_gold is None:
        return False
    gold = reader.plain_gold(label)
    if gold is None or len(gold) > FEW:
        return False
    number = tally.begin(place, name, first, end)
    numbers = place.labels[0]
    cells: dict[str, list[int]] = {}
    for fact in gold:
        kind = fact[0]
        if kind in cells:
            cells[kind][_GOLD] += 1
        else:
            cells[kind] = [number, numbers[kind], 1, 0, 0, 0, 0]
    for fact in document.predicted[0]:
        kind = fact[0]
        if kind in cells:
            cell = cells[kind]
            cell[_PREDICTED] += 1
            if fact in gold:
                gold.remove(fact)
                cell[_FOUND] += FULL
                cell[_RIGHT] += FULL
        else:
            cell = cells[kind] = [number, numbers[kind], 0, 1, 0, 0, 0]
        # Usual facts hold strings only.
        if text is not None and (
            fact[1] not in text or (len(fact) > 2 and any(m not in text for m in fact[2:]))
        ):
            cell[_INVENTED] += 1
    tally.put(cells.values())
    return True

"""The common document, scored in one go: a type with its mentions, strict matching, few facts.

Says exactly what ``Reader.label``, ``score`` and ``Tally.add`` say one after the other, in half
the time, and leaves to them every document that is out of the ordinary.
"""

from __future__ import annotations

from iepile_cli.evaluation.document import Document
from iepile_cli.evaluation.matching import FEW, FULL
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.tally import Tally

# One cell of a tally: document, label, and the five counts.
_PREDICTED, _FOUND, _RIGHT, _INVENTED = 3, 4, 5, 6


def is_plain(plan: Plan) -> bool:
    """Whether a plan scores documents as they stand, fact by fact."""
    return (
        plan.mode == "strict"
        and plan.match == "multiset"
        and not plan.asked_only
        and not plan.confusions
    )


def close_plain(document: Document, tally: Tally, span: tuple[int, int]) -> bool:
    """Score a document of a plan that ``is_plain``; False, and nothing done, if it is not usual."""
    reader = document.reader
    label = document.key[3]
    if label is None or reader.unusual or reader.plain_gold is None:
        return False
    gold = reader.plain_gold(label)
    if gold is None or len(gold) > FEW:
        return False
    number, (numbers, *_) = tally.begin(document.key, 1, span)
    cells: dict[str, list[int]] = {}
    for fact in gold:
        kind = fact[0]
        if kind in cells:
            cells[kind][2] += 1
        else:
            cells[kind] = [number, numbers[kind], 1, 0, 0, 0, 0]
    text = document.text
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
        if text is not None and (
            fact[-1] not in text or (len(fact) > 2 and any(name not in text for name in fact[1:]))
        ):
            cell[_INVENTED] += 1
    tally.put(cells.values())
    return True

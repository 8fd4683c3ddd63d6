"""The common document, scored in one go: a type with its mentions, strict matching, few facts.

Says exactly what ``Reader.label``, ``score`` and ``Sheet.add`` say one after the other, in half
the time, and leaves to them every document that is out of the ordinary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import orjson

from iepile_cli.evaluation.facts import Facts, Reader
from iepile_cli.evaluation.matching import FEW
from iepile_cli.evaluation.plan import Plan
from iepile_cli.evaluation.sheet import MOST_FACTS, WAITING, Place, Sheet

# Scores a document, given where it goes, its id and label, the head of its instruction, this
# itself, what was predicted, and the bytes [first, end); False, and nothing done, if it is not
# usual.
Close: TypeAlias = Callable[[Place, str, str, str, str, Facts, int, int], bool]

_CARE = (ValueError, KeyError, TypeError, IndexError)


def is_plain(plan: Plan) -> bool:
    """Whether a plan scores documents as they stand, fact by fact."""
    return (
        plan.mode == "strict"
        and plan.match == "multiset"
        and not plan.asked_only
        and not plan.confusions
    )


def plain_closer(reader: Reader, sheet: Sheet) -> Close | None:
    """What scores documents of a plan that ``is_plain`` and writes them down on a sheet.

    None for a task whose documents always take care.
    """
    pick = reader.pick
    if pick is None or reader.unusual:
        return None
    # Made once, it has all this at hand for each document.
    loads, facts, names, documents = orjson.loads, sheet.facts, sheet.names, sheet.documents
    put = facts.append

    def close(
        place: Place,
        name: str,
        label: str,
        head: str,
        instruction: str,
        found: Facts,
        first: int,
        end: int,
    ) -> bool:
        begin = len(facts)
        group, _, (golds, right, wrong, invented_right, invented_wrong), _ = place
        (predicted,) = found
        try:
            if label == "[]":
                gold = []
            else:
                entries = loads(label)
                gold = list(map(pick, entries))
                for fact in gold:
                    # Joining is the quickest way to find what is not a string.
                    "".join(fact)
                    if "" in fact:
                        raise ValueError
                    put(golds[fact[0]])
                if len(gold) > FEW or type(entries) is not list:
                    raise ValueError
            if predicted:
                text = instruction[len(head) : -2]
                if (
                    "\\" in text
                    or '"' in text
                    or not instruction.endswith('"}')
                    or len(predicted) > MOST_FACTS
                ):
                    raise ValueError
                for fact in predicted:
                    # Usual facts hold strings only.
                    there = fact[1] in text and (len(fact) == 2 or all(m in text for m in fact[2:]))
                    if fact in gold:
                        gold.remove(fact)
                        put(right[fact[0]] if there else invented_right[fact[0]])
                    else:
                        put(wrong[fact[0]] if there else invented_wrong[fact[0]])
        except _CARE:
            del facts[begin:]
            return False
        names.append(name)
        documents.extend((group, first, end, sheet.done + len(facts)))
        if len(facts) > WAITING:
            sheet.flush()
        return True

    return close

"""One document's score: its gold and predicted facts, compared.

Goes in: the facts of a text's gold label and of the answers of all its schema batches. Comes out:
for each unit and type how many are gold, predicted, credited (in halves) and hallucinated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from iepile_cli.evaluation.asking import Batch
from iepile_cli.evaluation.facts import Fact, Facts, Reader
from iepile_cli.evaluation.matching import (
    FEW,
    FULL,
    Pair,
    align,
    confused,
    strict_hits,
)
from iepile_cli.evaluation.plan import Plan

# Of one type: gold facts, predicted facts, credit for the gold ones and for the predicted ones (in
# halves; they differ only where labels may differ), predicted facts with an invented mention.
Counts: TypeAlias = list[int]
GOLD, PREDICTED, FOUND, RIGHT, INVENTED = range(5)


# What makes rows one document: task, source, id and the gold label as it stands in the row.
Key: TypeAlias = tuple[str, str, str, str | None]


class Document:
    """A text with its gold facts and everything that was predicted for it.

    ``gold`` is None until the label has been read, and when there is none; ``optional`` is gold
    that need not be answered. ``batches`` are the schema batches asked so far, ``broken`` the
    answers that could not be read. Where mentions are offsets, ``surfaces`` has their text.
    """

    # Most documents have none of these.
    optional: Sequence[Fact] = ()
    broken: Sequence[str] = ()
    surfaces: Mapping[tuple[int, int], str] = MappingProxyType({})
    gold: Facts | None = None

    def __init__(self, key: Key, reader: Reader, text: str | None) -> None:
        self.key = key
        self.reader = reader
        self.text = text
        self.predicted: Facts = reader.empty()
        self.batches: dict[int, Batch] = {}


def settle(document: Document, plan: Plan) -> None:
    """Bring both sides into comparable form: typed relations, asked labels, keys that repeat."""
    reader = document.reader
    if document.gold is None or not (
        reader.unusual
        or document.optional
        or plan.match == "set"
        or (plan.asked_only and document.batches)
    ):
        return
    gold, predicted = document.gold, document.predicted
    for fact in document.optional:
        if predicted[0].count(fact) > gold[0].count(fact):
            gold[0].append(fact)
    for number in range(len(reader.task.units)):
        if reader.typed[number]:
            predicted[number] = _with_ends(gold[number], predicted[number])
        if reader.distinct[number] and any(not fact[0] for fact in gold[number]):
            # Gold that does not say the type of its entities cannot be held against an answer.
            gold[number], predicted[number] = [], []
        if reader.distinct[number] or plan.match == "set":
            gold[number] = list(dict.fromkeys(gold[number]))
            predicted[number] = list(dict.fromkeys(predicted[number]))
        if plan.asked_only and document.batches:
            gold[number] = _asked_gold(gold[number], number, document)


def _asked_gold(gold: list[Fact], number: int, document: Document) -> list[Fact]:
    batches = document.batches.values()
    asked = frozenset().union(*(batch.labels[number] for batch in batches))
    if document.reader.typed[number]:
        # Gold that does not say the types of its ends goes with every relation of its name.
        asked |= {(kind, "", "") for batch in batches for kind in batch.ends}
    labels = len(document.reader.task.units[number].label)
    return [fact for fact in gold if fact[:labels] in asked]


def _with_ends(gold: list[Fact], predicted: list[Fact]) -> list[Fact]:
    """Decide the types of both ends where a prediction leaves them open.

    An answer says the predicate only. Where several typed relations asked at once share it, or it
    is not known which were asked, an answer counts for any that is gold and not yet answered.
    """
    left = Counter(gold)
    found: list[Fact] = []
    for fact in predicted:
        if type(fact[1]) is tuple:
            kind, pairs, _, *mentions = fact
            candidates = [(kind, *pair, *mentions) for pair in (*pairs, ("", ""))]
            if not pairs:
                candidates += [f for f in left if f[0] == kind and list(f[3:]) == mentions]
            fact = next((one for one in candidates if left[one] > 0), candidates[0])
        elif not left[fact] and left[untyped := (fact[0], "", "", *fact[3:])] > 0:
            # Gold without types is met by any types.
            fact = untyped
        left[fact] -= 1
        found.append(fact)
    return found


def score(document: Document, plan: Plan) -> list[dict[str, Counts]]:
    """For each unit of the task, the counts of each type; ``settle`` comes first."""
    scored: list[dict[str, Counts]] = []
    for number, labels in enumerate(document.reader.labels):
        gold = document.gold[number] if document.gold else []
        predicted = document.predicted[number]
        if plan.mode == "strict":
            scored.append(_strict(gold, predicted, labels, document.text))
            continue
        counts = _tallied(gold, predicted, labels, document.text)
        if gold and predicted:
            for one, other, credit in align(gold, predicted, labels, plan.mode, document.text):
                if one is not None and other is not None:
                    counts[one[0]][FOUND] += credit
                    counts[other[0]][RIGHT] += credit
        scored.append(counts)
    return scored


def _strict(
    gold: list[Fact], predicted: list[Fact], labels: int, text: str | None
) -> dict[str, Counts]:
    """Counts of each type with full credit for what is the same, each gold fact used once."""
    if len(gold) > FEW or not predicted:
        counts = _tallied(gold, predicted, labels, text)
        for fact in strict_hits(gold, predicted):
            entry = counts[fact[0]]
            entry[FOUND] += FULL
            entry[RIGHT] += FULL
        return counts
    # The usual few facts, each looked at once.
    counts = _tallied(gold, (), labels, None)
    left = gold.copy()
    for fact in predicted:
        kind = fact[0]
        if kind in counts:
            entry = counts[kind]
            entry[PREDICTED] += 1
            if fact in left:
                left.remove(fact)
                entry[FOUND] += FULL
                entry[RIGHT] += FULL
        else:
            entry = counts[kind] = [0, 1, 0, 0, 0]
        if text is not None and _invented(fact, labels, text):
            entry[INVENTED] += 1
    return counts


def _invented(fact: Fact, labels: int, text: str) -> bool:
    """Whether a mention of the fact is not in the text."""
    if len(fact) == 2 and labels == 1:
        return type(fact[1]) is str and fact[1] not in text
    return any(type(mention) is str and mention not in text for mention in fact[labels:])


def _tallied(
    gold: Iterable[Fact], predicted: Iterable[Fact], labels: int, text: str | None
) -> dict[str, Counts]:
    """Gold, predicted and invented facts of each type, without any credit yet."""
    counts: dict[str, Counts] = {}
    for fact in gold:
        if fact[0] in counts:
            counts[fact[0]][GOLD] += 1
        else:
            counts[fact[0]] = [1, 0, 0, 0, 0]
    for fact in predicted:
        if fact[0] in counts:
            entry = counts[fact[0]]
            entry[PREDICTED] += 1
        else:
            entry = counts[fact[0]] = [0, 1, 0, 0, 0]
        if text is not None and _invented(fact, labels, text):
            entry[INVENTED] += 1
    return counts


def pairs(document: Document, plan: Plan, number: int) -> list[Pair]:
    """Gold and predicted facts of one unit side by side, with the credit for each pair."""
    gold = document.gold[number] if document.gold else []
    labels = len(document.reader.task.units[number].label)
    return align(gold, document.predicted[number], labels, plan.mode, document.text)


def confusions(document: Document) -> list[tuple[str, str]]:
    """(gold label, predicted label) of what got the right mentions and the wrong label.

    Correct pairs are there too, with twice the same label. "" stands for nothing: a gold label
    with "" was missed, "" with a predicted label is spurious.
    """
    reader = document.reader
    units, number, name = reader.task.units, reader.named_unit, reader.label_name
    if document.gold is None:
        return []
    gold, predicted = document.gold[number], document.predicted[number]
    mixed, missed, spurious = confused(gold, predicted, len(units[number].label))
    return [
        *((name(fact), name(fact)) for fact in strict_hits(gold, predicted)),
        *((name(one), name(other)) for one, other in mixed),
        *((name(fact), "") for fact in missed),
        *(("", name(fact)) for fact in spurious),
    ]

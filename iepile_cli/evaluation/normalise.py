"""Both sides of a document brought into comparable form before they are matched."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from iepile_cli.evaluation.batches import Batch
from iepile_cli.evaluation.facts import Fact
from iepile_cli.evaluation.options import EvalOptions

if TYPE_CHECKING:
    from iepile_cli.evaluation.documents import Document


class Normalised(str):
    """A mention in the form in which it is compared; ``original`` as it was written."""

    original: str


def normalise(document: Document, options: EvalOptions) -> None:
    """Bring both sides into comparable form: mentions, typed relations, asked labels, repetitions.

    Nothing is done to a document without gold.
    """
    reader = document.reader
    if document.gold is None:
        return
    if options.normalises:
        _normalise_mentions(document, options)
    gold, predicted = document.gold, document.predicted
    for fact in document.optional:
        if predicted[0].count(fact) > gold[0].count(fact):
            gold[0].append(fact)
    for number in range(len(reader.labels)):
        if reader.typed_ends[number]:
            predicted[number] = _with_ends(gold[number], predicted[number])
        if reader.distinct[number] and any(not fact[0] for fact in gold[number]):
            # Gold that does not say the type of its entities cannot be held against an answer.
            gold[number], predicted[number] = [], []
        if reader.distinct[number] or options.match == "set":
            gold[number] = list(dict.fromkeys(gold[number]))
            predicted[number] = list(dict.fromkeys(predicted[number]))
        if options.asked_only and any(batch.labels for batch in document.batches.values()):
            gold[number] = _asked_gold(gold[number], number, document)


def _normalise_mentions(document: Document, options: EvalOptions) -> None:
    def form(text: str) -> str:
        text = text.casefold() if options.ignore_case else text
        return "".join(text.split()) if options.ignore_space else text

    def mention(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        normalised = Normalised(form(value))
        normalised.original = value
        return normalised

    for side in (document.gold, document.predicted):
        for number, facts in enumerate(side or ()):
            labels = document.reader.labels[number]
            facts[:] = [(*fact[:labels], *map(mention, fact[labels:])) for fact in facts]
    if document.text is not None:
        document.comparable_text = form(document.text)


def _asked_gold(gold: list[Fact], number: int, document: Document) -> list[Fact]:
    batches = [batch for batch in document.batches.values() if batch.labels]
    asked = frozenset().union(*(batch.labels[number] for batch in batches))
    if document.reader.typed_ends[number]:
        # Gold that does not say the types of its ends goes with every relation of its name.
        asked |= {(kind, "", "") for batch in batches for kind in batch.ends}
    labels = document.reader.labels[number]
    return [fact for fact in gold if fact[:labels] in asked]


def with_asked_ends(fact: Fact, batch: Batch) -> Fact:
    """A predicted typed relation with the types of its ends, as its batch asked for them.

    An answer says the predicate only. Where several typed relations asked at once share it, all
    their pairs of types stand in the place of one, for ``normalise`` to decide.
    """
    asked = batch.ends.get(fact[0], ())
    if len(asked) == 1:
        return (fact[0], *asked[0], *fact[3:])
    return (fact[0], asked, None, *fact[3:])


def is_asked(fact: Fact, labels: int, unit: int, batch: Batch) -> bool:
    """Whether a batch asked for the label of a predicted fact, its first ``labels`` values."""
    if labels > 1 and type(fact[1]) is tuple:
        return fact[0] in batch.ends
    return fact[:labels] in batch.labels[unit]


def _with_ends(gold: list[Fact], predicted: list[Fact]) -> list[Fact]:
    """Decide the types of both ends where ``with_asked_ends`` leaves them open.

    Where several were asked, or it is not known which, an answer counts for any that is gold and
    not yet answered.
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

"""Hard negatives mined from the data: which labels are easily mistaken for which.

IEPile's dictionary was made by hand. Here a pair of labels is scored by five signs, each between
0 and 1, which are taken together as independent evidence (noisy or):

* overlap: things of both labels on the same words of the same record;
* ambiguity: mentions that carry the one label here and the other there;
* context: words in and around the mentions (cosine of their tf-idf);
* name: words, for Chinese characters, that the labels' names share;
* company: records that hold both more often than chance says.

A model's confusions, where there are some, come first (``hard_negatives.py``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from iepile_cli.conversion.plan import HardNegatives
from iepile_cli.conversion.survey import Pair, Survey

WEIGHTS = {"overlap": 0.9, "ambiguity": 0.9, "context": 0.8, "name": 0.6, "company": 0.3}
# So many hard negatives of a label at most. The first few need little evidence, as every label
# has some that are nearest to it; more are taken only where the evidence is good.
MOST, FEW = 8, 3
GOOD, LEAST = 0.2, 0.05

_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[\u3400-\u9fff]")
_COMMON = frozenset(
    ("other", "of", "in", "by", "to", "the", "and", "for", "a", "an", "is", "has", "at")
)


def mined(survey: Survey, labels: Iterable[str], *, most: int = MOST) -> HardNegatives:
    """The hard negatives of each label, the hardest first; labels without any are left out."""
    labels = sorted(set(labels))
    signs = scores(survey, labels)
    dictionary: HardNegatives = {}
    for label in labels:
        ranked = sorted(
            (-total, other)
            for other in labels
            if other != label and (total := _total(signs.get(_pair(label, other)))) >= LEAST
        )
        if ranked:
            dictionary[label] = tuple(
                other
                for at, (total, other) in enumerate(ranked[:most])
                if at < FEW or -total >= GOOD
            )
    return dictionary


def scores(survey: Survey, labels: list[str]) -> dict[Pair, dict[str, float]]:
    """Every sign of every pair of labels that shows any."""
    vectors = _vectors(survey, labels)
    of_label: Counter[str] = Counter()
    shared: Counter[Pair] = Counter()
    for holders in survey.mentions.values():
        of_label.update(holders)
        if len(holders) > 1:
            some = sorted(holders)
            shared.update((one, other) for at, one in enumerate(some) for other in some[at + 1 :])
    found: dict[Pair, dict[str, float]] = {}
    for at, one in enumerate(labels):
        for other in labels[at + 1 :]:
            signs = {
                "overlap": _share(survey.overlaps[one, other], survey.things, one, other),
                "ambiguity": _share(shared[one, other], of_label, one, other),
                "context": _cosine(vectors[one], vectors[other]),
                "name": name_likeness(one, other),
                "company": _company(survey, one, other),
            }
            found[one, other] = {sign: value for sign, value in signs.items() if value > 0}
    return found


def _total(signs: Mapping[str, float] | None) -> float:
    rest = 1.0
    for sign, value in (signs or {}).items():
        rest *= 1 - WEIGHTS[sign] * min(1.0, value)
    return 1 - rest


def _pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def _share(both: int, of_label: Mapping[str, int], one: str, other: str) -> float:
    # Two more in the denominator: one shared mention of a rare label is no evidence yet.
    return both / (min(of_label.get(one, 0), of_label.get(other, 0)) + 2)


def _company(survey: Survey, one: str, other: str) -> float:
    """How far records with both exceed what independence predicts, as a share of the rarer."""
    rarer = min(survey.holding[one], survey.holding[other])
    expected = survey.holding[one] * survey.holding[other] / max(survey.records, 1)
    return max(0.0, survey.together[one, other] - expected) / (rarer + 2)


def _vectors(survey: Survey, labels: list[str]) -> dict[str, dict[str, float]]:
    spread: Counter[str] = Counter()
    for label in labels:
        spread.update(survey.words.get(label, Counter()).keys())
    vectors = {}
    for label in labels:
        words = survey.words.get(label, Counter())
        vector = {
            word: math.log1p(count) * math.log((1 + len(labels)) / spread[word])
            for word, count in words.items()
            if count > 1
        }
        length = math.sqrt(sum(value * value for value in vector.values())) or 1.0
        vectors[label] = {word: value / length for word, value in vector.items()}
    return vectors


def _cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    small, large = (one, other) if len(one) <= len(other) else (other, one)
    return sum(value * large[word] for word, value in small.items() if word in large)


def name_likeness(one: str, other: str) -> float:
    """Share of the words (for Chinese: of the characters) that two names have in common."""
    first, second = _name_parts(one), _name_parts(other)
    if not first or not second:
        return 0.0
    both = len(first & second)
    contained, alike = both / min(len(first), len(second)), both / len(first | second)
    return contained * math.sqrt(alike)


def _name_parts(name: str) -> set[str]:
    return {part.lower() for part in _PART.findall(name)} - _COMMON

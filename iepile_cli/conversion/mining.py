"""What the annotation of a dataset has, and hard negatives mined from it.

IEPile's dictionary of labels that are easily mistaken for each other was made by hand. Here one
pass over the records counts, in tables of bounded size, and a pair of labels is scored by two
signals, each between 0 and 1, which are taken together as independent evidence (noisy or):

* ambiguity: mentions that have the one label in some records and the other in others;
* context: words in and around the mentions (cosine of their tf-idf).

Words that labels' names share, mentions on the same words of a record, and records that hold both
labels were signals too: ``tests/bench/mining.py`` shows that the three nearest labels hold as many
confusions of a classifier without them, or more.

A model's confusions, where there are some, come first (``hard_negatives.py``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from iepile_cli.conversion.label_aliases import rename_entries
from iepile_cli.conversion.plan import HardNegatives
from iepile_cli.conversion.record_gold import Key, item_of, key_of_gold, read_annotation, text_of
from iepile_cli.task.records import Gold
from iepile_cli.task.shape import label_of, slot_name
from iepile_cli.task.table import Task, task_named

Pair: TypeAlias = tuple[str, str]

# Bounds of the tables: different mentions, and words of each label.
MENTIONS = 200_000
WORDS = 4_000

_WORD = re.compile(r"[^\W_]+")
_HAN = re.compile("[\u3400-\u9fff]")

WEIGHTS = {"ambiguity": 0.9, "context": 0.8}
# So many hard negatives of a label at most. The first few need little evidence, as every label
# has some that are nearest to it; more are taken only where the evidence is good.
MOST, FEW = 8, 3
GOOD, LEAST = 0.2, 0.05


@dataclass
class Survey:
    """Counts over the gold of a set.

    ``types`` and ``slots`` are all that was seen; the rest is by label (a type, or an attribute
    where attributes are what negatives are drawn from): the labels of each mention, and words
    in and around mentions.
    """

    task_name: str
    records: int = 0
    types: Counter[Key] = field(default_factory=Counter)
    slots: dict[Key, Counter[str]] = field(default_factory=dict)
    mentions: dict[str, set[str]] = field(default_factory=dict)
    words: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """The task's row."""
        return task_named(self.task_name)

    def add(self, other: Survey) -> None:
        """Take in the counts of later records."""
        self.records += other.records
        self.types.update(other.types)
        for key, slots in other.slots.items():
            self.slots.setdefault(key, Counter()).update(slots)
        for mention, labels in other.mentions.items():
            if mention in self.mentions:
                self.mentions[mention] |= labels
            elif len(self.mentions) < MENTIONS:
                self.mentions[mention] = set(labels)
        for label, words in other.words.items():
            known = self.words.setdefault(label, Counter())
            known.update(words)
            if len(known) > 2 * WORDS:
                self.words[label] = Counter(dict(known.most_common(WORDS)))

    def add_record(self, record: Any, renames: Mapping[str, str]) -> None:
        """Count one decoded record, labels under their new names; raises ``Unusable``."""
        text = text_of(record)
        entries = rename_entries(
            record.get(self.task.layout.field) or [], self.task.layout.field, renames
        )
        self.add_gold(text, read_annotation(self.task, entries, ()))

    def add_gold(self, text: str, gold: list[Gold]) -> None:
        """Count the gold of one record."""
        fixed = {role for role, _ in self.task.layout.roles}
        for one in gold:
            key = key_of_gold(one)
            self.types[key] += 1
            slots = self.slots.setdefault(key, Counter())
            slots.update(slot_name(role) for role, _ in one.roles if role not in fixed)
        self.records += 1
        for label, mentions in self._labelled(gold):
            for mention in mentions:
                self.mentions.setdefault(mention, set()).add(label)
                self.words.setdefault(label, Counter()).update(_words(text, mention))

    def _labelled(self, gold: list[Gold]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each item with its label and the mentions that make it what it is."""
        fixed = {role for role, _ in self.task.layout.roles}
        by_slot = "types" not in self.task.negatives
        for one in gold:
            heads = tuple(text for role, text in one.roles if role in fixed)
            if by_slot:
                yield from (
                    (slot_name(role), (text,)) for role, text in one.roles if role not in fixed
                )
            else:
                yield label_of(item_of(key_of_gold(one))), heads


def _words(text: str, mention: str) -> Iterator[str]:
    """The words of a mention and the one before and after it, each marked by its place."""
    at = text.find(mention)
    inside = mention.lower()
    yield from (_HAN.findall(inside) if _HAN.search(inside) else _WORD.findall(inside))
    if at >= 0:
        before = _WORD.findall(text[max(0, at - 24) : at].lower())
        after = _WORD.findall(text[at + len(mention) : at + len(mention) + 24].lower())
        yield from ("<" + word[-4:] for word in before[-1:])
        yield from (">" + word[:4] for word in after[:1])


def mined(survey: Survey, labels: Iterable[str], *, most: int = MOST) -> HardNegatives:
    """The hard negatives of each label, the hardest first; labels without any are left out."""
    labels = sorted(set(labels))
    signals = scores(survey, labels)
    dictionary: HardNegatives = {}
    for label in labels:
        ranked = sorted(
            (-total, other)
            for other in labels
            if other != label and (total := _total(signals.get(_pair(label, other)))) >= LEAST
        )
        if ranked:
            dictionary[label] = tuple(
                other
                for at, (total, other) in enumerate(ranked[:most])
                if at < FEW or -total >= GOOD
            )
    return dictionary


def scores(survey: Survey, labels: list[str]) -> dict[Pair, dict[str, float]]:
    """Every signal of every pair of labels that shows any."""
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
            signals = {
                "ambiguity": _share(shared[one, other], of_label, one, other),
                "context": _cosine(vectors[one], vectors[other]),
            }
            found[one, other] = {signal: value for signal, value in signals.items() if value > 0}
    return found


def _total(signals: Mapping[str, float] | None) -> float:
    rest = 1.0
    for signal, value in (signals or {}).items():
        rest *= 1 - WEIGHTS[signal] * min(1.0, value)
    return 1 - rest


def _pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def _share(both: int, of_label: Mapping[str, int], one: str, other: str) -> float:
    # Two more in the denominator: one shared mention of a rare label is no evidence yet.
    return both / (min(of_label.get(one, 0), of_label.get(other, 0)) + 2)


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

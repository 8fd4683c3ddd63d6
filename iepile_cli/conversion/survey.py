"""What the annotation of a set has: types, slots, and which types come close to each other.

One pass over the records, a partial count for each chunk, in tables of bounded size. A schema is
derived from it (``deriving.py``) and hard negatives are mined from it (``mining.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from iepile_cli.conversion.choosing import Key, item_of
from iepile_cli.conversion.converter import read_json
from iepile_cli.conversion.gold import Unusable, key_of_gold, read_gold, text_of
from iepile_cli.conversion.inputs import Chunk
from iepile_cli.task.records import Gold
from iepile_cli.task.shape import label_of, slot_name
from iepile_cli.task.table import Task, task_named

Pair: TypeAlias = tuple[str, str]

# Bounds of the tables: different mentions, and words of each label.
MENTIONS = 200_000
WORDS = 4_000
# Records with more things than this (whole books) are compared only within their first ones.
THINGS = 200

_WORD = re.compile(r"[^\W_]+")
_HAN = re.compile("[\u3400-\u9fff]")


@dataclass
class Survey:
    """Counts over the gold of a set.

    ``types`` and ``slots`` are all that was seen; the rest is by label (a type, or an attribute
    where attributes are what negatives are drawn from): things, records, records with both of a
    pair, pairs of things that overlap, the labels of each mention, and words in and around
    mentions.
    """

    task_name: str
    records: int = 0
    types: Counter[Key] = field(default_factory=Counter)
    slots: dict[Key, Counter[str]] = field(default_factory=dict)
    things: Counter[str] = field(default_factory=Counter)
    holding: Counter[str] = field(default_factory=Counter)
    together: Counter[Pair] = field(default_factory=Counter)
    overlaps: Counter[Pair] = field(default_factory=Counter)
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
        self.things.update(other.things)
        self.holding.update(other.holding)
        self.together.update(other.together)
        self.overlaps.update(other.overlaps)
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

    def take(self, text: str, gold: list[Gold]) -> None:
        """Count one record."""
        fixed = {role for role, _ in self.task.layout.roles}
        for thing in gold:
            key = key_of_gold(thing)
            self.types[key] += 1
            slots = self.slots.setdefault(key, Counter())
            slots.update(slot_name(role) for role, _ in thing.roles if role not in fixed)
        labelled = list(self._labelled(gold))
        self.records += 1
        present = sorted({label for label, _ in labelled})
        self.holding.update(present)
        self.together.update(
            (one, other) for at, one in enumerate(present) for other in present[at + 1 :]
        )
        for label, mentions in labelled:
            self.things[label] += 1
            for mention in mentions:
                self.mentions.setdefault(mention, set()).add(label)
                self.words.setdefault(label, Counter()).update(_words(text, mention))
        self._compare(labelled[:THINGS])

    def _labelled(self, gold: list[Gold]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each thing with its label and the mentions that make it what it is."""
        fixed = {role for role, _ in self.task.layout.roles}
        by_slot = "types" not in self.task.negatives
        for thing in gold:
            heads = tuple(text for role, text in thing.roles if role in fixed)
            if by_slot:
                yield from (
                    (slot_name(role), (text,)) for role, text in thing.roles if role not in fixed
                )
            else:
                yield label_of(item_of(key_of_gold(thing))), heads

    def _compare(self, labelled: list[tuple[str, tuple[str, ...]]]) -> None:
        for at, (one, mentions) in enumerate(labelled):
            for other, others in labelled[at + 1 :]:
                if one != other and _overlap(mentions, others):
                    self.overlaps[(one, other) if one < other else (other, one)] += 1


def _overlap(mentions: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether each mention lies in its counterpart: the same words under two labels."""
    return len(mentions) == len(others) > 0 and all(
        one in other or other in one for one, other in zip(mentions, others, strict=True)
    )


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


def survey_chunk(task_name: str, chunk: Chunk) -> Survey:
    """Count the records of a chunk; those that cannot be read count for nothing."""
    survey = Survey(task_name)
    for raw in chunk.data.split(b"\n"):
        if raw and not raw.isspace():
            try:
                text, entries = _annotated(read_json(raw), survey.task)
                gold = read_gold(survey.task, entries, ())
            except Unusable:
                continue
            survey.take(text, gold)
    return survey


def _annotated(record: Any, task: Task) -> tuple[str, Any]:
    text = text_of(record)
    return text, record.get(task.layout.field) or []

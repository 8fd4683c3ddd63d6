"""Which schema items are put to a record: its own, negatives, hard negatives; in which order.

Source: IEPile section 3 and upstream ``convert_func.py``; where that is wrong or depends on
chance, the comments say what is done instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias, TypeVar

from iepile_cli.conversion.plan import Plan
from iepile_cli.task.instruction import batch_bounds, batches
from iepile_cli.task.shape import SchemaItem, label_of

# What gold must agree in to answer a schema item: its type, for typed relations all three.
Key: TypeAlias = str | tuple[str, str, str]
Batch: TypeAlias = tuple[SchemaItem, ...]
Dice: TypeAlias = Callable[[], random.Random]

_MASK = (1 << 64) - 1
_One = TypeVar("_One")


class Parts(NamedTuple):
    """What a record's gold of one type has: slot names and trigger words, first ones first."""

    slots: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()


Own: TypeAlias = Mapping[Key, Parts]


def key_of(item: SchemaItem) -> Key:
    """The key under which gold answers an item."""
    typed = item.subject_type or item.object_type
    return (item.type, item.subject_type, item.object_type) if typed else item.type


def item_of(key: Key) -> SchemaItem:
    """A bare schema item for a type that the schema lacks."""
    return SchemaItem(key) if isinstance(key, str) else SchemaItem(key[0], (), key[1], key[2])


def seed_for(seed: int, number: int) -> int:
    """The seed of one record's randomness: it depends on ``seed`` and the record's place alone."""
    # Multiplying by a large odd constant takes neighbouring records to far-off seeds.
    return abs(seed) << 65 | (seed < 0) << 64 | (number * 0x9E3779B97F4A7C15 & _MASK)


def dice_for(seed: int, number: int) -> random.Random:
    """The randomness of one record."""
    return random.Random(seed_for(seed, number))


class Chooser:
    """Chooses the batches of schema items for each record of a set."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.task = plan.task
        self.items: dict[Key, SchemaItem] = {key_of(item): item for item in plan.items}
        self.labels = {key: label_of(item) for key, item in self.items.items()}
        self.rank = {
            key: at for at, key in enumerate(sorted(self.items, key=self.labels.__getitem__))
        }
        self.trains = plan.split == "train"
        self.draws_types = "types" in self.task.negatives
        self.draws_slots = "slots" in self.task.negatives
        # Without gold that decides and without chance, every record is asked the same.
        certain = plan.neg_ratio in (1, -1) and not plan.shuffle and plan.hard is None
        self.same_for_all = not self.task.gold_types_only and (not self.trains or certain)
        self.whole: list[Batch] = []
        if self.same_for_all:
            keys = (
                list(self.items)
                if not self.trains
                else sorted(self.items, key=self.rank.__getitem__)
            )
            self.whole = self._cut([self._in_order(self.items[key], None) for key in keys])

    def batches(self, own: Own | None, dice: Dice) -> Sequence[Batch]:
        """The batches to put to a record whose gold is ``own`` (None: not annotated).

        A test record is asked the whole schema in the schema's order, a training record its own
        types, in the schema or not, and negatives.
        """
        if self.same_for_all and (not self.trains or not self.strays(own or {})):
            return self.whole
        if not self.trains:
            return self._cut(self._gold_types(own))
        items = self._training_items(own or {}, dice)
        if not items:
            return [()] if self.task.keeps_empty else []
        return self._cut(items)

    def key_batches(self, own: Own, dice: Dice) -> list[list[Key]]:
        """As ``batches`` for a training record of a task without slots, as keys: the quick way."""
        keys = self._training_keys(own, dice)
        bounds = batch_bounds(len(keys), self.plan.batch_size)
        return [keys[start:stop] for start, stop in bounds]

    def strays(self, own: Own) -> bool:
        """Whether gold has a type or a slot that the schema lacks."""
        for key, parts in own.items():
            item = self.items.get(key)
            if item is None or not all(slot in item.slots for slot in parts.slots):
                return True
        return False

    def _gold_types(self, own: Own | None) -> list[SchemaItem]:
        if own is None:
            return list(self.plan.items)
        return [
            self._given_triggers(self.items[key], parts)
            for key, parts in own.items()
            if key in self.items
        ]

    def _given_triggers(self, item: SchemaItem, parts: Parts) -> SchemaItem:
        shown = parts.triggers if self.plan.shows_triggers and parts.triggers else True
        return replace(item, trigger=shown)

    # ------------------------------------------------------------------------------- training

    def _training_keys(self, own: Own, dice: Dice) -> list[Key]:
        """The types to ask, sorted by label or shuffled."""
        keys: list[Key] = list(own)
        if self.draws_types:
            keys += self._negatives(own, dice)
        elif not self.task.gold_types_only:
            keys = list(dict.fromkeys((*self.items, *own)))
        rank = self.rank
        if all(key in rank for key in own):
            keys.sort(key=rank.__getitem__)
        else:
            keys.sort(key=lambda key: label_of(item_of(key)))
        if self.plan.shuffle:
            _shuffle(keys, dice())
        return keys

    def _training_items(self, own: Own, dice: Dice) -> list[SchemaItem]:
        keys = self._training_keys(own, dice)
        if not self.task.slots:
            return [self.items.get(key) or item_of(key) for key in keys]
        items = [
            self._in_order(self._with_slots(key, own.get(key, Parts()), dice), dice) for key in keys
        ]
        if not self.draws_types and len(items) > 1:
            # A type of which nothing is asked teaches nothing.
            items = [item for item in items if item.slots] or items[:1]
        return items

    def _negatives(self, own: Own, dice: Dice) -> list[Key]:
        """Types that the record lacks and is asked all the same."""
        absent = [key for key in self.items if key not in own]
        hard = self.plan.hard
        if hard is None:
            return _drawn(absent, self.plan.neg_ratio, dice, at_least=0 if own else 1)
        if len(self.items) == 1:
            return absent
        if not own:
            return _drawn(absent, abs(self.plan.neg_ratio) / 2, dice, at_least=1)
        labels = self.labels
        wanted = {name for key in own for name in hard.get(label_of(item_of(key)), ())}
        first = [key for key in absent if labels[key] in wanted]
        return first + self._few([key for key in absent if labels[key] not in wanted], dice)

    def _few(self, others: list[_One], dice: Dice) -> list[_One]:
        """At most ``split_num`` of the others, as in IEPile's hard-negative sets."""
        few = self.plan.batch_size if self.plan.batch_size > 0 else self.task.batch_size
        return others if len(others) <= few else dice().sample(others, few)

    def _with_slots(self, key: Key, parts: Parts, dice: Dice) -> SchemaItem:
        item = self.items.get(key) or item_of(key)
        if not self.task.slots:
            return item
        absent = [slot for slot in item.slots if slot not in parts.slots]
        hard, ratio = self.plan.hard, self.plan.neg_ratio
        if self.draws_types and (ratio == 0 or hard is not None):
            # Here the ratio is about types: an event type that is asked keeps all its roles.
            drawn = absent
        elif hard is not None:
            wanted = {name for slot in parts.slots for name in hard.get(slot, ())}
            others = [slot for slot in absent if slot not in wanted]
            drawn = [slot for slot in absent if slot in wanted] + self._few(others, dice)
        else:
            drawn = _drawn(absent, ratio, dice, at_least=0 if parts.slots else 1)
        if self.task.gold_types_only:
            item = self._given_triggers(item, parts)
        return with_slots(item, [*parts.slots, *drawn])

    # ---------------------------------------------------------------------------------- order

    def _in_order(self, item: SchemaItem, dice: Dice | None) -> SchemaItem:
        """The item with its slots sorted for training, or shuffled; as they are for a test."""
        if not self.trains or len(item.slots) < 2:
            return item
        slots = sorted(item.slots)
        if self.plan.shuffle and dice is not None:
            _shuffle(slots, dice())
        return with_slots(item, slots)

    def _cut(self, items: list[SchemaItem]) -> list[Batch]:
        size = self.plan.split_arguments
        if size:
            # Parts of one type share their answer's key, so they stand in different batches.
            parts = [part for item in items for part in split_slots(item, size)]
            return batches(parts, self.plan.batch_size)
        bounds = batch_bounds(len(items), self.plan.batch_size)
        return [tuple(items[start:stop]) for start, stop in bounds]


def _shuffle(some: list[_One], random_: random.Random) -> None:
    # Three times as fast as random.shuffle, and as even.
    throw = random_.random
    some.sort(key=lambda _: throw())


def _drawn(absent: list[_One], ratio: float, dice: Dice, *, at_least: int) -> list[_One]:
    """Each of ``absent`` with probability ``ratio`` (negative: all), ``at_least`` so many.

    Upstream draws their number from Binomial(all labels, ratio) instead, which asks for more
    negatives than the ratio says (bug C12).
    """
    if ratio < 0 or ratio == 1:
        return absent
    if ratio == 0 or not absent:
        return []
    random_ = dice()
    drawn = [one for one in absent if random_.random() < ratio]
    return drawn or ([random_.choice(absent)] if at_least else [])


def with_slots(item: SchemaItem, slots: Sequence[str]) -> SchemaItem:
    """The item with these slots, each keeping its description."""
    if not item.descriptions:
        return replace(item, slots=tuple(slots))
    texts = dict(zip(item.slots, item.descriptions, strict=True))
    return replace(
        item, slots=tuple(slots), descriptions=tuple(texts.get(slot, "") for slot in slots)
    )


def split_slots(item: SchemaItem, size: int) -> list[SchemaItem]:
    """Cut an item with more than ``size`` slots into items of at most ``size`` each."""
    starts = range(0, max(len(item.slots), 1), size)
    return [with_slots(item, item.slots[start : start + size]) for start in starts]

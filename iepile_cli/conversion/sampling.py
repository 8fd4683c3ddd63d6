"""Which schema items are put to a record: its own, negatives, hard negatives; in which order.

Source: IEPile section 3 and upstream ``convert_func.py``; where that is wrong or depends on
chance, the comments say what is done instead. Randomness depends on the seed and on a record's
place in its file alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias, TypeVar

from iepile_cli.conversion.gold import GoldLabels, GoldSlots, Key, item_of, key_of
from iepile_cli.conversion.options import Plan
from iepile_cli.task.instruction import batch_bounds
from iepile_cli.task.shape import SchemaItem, label_of

Rng: TypeAlias = Callable[[], random.Random]

# Shuffled schemas have one of so many orders (fewer for schemas of many labels): each is built
# once, and two records that share an order are far apart.
ORDERS = 1024
_ORDERED_LABELS = 1 << 15

_MASK = (1 << 64) - 1
_NO_SLOTS = GoldSlots()
_T = TypeVar("_T")


class Request(NamedTuple):
    """A schema item as it is put to a record: its key, its slots in order, its trigger."""

    key: Key
    slots: tuple[str, ...] = ()
    trigger: bool | tuple[str, ...] = True


Batch: TypeAlias = Sequence[Request]


def seed_for(seed: int, number: int) -> int:
    """The seed of one record's randomness: it depends on ``seed`` and the record's place alone."""
    # Multiplying by a large odd constant takes neighbouring records to far-off seeds.
    return abs(seed) << 65 | (seed < 0) << 64 | (number * 0x9E3779B97F4A7C15 & _MASK)


def rng_for(seed: int, number: int) -> random.Random:
    """The randomness of one record."""
    return random.Random(seed_for(seed, number))


class Sampler:
    """Samples the batches of schema items for each record of a dataset."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.task = plan.task
        self.items: dict[Key, SchemaItem] = {key_of(item): item for item in plan.items}
        self.labels = {key: label_of(item) for key, item in self.items.items()}
        by_label = sorted(self.items, key=self.labels.__getitem__)
        self.rank = {key: at for at, key in enumerate(by_label)}
        self.trains = plan.split == "train"
        self.draws_types = "types" in self.task.negatives
        self.draws_slots = "slots" in self.task.negatives
        # Without gold that decides and without chance, every record is asked the same.
        certain = plan.neg_ratio in (1, -1) and plan.hard is None
        self.asks_all = not self.task.gold_types_only and (not self.trains or certain)
        self.orders = self._orders() if self.trains and plan.shuffle else 1
        self._whole: dict[int, list[Batch]] = {}
        self._random = random.Random()

    def _orders(self) -> int:
        labels = sum(1 + len(item.slots) for item in self.items.values())
        return max(32, min(ORDERS, _ORDERED_LABELS // max(labels, 1)))

    def batches(self, gold: GoldLabels | None, number: int) -> Sequence[Batch]:
        """The batches to put to the record at place ``number`` (from 1) with these gold labels.

        ``gold`` is None for a record without annotation. A test record is asked the whole schema
        in the schema's order, a training record its own types, in the schema or not, and
        negatives.
        """
        if self.asks_all and (not self.trains or not self.out_of_schema(gold or {})):
            return self.whole(self.order_of(number))
        if not self.trains:
            return self._cut(self._gold_types(gold))
        requests = self._training_requests(gold or {}, number)
        if not requests:
            return [()] if self.task.keeps_empty else []
        return self._cut(requests)

    def out_of_schema(self, gold: GoldLabels) -> bool:
        """Whether gold has a type or a slot that the schema lacks."""
        for key, own in gold.items():
            item = self.items.get(key)
            if item is None or not all(slot in item.slots for slot in own.slots):
                return True
        return False

    def item(self, request: Request) -> SchemaItem:
        """The schema item of a request, with its descriptions."""
        known = self.items.get(request.key) or item_of(request.key)
        if known.slots != request.slots:
            known = with_slots(known, request.slots)
        return (
            known if known.trigger == request.trigger else replace(known, trigger=request.trigger)
        )

    # ------------------------------------------------------------------------ the whole schema

    def order_of(self, number: int) -> int:
        """Which of the orders a record's schema has."""
        return seed_for(self.plan.seed, number) % 0xFFFFFFFB % self.orders

    def whole(self, order: int) -> list[Batch]:
        """The batches of the whole schema in one of the orders."""
        if order not in self._whole:
            keys = list(self.items)
            if self.trains:
                keys.sort(key=self.rank.__getitem__)
            requests = [self._plain(key) for key in keys]
            if self.orders > 1:
                rng = random.Random(f"{self.plan.seed}/{order}")
                rng.shuffle(requests)
                requests = [one._replace(slots=_shuffled(one.slots, rng)) for one in requests]
            self._whole[order] = self._cut(requests)
        return self._whole[order]

    def _plain(self, key: Key) -> Request:
        """A schema item with all its slots: sorted for training, as they are for a test."""
        item = self.items[key]
        slots = tuple(sorted(item.slots)) if self.trains else item.slots
        return Request(key, slots, item.trigger)

    def _gold_types(self, gold: GoldLabels | None) -> list[Request]:
        if gold is None:
            return [self._plain(key) for key in self.items]
        return [
            Request(key, self.items[key].slots, self._given_triggers(own))
            for key, own in gold.items()
            if key in self.items
        ]

    def _given_triggers(self, own: GoldSlots) -> bool | tuple[str, ...]:
        return own.triggers if self.plan.shows_triggers and own.triggers else True

    # ------------------------------------------------------------------------------- training

    def _training_requests(self, gold: GoldLabels, number: int) -> list[Request]:
        rng = self._rng(number)
        keys = self._training_keys(gold, rng)
        if not self.task.slots:
            items = self.items
            return [Request(key, (), items[key].trigger if key in items else True) for key in keys]
        requests = [self._with_slots(key, gold.get(key, _NO_SLOTS), rng) for key in keys]
        if not self.draws_types and len(requests) > 1:
            # A type of which nothing is asked teaches nothing.
            requests = [one for one in requests if one.slots] or requests[:1]
        return requests

    def _training_keys(self, gold: GoldLabels, rng: Rng) -> list[Key]:
        """The types to ask, sorted by label or shuffled."""
        keys: list[Key] = list(gold)
        if self.draws_types:
            keys += self._negatives(gold, rng)
        elif not self.task.gold_types_only:
            keys = list(dict.fromkeys((*self.items, *gold)))
        rank = self.rank
        if all(key in rank for key in gold):
            keys.sort(key=rank.__getitem__)
        else:
            keys.sort(key=lambda key: label_of(item_of(key)))
        if self.plan.shuffle:
            _shuffle(keys, rng())
        return keys

    def _negatives(self, gold: GoldLabels, rng: Rng) -> list[Key]:
        """Types that the record lacks and is asked all the same."""
        absent = [key for key in self.items if key not in gold]
        hard = self.plan.hard
        if hard is None:
            return _drawn(absent, self.plan.neg_ratio, rng, at_least=0 if gold else 1)
        if len(self.items) == 1:
            return absent
        if not gold:
            return _drawn(absent, abs(self.plan.neg_ratio) / 2, rng, at_least=1)
        labels = self.labels
        wanted = {
            name for key in gold for name in hard.get(labels.get(key) or label_of(item_of(key)), ())
        }
        first = [key for key in absent if labels[key] in wanted]
        return first + self._few([key for key in absent if labels[key] not in wanted], rng)

    def _few(self, others: list[_T], rng: Rng) -> list[_T]:
        """At most ``split_num`` of the others, as in IEPile's hard-negative sets."""
        few = self.plan.batch_size if self.plan.batch_size > 0 else self.task.batch_size
        return others if len(others) <= few else rng().sample(others, few)

    def _with_slots(self, key: Key, own: GoldSlots, rng: Rng) -> Request:
        """A request for a type with the record's own slots of it and negative ones, in order."""
        item = self.items.get(key)
        known = item.slots if item else ()
        absent = [slot for slot in known if slot not in own.slots]
        hard, ratio = self.plan.hard, self.plan.neg_ratio
        if self.draws_types and (ratio == 0 or hard is not None):
            # Here the ratio is about types: an event type that is asked keeps all its roles.
            drawn = absent
        elif hard is not None:
            wanted = {name for slot in own.slots for name in hard.get(slot, ())}
            others = [slot for slot in absent if slot not in wanted]
            drawn = [slot for slot in absent if slot in wanted] + self._few(others, rng)
        else:
            drawn = _drawn(absent, ratio, rng, at_least=0 if own.slots else 1)
        slots = sorted((*own.slots, *drawn))
        if self.plan.shuffle:
            _shuffle(slots, rng())
        trigger = item.trigger if item else True
        if self.task.gold_types_only:
            trigger = self._given_triggers(own)
        return Request(key, tuple(slots), trigger)

    def _rng(self, number: int) -> Rng:
        """The record's randomness, seeded when it is first asked for: most records need none."""
        seeded: list[random.Random] = []

        def rng() -> random.Random:
            if not seeded:
                self._random.seed(seed_for(self.plan.seed, number))
                seeded.append(self._random)
            return seeded[0]

        return rng

    # --------------------------------------------------------------------------------- batches

    def _cut(self, requests: Sequence[Request]) -> list[Batch]:
        size = self.plan.split_arguments
        groups: Iterable[Sequence[Request]] = [requests]
        if size:
            groups = _distinct_keys([part for one in requests for part in _split_slots(one, size)])
        return [
            group[start:stop]
            for group in groups
            for start, stop in batch_bounds(len(group), self.plan.batch_size)
        ]


def _split_slots(request: Request, size: int) -> list[Request]:
    """Cut a request with more than ``size`` slots into requests of at most ``size`` each."""
    starts = range(0, max(len(request.slots), 1), size)
    return [request._replace(slots=request.slots[start : start + size]) for start in starts]


def _distinct_keys(requests: Iterable[Request]) -> list[list[Request]]:
    """Groups without two parts of one type: those share their answer's key."""
    groups: list[dict[str, Request]] = []
    for request in requests:
        name = request.key if isinstance(request.key, str) else request.key[0]
        for group in groups:
            if name not in group:
                group[name] = request
                break
        else:
            groups.append({name: request})
    return [list(group.values()) for group in groups]


def _shuffle(some: list[_T], rng: random.Random) -> None:
    # Three times as fast as random.shuffle, and as even.
    draw = rng.random
    some.sort(key=lambda _: draw())


def _shuffled(some: tuple[_T, ...], rng: random.Random) -> tuple[_T, ...]:
    return tuple(rng.sample(some, len(some)))


def _drawn(absent: list[_T], ratio: float, rng: Rng, *, at_least: int) -> list[_T]:
    """Each of ``absent`` with probability ``ratio`` (-1: all), ``at_least`` so many.

    Upstream draws their number from Binomial(all labels, ratio) instead, which asks for more
    negatives than the ratio says (bug C12).
    """
    if ratio < 0 or ratio == 1:
        return absent
    if ratio == 0 or not absent:
        return []
    random_ = rng()
    draw = random_.random
    drawn = [one for one in absent if draw() < ratio]
    return drawn or ([random_.choice(absent)] if at_least else [])


def with_slots(item: SchemaItem, slots: Sequence[str]) -> SchemaItem:
    """The item with these slots, each keeping its description."""
    if not item.descriptions:
        return replace(item, slots=tuple(slots))
    texts = dict(zip(item.slots, item.descriptions, strict=True))
    return replace(
        item, slots=tuple(slots), descriptions=tuple(texts.get(slot, "") for slot in slots)
    )

"""Which schema items are put to a record: its own, negatives, hard negatives; in which order.

Source: IEPile section 3 and upstream ``convert_func.py``; where that is wrong or depends on
chance, the comments say what is done instead. Randomness depends on the seed and on a record's
place in its file alone.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias, TypeVar

from iepile_cli.conversion.plan import HardNegatives, Plan
from iepile_cli.conversion.record_gold import GoldLabels, GoldSlots, Key, item_of, key_of
from iepile_cli.task.instruction import batch_bounds
from iepile_cli.task.shape import SchemaItem, label_of

# Shuffled schemas have one of so many orders (fewer for schemas of many labels): each is built
# once, and two records that share an order are far apart.
ORDERS = 1024
_ORDERED_LABELS = 1 << 15
# Negatives are one of so many random subsets of the types, and of the slots of each type.
_SUBSETS = 1024
_SLOT_SUBSETS = 64

_MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15
_PRIME = 0xFFFFFFFB
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
    return abs(seed) << 65 | (seed < 0) << 64 | (number * _ODD & _MASK)


def rng_for(seed: int, number: int) -> random.Random:
    """The randomness of one record."""
    return random.Random(seed_for(seed, number))


@functools.lru_cache(1024)
def _bounds(count: int, size: int) -> list[tuple[int, int]]:
    return list(batch_bounds(count, size))


class Sampler:
    """Samples the batches of schema items for each record of a dataset."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.task = plan.task
        self.items: dict[Key, SchemaItem] = {key_of(item): item for item in plan.items}
        self.labels = {key: label_of(item) for key, item in self.items.items()}
        self.slots = {key: frozenset(item.slots) for key, item in self.items.items()}
        self.trains = plan.split == "train"
        # Without gold that decides and without chance, every record is asked the same.
        certain = plan.neg_ratio in (1, -1) and plan.hard is None
        self.asks_all = not self.task.gold_types_only and (not self.trains or certain)
        self._draws_types = "types" in self.task.negatives
        # An event type that is asked keeps all its roles where the ratio is about types.
        whole_types = self._draws_types and (plan.neg_ratio == 0 or plan.hard is not None)
        self._draws_slots = bool(self.task.slots) and not (certain or whole_types)
        self._few = plan.batch_size if plan.batch_size > 0 else self.task.batch_size
        self._hard_types = self._keys_of_hard(plan.hard or {})
        self.orders = self._count_orders() if self.trains and plan.shuffle else 1
        self._first_order = seed_for(plan.seed, 0) % _PRIME
        self._in_order: dict[int, list[Request]] = {}
        self._whole: dict[int, list[Batch]] = {}
        # What is drawn at random: subsets of types, of each type's slots, and hard negatives' rest.
        self._subsets: list[frozenset[Key]] = []
        self._slot_subsets: dict[Key, list[frozenset[str]]] = {}
        self._drawn: dict[Key, list[Request]] = {}
        self._permutations: list[list[Key]] = []

    def _keys_of_hard(self, hard: HardNegatives) -> dict[Key, list[Key]]:
        named: dict[str, list[Key]] = {}
        for key, label in self.labels.items():
            named.setdefault(label, []).append(key)
        return {
            key: [one for other in hard.get(label, ()) for one in named.get(other, ())]
            for key, label in self.labels.items()
        }

    def _count_orders(self) -> int:
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
            if key not in self.slots or not self.slots[key].issuperset(own.slots):
                return True
        return False

    def item(self, request: Request) -> SchemaItem:
        """The schema item of a request, with its descriptions."""
        known = self.items.get(request.key) or item_of(request.key)
        if known.slots != request.slots:
            known = with_slots(known, request.slots)
        if known.trigger != request.trigger:
            known = replace(known, trigger=request.trigger)
        return known

    # ------------------------------------------------------------------------ the whole schema

    def order_of(self, number: int) -> int:
        """Which of the orders a record's schema has."""
        if self.orders == 1:
            return 0
        return (self._first_order + (number * _ODD & _MASK)) % _PRIME % self.orders

    def whole(self, order: int) -> list[Batch]:
        """The batches of the whole schema in one of the orders."""
        if order not in self._whole:
            self._whole[order] = self._cut(self._ordered(order))
        return self._whole[order]

    def _ordered(self, order: int) -> list[Request]:
        """All schema items with all their slots: sorted or shuffled for training."""
        if order not in self._in_order:
            keys = list(self.items)
            if self.trains:
                keys.sort(key=self.labels.__getitem__)
            requests = [self._plain(key) for key in keys]
            if self.orders > 1:
                rng = random.Random(f"{self.plan.seed}/{order}")
                requests = _shuffled(requests, rng)
                if self.task.slots:
                    requests = [
                        one._replace(slots=tuple(_shuffled(one.slots, rng))) for one in requests
                    ]
            self._in_order[order] = requests
        return self._in_order[order]

    def _plain(self, key: Key) -> Request:
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
        """The types to ask, each with the slots to ask, sorted or shuffled."""
        requests = self._types(gold, number)
        if not self.items.keys() >= gold.keys():
            requests = self._with_unknown(requests, gold, number)
        if not self.task.slots:
            return requests
        sampled = [
            self._with_slots(one, gold[one.key], number)
            if one.key in gold
            else self._drawn_request(one.key, number)
            if self._draws_slots
            else one
            for one in requests
        ]
        if not self._draws_types and len(sampled) > 1:
            # A type of which nothing is asked teaches nothing.
            sampled = [one for one in sampled if one.slots] or sampled[:1]
        return sampled

    def _types(self, gold: GoldLabels, number: int) -> list[Request]:
        """The types of the schema to ask, in the record's order."""
        ordered = self._ordered(self.order_of(number))
        ratio = self.plan.neg_ratio
        if self.task.gold_types_only or (self._draws_types and ratio == 0 and not self.plan.hard):
            return [one for one in ordered if one.key in gold]
        if not self._draws_types or self.asks_all or len(ordered) == 1:
            return ordered
        if self.plan.hard is not None:
            if gold:
                return self._hard_negatives(ordered, gold, number)
            ratio = abs(ratio) / 2
        if ratio in (1, -1):
            return ordered
        if not self._subsets:
            rng = random.Random(f"{self.plan.seed}/types")
            self._subsets = _subsets(list(self.items), ratio, _SUBSETS, rng)
        value = _hash(self.plan.seed, number)
        subset = self._subsets[value % _SUBSETS]
        # Upstream draws how many from Binomial(all labels, ratio), which asks for more negatives
        # than the ratio says (bug C12).
        drawn = [one for one in ordered if one.key in subset or one.key in gold]
        return drawn or [ordered[(value >> 32) % len(ordered)]]

    def _hard_negatives(
        self, ordered: list[Request], gold: GoldLabels, number: int
    ) -> list[Request]:
        """A record's own types, those easily mistaken for them, and at most ``_few`` others."""
        asked = set(gold)
        for key in gold:
            asked.update(self._hard_types.get(key, ()))
        if not self._permutations:
            rng = random.Random(f"{self.plan.seed}/others")
            keys = list(self.items)
            self._permutations = [_shuffled(keys, rng) for _ in range(self._count_orders())]
        wanted = self._few
        for key in self._permutations[_hash(self.plan.seed, number) % len(self._permutations)]:
            if not wanted:
                break
            if key not in asked:
                asked.add(key)
                wanted -= 1
        return [one for one in ordered if one.key in asked]

    def _with_unknown(
        self, requests: list[Request], gold: GoldLabels, number: int
    ) -> list[Request]:
        """The requests and, in their places, those for types that the schema lacks."""
        unknown = [Request(key) for key in gold if key not in self.items]
        if self.orders > 1:
            return _inserted(requests, unknown, rng_for(self.plan.seed, number))
        return sorted((*requests, *unknown), key=lambda one: label_of(item_of(one.key)))

    def _with_slots(self, request: Request, own: GoldSlots, number: int) -> Request:
        """The request with the record's own slots and negative ones, in the record's order."""
        slots = request.slots
        if self._draws_slots and slots:
            slots = self._drawn_slots(request.key, slots, own, number)
        if own.slots and not self.slots.get(request.key, frozenset()).issuperset(own.slots):
            unknown = [slot for slot in own.slots if slot not in slots]
            if self.orders > 1:
                rng = rng_for(~self.plan.seed, number)
                slots = tuple(_inserted(list(slots), unknown, rng))
            else:
                slots = tuple(sorted((*slots, *unknown)))
        trigger = request.trigger
        if self.task.gold_types_only:
            trigger = self._given_triggers(own)
        return Request(request.key, slots, trigger)

    def _drawn_request(self, key: Key, number: int) -> Request:
        """A type that the record lacks, with negative slots: one of so many that are drawn."""
        drawn = self._drawn.get(key)
        if drawn is None:
            plain = self._plain(key)
            rng = random.Random(f"{self.plan.seed}/{self.labels[key]}")
            drawn = self._drawn[key] = []
            for at in range(_SLOT_SUBSETS):
                slots = plain.slots if self.orders == 1 else tuple(_shuffled(plain.slots, rng))
                chosen = self._drawn_slots(key, slots, GoldSlots(), at) if slots else ()
                drawn.append(plain._replace(slots=chosen))
        return drawn[_hash(self.plan.seed, number, self.labels[key]) % _SLOT_SUBSETS]

    def _drawn_slots(
        self, key: Key, slots: tuple[str, ...], own: GoldSlots, number: int
    ) -> tuple[str, ...]:
        hard, ratio = self.plan.hard, self.plan.neg_ratio
        if hard is None and ratio == 0:
            return tuple([slot for slot in slots if slot in own.slots])
        value = _hash(self.plan.seed, number, self.labels[key])
        if hard is not None:
            asked = set(own.slots)
            for slot in own.slots:
                asked.update(hard.get(slot, ()))
            others = [slot for slot in slots if slot not in asked]
            start = value % max(len(others), 1)
            asked.update((others[start:] + others[:start])[: self._few])
            return tuple([slot for slot in slots if slot in asked])
        subsets = self._slot_subsets.get(key)
        if subsets is None:
            rng = random.Random(f"{self.plan.seed}/{self.labels[key]}/slots")
            subsets = _subsets(self.items[key].slots, ratio, _SLOT_SUBSETS, rng)
            self._slot_subsets[key] = subsets
        subset = subsets[value % _SLOT_SUBSETS]
        drawn = tuple([slot for slot in slots if slot in subset or slot in own.slots])
        return drawn or (slots[(value >> 32) % len(slots)],)

    # --------------------------------------------------------------------------------- batches

    def _cut(self, requests: Sequence[Request]) -> list[Batch]:
        size = self.plan.split_arguments
        groups: Iterable[Sequence[Request]] = [requests]
        if size:
            groups = _distinct_keys([part for one in requests for part in _split_slots(one, size)])
        return [
            group[start:stop]
            for group in groups
            for start, stop in _bounds(len(group), self.plan.batch_size)
        ]


def _hash(seed: int, number: int, name: str = "") -> int:
    """Sixty-four bits that depend on the seed, the record's place and a name alone."""
    value = (seed + number * _ODD + (_name_hash(name) if name else 0)) & _MASK
    # Two rounds of splitmix64: each bit of the result depends on each of the value.
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31


@functools.lru_cache(1 << 14)
def _name_hash(name: str) -> int:
    return random.Random(name).getrandbits(64)


def _subsets(
    names: Sequence[_T], ratio: float, count: int, rng: random.Random
) -> list[frozenset[_T]]:
    """So many random subsets; each name is in the same share of them, ``ratio``."""
    held: list[list[_T]] = [[] for _ in range(count)]
    for name in names:
        for place in rng.sample(range(count), int(ratio * count + rng.random())):
            held[place].append(name)
    return [frozenset(some) for some in held]


def _inserted(some: list[_T], more: Iterable[_T], rng: random.Random) -> list[_T]:
    """The first ones in their order, the others at random places."""
    joined = list(some)
    for one in more:
        joined.insert(rng.randint(0, len(joined)), one)
    return joined


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


def _shuffled(some: Sequence[_T], rng: random.Random) -> list[_T]:
    # Three times as fast as random.shuffle, and as even.
    draw = rng.random
    return sorted(some, key=lambda _: draw())


def with_slots(item: SchemaItem, slots: Sequence[str]) -> SchemaItem:
    """The item with these slots, each keeping its description."""
    if not item.descriptions:
        return replace(item, slots=tuple(slots))
    texts = dict(zip(item.slots, item.descriptions, strict=True))
    return replace(
        item, slots=tuple(slots), descriptions=tuple(texts.get(slot, "") for slot in slots)
    )

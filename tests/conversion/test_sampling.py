"""Which schema items are asked: negatives, hard negatives, order, batches."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from iepile_cli.conversion import Plan
from iepile_cli.conversion.record_gold import GoldSlots
from iepile_cli.conversion.sampling import Request, Sampler, _split_slots
from iepile_cli.errors import UsageError
from iepile_cli.task.instruction import batch_bounds
from iepile_cli.task.shape import SchemaItem

TYPES = [f"t{number:02d}" for number in range(12)]
ITEMS = tuple(SchemaItem(name) for name in reversed(TYPES))


def items_of(plan: Plan | Sampler, own: Any, number: int = 1) -> list[list[SchemaItem]]:
    sampler = plan if isinstance(plan, Sampler) else Sampler(plan)
    return [list(map(sampler.item, batch)) for batch in sampler.batches(own, number)]


def asked(plan: Plan | Sampler, own: dict[str, GoldSlots], number: int = 1) -> list[str]:
    return [item.type for batch in items_of(plan, own, number) for item in batch]


def own_of(*names: str) -> dict[str, GoldSlots]:
    return {name: GoldSlots() for name in names}


def test_everything_is_asked_in_sorted_order_for_training() -> None:
    assert asked(Plan("NER", ITEMS), own_of("t03")) == TYPES


def test_a_test_record_is_asked_in_the_schemas_order() -> None:
    plan = Plan("NER", ITEMS, split="test", shuffle=True, neg_ratio=0)
    assert asked(plan, own_of("t03")) == TYPES[::-1]


def test_types_outside_the_schema_are_asked_in_training_only() -> None:
    assert asked(Plan("NER", ITEMS), own_of("zz"))[-1] == "zz"
    assert "zz" not in asked(Plan("NER", ITEMS, split="test"), own_of("zz"))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_each_absent_type_is_asked_with_the_given_chance(ratio: float) -> None:
    sampler = Sampler(Plan("NER", ITEMS, neg_ratio=ratio))
    own = own_of("t00", "t01")
    counts = [asked(sampler, own, number) for number in range(1, 2001)]
    for one in counts:
        assert one == sorted(set(one))
        assert {"t00", "t01"} <= set(one)
    negatives = sum(len(one) - 2 for one in counts) / (2000 * 10)
    assert negatives == pytest.approx(ratio, abs=0.02)


def test_a_record_without_gold_is_asked_at_least_one_type() -> None:
    sampler = Sampler(Plan("NER", ITEMS, neg_ratio=0.01))
    lengths = {len(asked(sampler, {}, number)) for number in range(1, 400)}
    assert min(lengths) == 1


def test_no_negatives_leave_a_record_without_gold_out_except_for_events() -> None:
    assert items_of(Plan("NER", ITEMS, neg_ratio=0), {}) == []
    events = (SchemaItem("e", ("a", "b")),)
    assert items_of(Plan("EE", events, neg_ratio=0), {}) == [[]]


def test_an_event_type_without_negatives_keeps_its_roles() -> None:
    items = (SchemaItem("e", ("b", "a")), SchemaItem("f", ("c",)))
    (batch,) = items_of(Plan("EE", items, neg_ratio=0), {"e": GoldSlots(("a",))})
    assert [(item.type, item.slots) for item in batch] == [("e", ("a", "b"))]


def test_attributes_of_the_gold_are_always_asked() -> None:
    slots = tuple(f"a{number}" for number in range(10))
    sampler = Sampler(Plan("KG", (SchemaItem("T", slots),), neg_ratio=0.3))
    seen = set()
    for number in range(1, 200):
        (batch,) = items_of(sampler, {"T": GoldSlots(("a7",))}, number)
        assert "a7" in batch[0].slots
        assert list(batch[0].slots) == sorted(set(batch[0].slots))
        seen.add(len(batch[0].slots))
    assert len(seen) > 3


def test_every_entity_type_is_asked_with_its_own_attributes() -> None:
    items = (SchemaItem("Person", ("employer",)), SchemaItem("Org", ("city",)))
    own = {"Person": GoldSlots(("employer",))}
    (batch,) = items_of(Plan("KG", items, split_num=-1), own)
    assert [(item.type, item.slots) for item in batch] == [
        ("Org", ("city",)),
        ("Person", ("employer",)),
    ]


def test_hard_negatives_come_with_few_others() -> None:
    hard = {"t00": ("t01", "t02", "not in the schema"), "t05": ("t00",)}
    sampler = Sampler(Plan("NER", ITEMS, hard=hard, split_num=4))
    several = set()
    for number in range(1, 100):
        found = asked(sampler, own_of("t00"), number)
        assert {"t00", "t01", "t02"} <= set(found) <= set(TYPES)
        assert len(found) == 3 + 4
        several.add(tuple(found))
    assert len(several) > 10


def test_a_label_that_the_dictionary_lacks_has_no_hard_negatives() -> None:
    found = asked(Plan("NER", ITEMS, hard={}, split_num=4), own_of("t00"))
    assert len(found) == 5


def test_given_triggers_are_shown_where_the_plan_says() -> None:
    items = (SchemaItem("hit", ("a",)),)
    own = {"hit": GoldSlots(("a",), ("struck", "beat"))}
    for split, triggers, shown in (
        ("train", "train", True),
        ("test", "train", False),
        ("test", "always", True),
        ("train", "never", False),
    ):
        plan = Plan("EEA", items, split=split, triggers=triggers)
        ((item,),) = items_of(plan, own)
        assert item.trigger == (("struck", "beat") if shown else True)


def test_a_record_that_is_not_annotated_is_asked_the_whole_schema_of_arguments() -> None:
    items = (SchemaItem("hit", ("a",)), SchemaItem("run", ("b",)))
    batches = items_of(Plan("EEA", items, split="test"), None)
    assert [item.type for batch in batches for item in batch] == ["hit", "run"]


def test_long_argument_lists_are_split_into_different_batches() -> None:
    items = (SchemaItem("e", tuple("abcde")), SchemaItem("f", ("x",)))
    batches = items_of(Plan("EE", items, split_arguments=2, split_num=-1), {})
    assert [[(item.type, item.slots) for item in batch] for batch in batches] == [
        [("e", ("a", "b")), ("f", ("x",))],
        [("e", ("c", "d"))],
        [("e", ("e",))],
    ]
    assert _split_slots(Request("e"), 3) == [Request("e")]


def test_descriptions_stay_with_their_slots() -> None:
    item = SchemaItem("e", ("b", "a"), descriptions=("is b", "is a"))
    ((asked_item,),) = items_of(Plan("EE", (item,)), {})
    assert (asked_item.slots, asked_item.descriptions) == (("a", "b"), ("is a", "is b"))


def test_shuffling_depends_on_the_seed_and_the_record_alone() -> None:
    plan = Plan("NER", ITEMS, shuffle=True)
    first = [asked(plan, {}, number) for number in range(1, 6)]
    assert first == [asked(plan, {}, number) for number in range(1, 6)]
    assert all(sorted(one) == TYPES for one in first)
    assert len({tuple(one) for one in first}) == 5
    other = Plan("NER", ITEMS, shuffle=True, seed=43)
    assert first != [asked(other, {}, number) for number in range(1, 6)]


def test_batches_are_cut_as_upstream_cuts_them() -> None:
    for count, size in itertools.product(range(1, 30), (-1, 1, 2, 4, 6)):
        items = tuple(SchemaItem(f"t{number:03d}") for number in range(count))
        found = items_of(Plan("NER", items, split_num=size), {})
        sizes = [stop - start for start, stop in batch_bounds(count, size)]
        assert [len(batch) for batch in found] == sizes


SLOTS = tuple(f"a{number}" for number in range(10))


def slots_asked(plan: Plan, own: dict[str, GoldSlots], numbers: range) -> list[tuple[str, ...]]:
    """The slots of the only type, for each record."""
    sampler = Sampler(plan)
    found = [items_of(sampler, own, number) for number in numbers]
    return [item.slots for batches in found for batch in batches for item in batch]


def test_attributes_without_negatives_are_those_of_the_gold() -> None:
    plan = Plan("KG", (SchemaItem("T", SLOTS),), neg_ratio=0)
    assert slots_asked(plan, {"T": GoldSlots(("a7", "a2"))}, range(1, 20)) == [("a2", "a7")] * 19


@pytest.mark.parametrize("ratio", [0.3, 0.8])
def test_each_absent_attribute_is_asked_with_the_given_chance(ratio: float) -> None:
    plan = Plan("KG", (SchemaItem("T", SLOTS),), neg_ratio=ratio)
    found = slots_asked(plan, {"T": GoldSlots(("a7",))}, range(1, 2001))
    assert sum(len(one) - 1 for one in found) / (2000 * 9) == pytest.approx(ratio, abs=0.03)
    # Also of a type that the record lacks, in the schema's order.
    found = slots_asked(plan, {}, range(1, 2001))
    assert sum(map(len, found)) / (2000 * 10) == pytest.approx(ratio, abs=0.03)
    assert all(list(one) == sorted(set(one)) for one in found)


def test_all_attributes_are_asked_with_all_negatives() -> None:
    for ratio in (1, -1):
        plan = Plan("KG", (SchemaItem("T", SLOTS),), neg_ratio=ratio)
        assert slots_asked(plan, {"T": GoldSlots(("a7",))}, range(1, 9)) == [SLOTS] * 8
        assert slots_asked(plan, {}, range(1, 9)) == [SLOTS] * 8


def test_shuffled_attributes_of_a_type_that_the_record_lacks() -> None:
    plan = Plan("KG", (SchemaItem("T", SLOTS),), neg_ratio=0.5, shuffle=True)
    found = slots_asked(plan, {}, range(1, 50))
    assert sum(list(one) != sorted(one) for one in found) > 30
    assert len(set(found)) > 20


def test_hard_negatives_of_attributes_come_with_few_others() -> None:
    plan = Plan("KG", (SchemaItem("T", SLOTS),), hard={"a0": ("a1", "a2")})
    found = slots_asked(plan, {"T": GoldSlots(("a0",))}, range(1, 100))
    assert all({"a0", "a1", "a2"} < set(one) and len(one) == 4 for one in found)
    assert {slot for one in found for slot in one} == set(SLOTS)


def test_an_event_type_keeps_its_roles_where_types_are_drawn() -> None:
    items = tuple(SchemaItem(f"e{number}", ("c", "b", "a")) for number in range(6))
    gold = {"e1": GoldSlots(("b",))}
    hard = Sampler(Plan("EE", items, hard={"e1": ("e2",)}, neg_ratio=0.3, split_num=1))
    for number in range(1, 30):
        found = [item for batch in items_of(hard, gold, number) for item in batch]
        assert {"e1", "e2"} < {item.type for item in found}
        assert {item.slots for item in found} == {("a", "b", "c")}
    drawn = Plan("EE", items, neg_ratio=0.3)
    lengths = {len(slots) for slots in slots_asked(drawn, gold, range(1, 60))}
    assert lengths > {1, 2}


def test_a_type_of_which_nothing_is_asked_is_left_out_unless_types_are_drawn() -> None:
    items = (SchemaItem("T", ("a", "b")), SchemaItem("U", ("c",)))
    gold = {"T": GoldSlots(("a",))}
    assert asked(Plan("KG", items, neg_ratio=0), gold) == ["T"]
    events = (SchemaItem("e", ("a",)), SchemaItem("f", ()))
    for number in range(1, 20):
        assert "f" in asked(Plan("EE", events, neg_ratio=0.5), {"f": GoldSlots()}, number)


def test_roles_are_shuffled_too() -> None:
    plan = Plan("EE", (SchemaItem("e", SLOTS),), shuffle=True)
    found = slots_asked(plan, {}, range(1, 9))
    assert len(set(found)) == 8
    assert all(sorted(one) == list(SLOTS) for one in found)


def test_a_seed_asks_the_same_from_version_to_version() -> None:
    plan = Plan("KG", (SchemaItem("T", SLOTS[:6]),), neg_ratio=0.5, shuffle=True, seed=7)
    found = slots_asked(plan, {"T": GoldSlots(("a1",))}, range(1000, 1005))
    assert ["".join(one) for one in found] == ["a2a5a1", "a5a1a0a4", "a1a5", "a4a1a2", "a1a4a2"]
    types = Plan("NER", ITEMS, neg_ratio=0.3, seed=7, split_num=-1)
    assert ["".join(asked(types, {}, number)) for number in range(1000, 1003)] == [
        "t00t05t08",
        "t02t06t08",
        "t00t02t04t10",
    ]


@pytest.mark.parametrize("shuffle", [False, True])
def test_roles_outside_the_schema_are_asked_in_training(shuffle: bool) -> None:
    items = (SchemaItem("e", ("b", "a")), SchemaItem("f", ("c",)))
    plan = Plan("EE", items, shuffle=shuffle)
    gold = {"e": GoldSlots(("a", "aa")), "other": GoldSlots(("x",))}
    found = [item for batch in items_of(plan, gold) for item in batch]
    assert {item.type: set(item.slots) for item in found} == {
        "e": {"a", "aa", "b"},
        "f": {"c"},
        "other": {"x"},
    }
    if not shuffle:
        assert [(item.type, item.slots) for item in found] == [
            ("e", ("a", "aa", "b")),
            ("f", ("c",)),
            ("other", ("x",)),
        ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"split_num": 0},
        {"split_num": -2},
        {"neg_ratio": 1.5},
        {"neg_ratio": -0.5},
        {"neg_ratio": float("nan")},
        {"split": "dev"},
        {"language": "fr"},
        {"max_empty_ratio": 1.1},
        {"max_empty_ratio": 0.5, "split": "test"},
        {"split_arguments": -1},
        {"split_arguments": 3},
        {"triggers": "both"},
        {"items": ()},
        {"hard": {}, "task_name": "EEA"},
    ],
    ids=str,
)
def test_plans_that_cannot_be_carried_out_are_refused(wrong: dict[str, Any]) -> None:
    plan = {"task_name": "NER", "items": ITEMS} | wrong
    with pytest.raises(UsageError):
        Plan(**plan).check()

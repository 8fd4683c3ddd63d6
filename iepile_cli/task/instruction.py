"""Schema items put to a text: the instruction string and the answer string.

``extract``, ``convert`` and ``train`` all build instructions and answers here, so that what a
model is trained on and what it is given later cannot drift apart. Both are Python's ``json.dumps``
layout (``", "`` and ``": "``, not ASCII-escaped), the wire format of the published adapters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from iepile_cli.errors import UsageError
from iepile_cli.task.shape import (
    Roles,
    SchemaItem,
    fixed_roles,
    in_text_order,
    parse,
    render,
    slot_role,
)
from iepile_cli.task.table import Task


def dumps(value: Any) -> str:
    """JSON in the wire format's layout."""
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Instruction:
    """Some items of a schema, put to one passage of text in one language."""

    task: Task
    items: tuple[SchemaItem, ...]
    text: str
    language: str = "en"

    @property
    def json(self) -> str:
        """The JSON text that the model is given."""
        return instruction_json(self.task, self.items, self.text, self.language)


def instruction_json(task: Task, items: Sequence[SchemaItem], text: str, language: str) -> str:
    """The JSON text of ``{"instruction", "schema", "input"}``, to the letter."""
    return dumps(
        {
            "instruction": task.instruction[language],
            "schema": schema_json(task, items),
            "input": text,
        }
    )


def schema_json(task: Task, items: Sequence[SchemaItem]) -> Any:
    """The schema as the instruction shows it: a list of items.

    Types that are bare strings become an object of type to description when one is described.
    """
    if not task.item_keys and any(item.description for item in items):
        return {item.type: item.description for item in items}
    return [item_json(task, item) for item in items]


def item_json(task: Task, item: SchemaItem) -> Any:
    """One schema item as the instruction shows it."""
    if not task.item_keys:
        return item.type
    shown: dict[str, Any] = {}
    for key, field in task.item_keys:
        if field == "slots":
            described = any(item.descriptions)
            shown[key] = (
                dict(zip(item.slots, item.descriptions, strict=True))
                if described
                else list(item.slots)
            )
        elif field == "triggers":
            if isinstance(item.trigger, tuple):
                shown[key] = list(item.trigger)
        else:
            shown[key] = getattr(item, field)
    return shown


def item_from_json(task: Task, shown: Any) -> SchemaItem:
    """Read a schema item as an instruction shows it; the inverse of ``item_json``.

    Raises ``ValueError`` for anything else.
    """
    if not task.item_keys:
        if not isinstance(shown, str):
            raise ValueError(f"a {task.name} schema item is a string, not {dumps(shown)}")
        return SchemaItem(shown)
    fields: dict[str, Any] = {}
    if not isinstance(shown, dict):
        raise ValueError(f"a {task.name} schema item is an object, not {dumps(shown)}")
    for key, field in task.item_keys:
        value = shown.get(key)
        if field == "slots":
            slots = value if isinstance(value, (list, dict)) else ()
            if any(isinstance(slot, (list, dict)) for slot in slots):
                raise ValueError(f"the {key} of an item of {task.name} are names: {dumps(shown)}")
            fields["slots"] = tuple(map(str, slots))
            if isinstance(value, dict):
                fields["descriptions"] = tuple(str(text or "") for text in value.values())
        elif field == "triggers":
            fields["trigger"] = tuple(map(str, value)) if isinstance(value, list) else True
        elif field == "trigger":
            fields["trigger"] = value is not False
        elif isinstance(value, str):
            fields[field] = value
        else:
            raise ValueError(f"a {task.name} schema item has no {key!r}: {dumps(shown)}")
    return SchemaItem(**fields)


def items_from_json(task: Task, shown: Any) -> tuple[SchemaItem, ...]:
    """Read an instruction's whole ``schema``; the inverse of ``schema_json``.

    Raises ``ValueError`` for anything else.
    """
    if isinstance(shown, dict) and not task.item_keys:
        return tuple(SchemaItem(key, description=str(text)) for key, text in shown.items())
    if not isinstance(shown, list):
        raise ValueError(f"a schema is a list of items, not {dumps(shown)}")
    return tuple(item_from_json(task, part) for part in shown)


def parse_instruction(task: Task, text: str) -> Instruction:
    """Read an instruction string back; raises ``ValueError`` for one that is none."""
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("input"), str):
        raise ValueError("an instruction is an object with 'instruction', 'schema' and 'input'")
    language = next(
        (name for name, words in task.instruction.items() if words == value.get("instruction")),
        "en",
    )
    return Instruction(task, items_from_json(task, value.get("schema")), value["input"], language)


# ------------------------------------------------------------------------------------- batching


def batch_bounds(count: int, split_num: int) -> Iterator[tuple[int, int]]:
    """Where to cut ``count`` schema items into batches: half-open index ranges.

    Full batches of ``split_num``; a remainder of at least ``max(1, split_num // 2)`` makes its own
    batch, a smaller one joins the last. ``split_num`` -1 makes one batch. No items make no batch.
    Source: IEPile section 3 and upstream ``convert_func.py``. Raises ``UsageError`` for 0 or
    less than -1.
    """
    if split_num < -1 or split_num == 0:
        raise UsageError(f"--split-num {split_num} is not a batch size", hint="1 or more, or -1")
    if count == 0:
        return
    full = 1 if split_num == -1 or count < split_num else count // split_num
    size = count if full == 1 and (split_num == -1 or count < split_num) else split_num
    rest = count - full * size
    own = rest >= max(1, split_num // 2)
    for number in range(full):
        last = number == full - 1 and not own
        yield number * size, count if last else (number + 1) * size
    if own and rest:
        yield full * size, count


def batches(items: Sequence[SchemaItem], split_num: int) -> list[tuple[SchemaItem, ...]]:
    """Cut a schema into batches, no two items of a batch sharing an answer key.

    Typed relations can share a predicate, which is their key: each further one goes to a round
    of its own, so that no answer can overwrite another's.
    """
    rounds: list[list[SchemaItem]] = []
    for item in items:
        for group in rounds:
            if all(other.type != item.type for other in group):
                group.append(item)
                break
        else:
            rounds.append([item])
    return [
        tuple(group[start:stop])
        for group in rounds
        for start, stop in batch_bounds(len(group), split_num)
    ]


# -------------------------------------------------------------------------------------- answers


def answer_json(
    task: Task, found: Iterable[tuple[SchemaItem, Sequence[Roles]]], text: str | None
) -> dict[str, Any]:
    """The answer to some schema items as a JSON object.

    Extracted items are put in the order in which their words first stand in ``text``; with None
    they keep the order given, as where offsets are known. Schema items that share a key share its
    list (upstream lets the last one overwrite, bug C08). What has no role that its schema item
    names is left out.
    """
    fixed = fixed_roles(task.shape)
    by_key: dict[str, tuple[SchemaItem, list[Roles]]] = {}
    for item, extracted in found:
        shown = {role for role in fixed if not item.lacks(role)}.union(map(slot_role, item.slots))
        by_key.setdefault(item.type, (item, []))[1].extend(
            roles for roles in extracted if any(role in shown for role, _ in roles)
        )
    return {
        key: render(
            task.shape,
            extracted if text is None else in_text_order(task.shape, extracted, text),
            item,
        )
        for key, (item, extracted) in by_key.items()
    }


def parse_answer(
    task: Task, items: Sequence[SchemaItem], answer: Any, problems: list[str]
) -> list[tuple[SchemaItem, list[Roles]]]:
    """Read a decoded answer; what cannot be used is left out and named in ``problems``.

    A key of the schema that is missing, and one that is not in the schema, are problems too.
    """
    if not isinstance(answer, dict):
        problems.append("the answer is not an object")
        return [(item, []) for item in items]
    asked = {item.type for item in items}
    problems += [f"{key}: was not asked for" for key in answer if key not in asked]
    found: list[tuple[SchemaItem, list[Roles]]] = []
    for item in items:
        if item.type in answer:
            found.append((item, parse(task.shape, answer[item.type], item, problems)))
        else:
            problems.append(f"{item.type}: no answer")
            found.append((item, []))
    return found


__all__ = [
    "Instruction",
    "answer_json",
    "batch_bounds",
    "batches",
    "dumps",
    "instruction_json",
    "item_from_json",
    "item_json",
    "items_from_json",
    "parse_answer",
    "parse_instruction",
    "schema_json",
]

"""Schema items made of what a schema holds: an expression, plain data, or three lists.

Every name goes through ``_name`` and every list of them through ``_names`` and ``_slots``, so that
one rule holds in all forms. Without a task, it follows from the form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from iepile_cli.errors import DataError, UsageError
from iepile_cli.task.expression import ParsedItem, examples, parse_expression
from iepile_cli.task.instruction import dumps
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS, Task

# Far above what a corpus has (the largest known has 7 146 types), far below what fills a memory.
MAX_TYPES = 20_000
MAX_SLOTS = 1_000
MAX_NAME = 2_000

# The same as plain data, for hints.
_NAMES = '["person", "location"]'
_SLOTTED = '{"attack": ["attacker", "target"]}'
_RELATION = '{"subject_type": "person", "predicate": "born in", "object_type": "city"}'
_DATA = f"write it like: {_NAMES} or {_SLOTTED} or [{_RELATION}]"


def items_from_expression(text: str, task: Task | None) -> tuple[Task, list[SchemaItem]]:
    """Read items in the command line's form; without ``task`` it follows from their form."""
    items = []
    for parsed in parse_expression(text):
        found, item = _from_parsed(parsed, task)
        if task is not None and found is not task:
            raise _other_task(parsed.text, found, task)
        task = found
        items.append(item)
    assert task is not None, "an expression holds an item"
    return task, items


def _from_parsed(parsed: ParsedItem, task: Task | None) -> tuple[Task, SchemaItem]:
    name, groups = _name(parsed.name), [_names(group) for group in parsed.groups]
    if parsed.subject:
        subject, object_ = _name(parsed.subject), _name(parsed.object)
        return TASKS["SPO"], SchemaItem(name, subject_type=subject, object_type=object_)
    match parsed.brackets:
        case "" if task is None or not task.layout.subject_type:
            return task or TASKS["NER"], SchemaItem(name)
        case "(":
            named = task if task is not None and task.slots == "arguments" else TASKS["EE"]
            return named, SchemaItem(name, groups[0])
        case "[(" | "[":
            return TASKS["EEA"], SchemaItem(name, (*groups, ())[1], trigger=groups[0])
        case "{":
            return TASKS["KG"], SchemaItem(name, groups[0])
        case _:
            raise _unreadable(parsed.text, task)


def items_from_data(value: Any, task: Task | None) -> tuple[Task, list[SchemaItem]]:
    """Read a schema given as plain data; raises ``UsageError``.

    A list of names or of items as an instruction shows them; or an object of type to description,
    or of type to slots (a list, or an object of slot to description).
    """
    if not isinstance(value, (dict, list)):
        raise UsageError(f"a schema is a list or an object, not {shown(value)}", hint=_DATA)
    check_count(len(value))
    if isinstance(value, dict):
        return _from_object(value, task)
    items = []
    for part in value:
        read = _from_instruction if isinstance(part, dict) else _from_name
        found, item = read(part, task)
        if task is not None and found is not task:
            raise _other_task(part, found, task)
        task = found
        items.append(item)
    if task is None:
        raise UsageError("the schema is empty", hint=_DATA)
    return task, distinct_items(items)


def _from_name(name: Any, task: Task | None) -> tuple[Task, SchemaItem]:
    task = task or TASKS["NER"]
    if task.layout.subject_type:
        raise UsageError(
            f"schema item {shown(name)} names no types of its ends", hint=f"write it {_RELATION}"
        )
    return task, SchemaItem(_name(name))


def _from_object(value: dict[Any, Any], task: Task | None) -> tuple[Task, list[SchemaItem]]:
    if not value:
        raise UsageError("the schema is empty", hint=_DATA)
    slotted = any(isinstance(parts, (list, dict)) for parts in value.values())
    task = task or TASKS["EE" if slotted else "NER"]
    items = []
    for key, parts in value.items():
        name = _name(key)
        if task.layout.subject_type:
            raise _unreadable_data(name, task)
        if isinstance(parts, (list, dict)):
            slots, descriptions = _slots(parts, name)
            if slots and not task.slots:
                raise _unreadable_data(name, task)
            items.append(SchemaItem(name, slots, descriptions=descriptions))
        elif parts is None or isinstance(parts, str):
            if parts and task.item_keys:
                raise _undescribed(name, task)
            items.append(SchemaItem(name, description=parts or ""))
        else:
            raise _no_parts(name, parts)
    return task, items


def _from_instruction(part: dict[Any, Any], task: Task | None) -> tuple[Task, SchemaItem]:
    """Read a schema item as an instruction shows it."""
    for candidate in (task,) if task else TASKS.values():
        keys = dict(candidate.item_keys)
        if not keys or next(iter(keys)) not in part or not set(part) <= {*keys, "description"}:
            continue
        if part.get("description"):
            raise _undescribed(part, candidate)
        fields: dict[str, Any] = {}
        for key, field in keys.items():
            value: Any = part.get(key)
            if field == "slots":
                owner = fields.get("type", "")
                fields["slots"], fields["descriptions"] = _slots(value or [], owner)
            elif field in ("trigger", "triggers"):
                given = isinstance(value, list)
                fields["trigger"] = _names(value) if given else value is not False
            elif key not in part:
                raise UsageError(f"schema item {shown(part)} has no {key!r}", hint=_DATA)
            else:
                fields[field] = _name(value)
        given = isinstance(fields.get("trigger"), tuple)
        return TASKS["EEA"] if given else candidate, SchemaItem(**fields)
    raise UsageError(f"schema item {shown(part)} cannot be read", hint=_DATA)


def from_lists(
    types: Sequence[str],
    roles: Sequence[str],
    roles_of: Mapping[str, Sequence[str]],
    task: Task | None = None,
) -> tuple[Task, list[SchemaItem]]:
    """Read upstream's three lists: types, roles, and roles of each type.

    A typed relation stands among the types as ``subject_predicate_object``: first and last part
    are the types, so a type name must hold no underscore (a limit of that format, bug C08d).
    """
    if task is None:
        task = TASKS["EE" if roles_of else "RE" if roles and not types else "NER"]
    if task.layout.subject_type:
        return task, [_triple(name) for name in _names(types)]
    if task.slots:
        check_count(len(roles_of))
        return task, [SchemaItem(_name(of), _slots(roles, of)[0]) for of, roles in roles_of.items()]
    names = roles if task.layout.field == "relation" else types
    return task, [SchemaItem(name) for name in _names(names)]


def _triple(name: str) -> SchemaItem:
    subject, _, rest = name.partition("_")
    predicate, _, object_ = rest.rpartition("_")
    if not all((subject, predicate, object_)):
        raise DataError(
            f"{name!r} is not of the form subject_predicate_object",
            hint=f"or name the parts: {_RELATION}",
        )
    return SchemaItem(predicate, subject_type=subject, object_type=object_)


def distinct_items(items: Iterable[SchemaItem]) -> list[SchemaItem]:
    """The items without repetitions; raises ``UsageError`` for two that contradict each other."""
    seen: dict[tuple[str, str, str], SchemaItem] = {}
    for item in items:
        key = (item.subject_type, item.type, item.object_type)
        if seen.setdefault(key, item) != item:
            raise UsageError(f"{item.type!r} stands in the schema twice with different parts")
    return list(seen.values())


# -------------------------------------------------------------------------- names, in every form


def _name(name: Any, owner: str = "") -> str:
    """A name, checked; raises ``UsageError``. ``owner`` is the schema item that it is part of."""
    if not isinstance(name, str):
        hint = _DATA if isinstance(name, (list, dict)) else "put it in quotes"
        of = f" of {shown(owner)}" if owner else ""
        raise UsageError(f"a name in the schema{of} is text, not {shown(name)}", hint=hint)
    if not name.strip():
        raise UsageError("an empty name stands in the schema", hint=_DATA)
    if len(name) > MAX_NAME:
        raise UsageError(f"a name of {len(name):,} characters in the schema, at most {MAX_NAME:,}")
    if re.search("[\ud800-\udfff]", name):
        raise UsageError(f"{name!a} in the schema holds half of a character (a lone surrogate)")
    return name


def _names(names: Iterable[Any], owner: str = "") -> tuple[str, ...]:
    """Names, each once."""
    found = tuple(dict.fromkeys(_name(name, owner) for name in names))
    check_count(len(found))
    return found


def _slots(parts: Any, owner: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Argument roles or attributes, each once, and their descriptions (none for a list)."""
    if not isinstance(parts, (list, tuple, dict)):
        raise _no_parts(owner, parts)
    if len(parts) > MAX_SLOTS:
        raise UsageError(
            f"schema item {shown(owner)} has {len(parts):,} parts, at most {MAX_SLOTS:,}"
        )
    descriptions = parts.values() if isinstance(parts, dict) else ()
    for text in descriptions:
        if text is not None and not isinstance(text, str):
            raise UsageError(f"schema item {shown(owner)} has {shown(text)} for a description")
    return _names(parts, owner), tuple(text or "" for text in descriptions)


def check_count(types: int) -> None:
    """Raise ``UsageError`` for more types than a schema may hold."""
    if types > MAX_TYPES:
        raise UsageError(
            f"the schema holds {types:,} types, at most {MAX_TYPES:,}",
            hint="split it, and extract with one part at a time",
        )


def shown(value: Any) -> str:
    """A value for a message; only its kind where it is large or no JSON."""
    if isinstance(value, (list, tuple, dict)) and not all(
        part is None or isinstance(part, (str, int, float)) for part in value
    ):
        return "an object" if isinstance(value, dict) else "a list"
    try:
        text = value if isinstance(value, str) else dumps(value)
    except (TypeError, ValueError):
        # Python writes no number of thousands of digits.
        text = "a large number" if isinstance(value, int) else str(value)
    short = text if len(text) <= 60 else text[:57] + "..."
    return repr(short) if isinstance(value, str) else short


def _unreadable(text: str, task: Task | None) -> UsageError:
    hint = f"write it like: {task.example}" if task else examples()
    return UsageError(f"schema item {shown(text)} cannot be read", hint=hint)


def _unreadable_data(name: str, task: Task) -> UsageError:
    form = f"[{_RELATION}]" if task.layout.subject_type else _SLOTTED if task.slots else _NAMES
    return UsageError(
        f"schema item {shown(name)} cannot be read as one of {task.name}",
        hint=f"write it like: {form}",
    )


def _no_parts(item: str, parts: Any) -> UsageError:
    return UsageError(
        f"schema item {shown(item)} has {shown(parts)} where a list of names belongs",
        hint=f"for example {_SLOTTED}",
    )


def _undescribed(item: Any, task: Task) -> UsageError:
    parts = f"; its {task.slots} may be described" if task.slots else ""
    return UsageError(
        f"schema item {shown(item)} has a description, for which the instruction of {task.name} "
        "has no place",
        hint=f"leave it out{parts}",
    )


def _other_task(part: Any, found: Task, task: Task) -> UsageError:
    return UsageError(
        f"schema item {shown(part)} is of the form of {found.name}, not {task.name}",
        hint=f"write it like: {task.example}",
    )

"""The shape of answers: five kinds of node from which every task's answer is built.

``parse`` reads the JSON value that answers a schema item into extracted items, and ``render``
writes extracted items as that value, in the wire format that published adapters were trained on.
No node knows a task. The grammar over the same nodes is in ``grammar.py``.

An extracted item is a ``Roles`` tuple, ``(role, mention)`` pairs in reading order: an entity is
``(("mention", "Bob"),)``, an event ``(("trigger", "hit"), ("attacker", "A"), ("target", "B"))``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

Roles: TypeAlias = tuple[tuple[str, str], ...]

NAN = "NAN"

# The roles that the task table gives to the fixed parts of extracted items.
FIXED = frozenset(("mention", "subject", "object", "trigger", "entity"))


@dataclass(frozen=True, slots=True)
class SchemaItem:
    """What to extract: an entity type, a relation, an event type or an entity type with attributes.

    ``type`` is the key of its answer (the predicate of a typed relation); ``slots`` are argument
    roles or attributes in their order; ``trigger`` is False for events without one and a
    tuple of words where triggers are given; ``description`` and ``descriptions`` (one for each
    slot, or empty) are optional explanations for the model.
    """

    type: str
    slots: tuple[str, ...] = ()
    subject_type: str = ""
    object_type: str = ""
    trigger: bool | tuple[str, ...] = True
    description: str = ""
    descriptions: tuple[str, ...] = ()

    def lacks(self, role: str) -> bool:
        """Whether the answer to this item leaves out the fixed role ``role``."""
        return role == "trigger" and self.trigger is False


def label_of(item: SchemaItem) -> str:
    """An item's name in schema files, files of hard negatives and confusions, and in sorting.

    The type itself; for typed relations ``subject_predicate_object``.
    """
    if item.subject_type or item.object_type:
        return f"{item.subject_type}_{item.type}_{item.object_type}"
    return item.type


@dataclass(frozen=True, slots=True)
class Mention:
    """``"Bob"``: a piece of the text in ``role``; ``absent`` is the word for none, if any."""

    role: str
    absent: str | None = None


@dataclass(frozen=True, slots=True)
class Each:
    """``[x, ...]``: any number of extracted items."""

    element: Node


@dataclass(frozen=True, slots=True)
class Record:
    """``{"subject": x, "object": y}``: fixed keys in fixed order."""

    fields: tuple[tuple[str, Node], ...]


@dataclass(frozen=True, slots=True)
class Slots:
    """``{role: "x" | ["x", ...] | absent}``: keys are the schema item's slots, in its order.

    With ``absent`` None, a slot without a value is left out; otherwise it has the value
    ``absent``, and ``{}`` stands for no slot filled at all.
    """

    absent: str | None


@dataclass(frozen=True, slots=True)
class Keyed:
    """``{"Bob": x, ...}``: the keys are mentions in ``role``, each with its slots."""

    role: str
    value: Node


Node: TypeAlias = Mention | Each | Record | Slots | Keyed


def slot_role(slot: str) -> str:
    """The role of a slot's filler in ``Roles``: the slot's name.

    A slot may be called as a fixed role is (GENEVA has an argument ``trigger``); its role then
    gets a star, so that the two stay apart.
    """
    return slot + "*" if slot.rstrip("*") in FIXED else slot


def slot_name(role: str) -> str:
    """The name of the slot whose fillers have this role; the inverse of ``slot_role``."""
    return role[:-1] if role.endswith("*") and role.rstrip("*") in FIXED else role


# ----------------------------------------------------------------------------- reading an answer


def parse(node: Node, value: Any, item: SchemaItem, problems: list[str]) -> list[Roles]:
    """Read the JSON value that answers one schema item into extracted items.

    What does not fit the node is left out and named in ``problems``; nothing is raised. An item
    without any mention is left out silently.
    """
    match node:
        case Each(element):
            if not isinstance(value, list):
                problems.append(f"{item.type}: {_kind(value)} where a list belongs")
                return []
            found = [_read(element, part, item, problems) for part in value]
        case Keyed(role, inner):
            if not isinstance(value, dict):
                problems.append(f"{item.type}: {_kind(value)} where an object belongs")
                return []
            found = [
                [(role, key), *_read(inner, part, item, problems)] if key else []
                for key, part in value.items()
            ]
        case _:
            raise TypeError(f"{type(node).__name__} cannot answer a schema item")
    return [tuple(roles) for roles in found if roles]


def _read(node: Node, value: Any, item: SchemaItem, problems: list[str]) -> list[tuple[str, str]]:
    """Read one extracted item; an empty list when nothing in it can be used."""
    match node:
        case Mention(role, absent):
            if isinstance(value, str):
                return [(role, value)] if value and value != absent else []
            problems.append(f"{item.type}: {_kind(value)} where a mention belongs")
            return []
        case Record(fields):
            if not isinstance(value, dict):
                problems.append(f"{item.type}: {_kind(value)} where an object belongs")
                return []
            roles: list[tuple[str, str]] = []
            for name, inner in fields:
                if item.lacks(name):
                    continue
                if name not in value:
                    problems.append(f"{item.type}: no {name!r}")
                    if isinstance(inner, Mention) and inner.absent is None:
                        return []
                    continue
                read = _read(inner, value[name], item, problems)
                if not read and isinstance(inner, Mention) and inner.absent is None:
                    return []
                roles += read
            return roles
        case Slots(absent):
            if not isinstance(value, dict):
                problems.append(f"{item.type}: {_kind(value)} where an object belongs")
                return []
            roles = []
            for slot, filler in value.items():
                if slot not in item.slots:
                    problems.append(f"{item.type}: {slot!r} was not asked for")
                    continue
                for part in filler if isinstance(filler, list) else (filler,):
                    if not isinstance(part, str):
                        problems.append(f"{item.type}: {_kind(part)} where a mention belongs")
                    # A model that learnt the word for 'none' with events uses it elsewhere too.
                    elif part not in ("", absent, NAN) and (slot_role(slot), part) not in roles:
                        roles.append((slot_role(slot), part))
            return roles
        case _:
            raise TypeError(f"{type(node).__name__} cannot stand inside an answer")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


# ----------------------------------------------------------------------------- writing an answer


def render(node: Node, found: Iterable[Roles], item: SchemaItem) -> Any:
    """The JSON value that answers one schema item with the extracted items ``found``, in order."""
    match node:
        case Each(element):
            return [_write(element, roles, item) for roles in found]
        case Keyed(_, inner):
            # A head that comes twice keeps its first place and gets the slots of each time.
            merged: dict[str, Roles] = {}
            for roles in found:
                head = roles[0][1]
                merged[head] = merged.get(head, ()) + roles[1:]
            return {head: _write(inner, roles, item) for head, roles in merged.items()}
        case _:
            raise TypeError(f"{type(node).__name__} cannot answer a schema item")


def _write(node: Node, roles: Roles, item: SchemaItem) -> Any:
    match node:
        case Mention(role, absent):
            return next((text for name, text in roles if name == role), absent)
        case Record(fields):
            return {
                name: _write(inner, roles, item) for name, inner in fields if not item.lacks(name)
            }
        case Slots(absent):
            fillers: dict[str, list[str]] = {}
            for role, text in roles:
                name = slot_name(role)
                if role in FIXED or name not in item.slots:
                    continue
                if text not in fillers.setdefault(name, []):
                    fillers[name].append(text)
            if not fillers:
                return {}
            filled: dict[str, Any] = {}
            for slot in item.slots:
                texts = fillers.get(slot)
                if texts:
                    filled[slot] = texts[0] if len(texts) == 1 else texts
                elif absent is not None:
                    filled[slot] = absent
            return filled
        case _:
            raise TypeError(f"{type(node).__name__} cannot stand inside an answer")


# ---------------------------------------------------------------------------------- text order


def fixed_roles(node: Node) -> tuple[str, ...]:
    """The roles that every extracted item has: they give its place in the text."""
    match node:
        case Mention(role):
            return (role,)
        case Each(element):
            return fixed_roles(element)
        case Record(fields):
            return tuple(role for _, inner in fields for role in fixed_roles(inner))
        case Keyed(role, inner):
            return (role, *fixed_roles(inner))
        case Slots():
            return ()


def in_text_order(node: Node, found: Iterable[Roles], text: str) -> list[Roles]:
    """Sort extracted items by where their fixed roles first stand in the text, fillers likewise.

    A mention that is not in the text counts as standing before it, ties keep their order: the
    order of the published corpus (upstream computes it and then drops it, bug C01).
    """
    fixed = fixed_roles(node)

    def position(roles: Roles) -> tuple[int, ...]:
        named = dict(roles)
        return tuple(text.find(named[role]) if role in named else -1 for role in fixed)

    def ordered(roles: Roles) -> Roles:
        if len(roles) <= len(fixed):
            return roles
        head = [pair for pair in roles if pair[0] in fixed]
        tail = [pair for pair in roles if pair[0] not in fixed]
        return (*head, *sorted(tail, key=lambda pair: text.find(pair[1])))

    extracted = [ordered(roles) for roles in found]
    return sorted(extracted, key=position) if fixed else extracted

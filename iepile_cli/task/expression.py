"""Schema items as they are written on the command line.

Several are separated by commas outside brackets::

    person,location                      entity types (or relations, event types with --task)
    person -works for-> organization     a typed relation
    attack(attacker, target, place)      an event type with its argument roles
    attack[bombed](attacker, target)     the same with its trigger given
    person{birthplace, occupation}       an entity type with attributes

A comma or bracket inside a name is written after a backslash; full-width punctuation is understood
too.
"""

from __future__ import annotations

import re

from iepile_cli.errors import UsageError
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS, Task

_FULL_WIDTH = str.maketrans("，（）｛｝［］、", ",(){}[],")
_BRACKETS = {"(": ")", "{": "}", "[": "]"}


def read_items(text: str, task: Task | None = None) -> tuple[Task, list[SchemaItem]]:
    """Read schema items separated by commas; without ``task`` it follows from their form.

    Raises ``UsageError`` naming the item that cannot be read, with a right one in the hint.
    """
    items = []
    for part in _split(text.translate(_FULL_WIDTH)):
        found, item = read_item(part, task)
        if task is not None and found is not task:
            raise UsageError(
                f"schema item {part!r} is of the form of {found.name}, not {task.name}",
                hint=f"write it like: {task.example}",
            )
        task = found
        items.append(item)
    if task is None:
        raise UsageError("the schema is empty", hint="for example --schema person,location")
    return task, items


def read_item(text: str, task: Task | None = None) -> tuple[Task, SchemaItem]:
    """Read one schema item in the command line's form; gives its task and the item."""
    if "->" in text:
        relation = re.fullmatch(r"(?s)(.*\S)\s+-\s*(\S.*?)\s*->\s*(\S.*)", text.strip())
        if relation is None:
            raise unreadable(text, TASKS["SPO"])
        subject, predicate, object_ = (read_name(part, text) for part in relation.groups())
        return TASKS["SPO"], SchemaItem(predicate, subject_type=subject, object_type=object_)
    name, groups = _groups(text)
    brackets = "".join(opening for opening, _ in groups)
    parts = [inner for _, inner in groups]
    match brackets:
        case "":
            plain = task if task is not None and not task.item_keys else None
            if task is not None and plain is None and task.slots:
                return task, SchemaItem(name)
            if task is not None and plain is None:
                raise unreadable(text, task)
            return plain or TASKS["NER"], SchemaItem(name)
        case "(":
            named = task if task is not None and task.slots == "arguments" else TASKS["EE"]
            return named, SchemaItem(name, slots=_names(parts[0], text))
        case "[(" | "[":
            roles = _names(parts[1], text) if len(parts) > 1 else ()
            return TASKS["EEA"], SchemaItem(name, slots=roles, trigger=_names(parts[0], text))
        case "{":
            return TASKS["KG"], SchemaItem(name, slots=_names(parts[0], text))
        case _:
            raise unreadable(text, task)


def _groups(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Take ``name(inner){inner}`` apart into the name and its bracketed groups."""
    name, groups, at = [], [], 0
    while at < len(text):
        character = text[at]
        if character == "\\":
            name.append(text[at : at + 2])
            at += 2
        elif character in _BRACKETS:
            end = _closing(text, at)
            groups.append((character, text[at + 1 : end]))
            at = end + 1
        elif groups and not character.isspace():
            raise unreadable(text, None)
        elif character in ")}]":
            raise UsageError(
                f"schema item {text.strip()!r} has a {character!r} that nothing opened",
                hint=examples(),
            )
        else:
            name.append(character)
            at += 1
    return read_name("".join(name), text), groups


def _closing(text: str, start: int) -> int:
    want = _BRACKETS[text[start]]
    at = start + 1
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == want:
            return at
        elif text[at] in "(){}[]":
            break
        at += 1
    raise UsageError(
        f"schema item {text.strip()!r} has no {want!r} for its {text[start]!r}", hint=examples()
    )


def _split(text: str) -> list[str]:
    """Cut at commas that stand outside brackets and are not escaped."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] in "({[":
            depth += 1
        elif text[at] in ")}]":
            depth = max(0, depth - 1)
        elif text[at] == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    parts.append(text[start:])
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()
    if not all(part.strip() for part in parts):
        raise UsageError(f"schema {text.strip()!r} has an empty name in it", hint=examples())
    return parts


def _names(text: str, whole: str) -> tuple[str, ...]:
    names = tuple(read_name(part, whole) for part in _split(text)) if text.strip() else ()
    if len(set(names)) < len(names):
        raise UsageError(f"schema item {whole.strip()!r} names a part twice")
    return names


def read_name(text: str, whole: str) -> str:
    """A name without its backslashes; raises ``UsageError`` for an empty one."""
    name = re.sub(r"\\(.)", r"\1", text.strip())
    if not name:
        raise UsageError(f"schema item {whole.strip()!r} has an empty name in it", hint=examples())
    return name


def unreadable(text: str, task: Task | None) -> UsageError:
    """The error for an item that is of no form, or not of the task's."""
    hint = f"write it like: {task.example}" if task else examples()
    return UsageError(f"schema item {text.strip()!r} cannot be read", hint=hint)


def examples() -> str:
    """Right items, for hints."""
    return "write it like: " + " or ".join(
        TASKS[name].example for name in ("NER", "SPO", "EE", "KG")
    )

"""Schemas: what is asked for, read from the command line or from a file.

What ``--schema`` is given is an expression (see ``expression.py``), JSON, or the name of a file:
IEPile's three JSON lines, plain JSON, or YAML. The task follows from the form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from iepile_cli.errors import DataError, IEPileError, UsageError
from iepile_cli.task.expression import examples, read_item, read_items, read_name, unreadable
from iepile_cli.task.instruction import dumps, item_from_json
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import TASKS, Task, task_named

_SUFFIXES = (".json", ".jsonl", ".yaml", ".yml")


def read_schema(given: Sequence[str], task: Task | None = None) -> tuple[Task, list[SchemaItem]]:
    """Read what ``--schema`` was given, once or several times, each an expression or a file.

    Without ``task`` it follows from the form of the items. Raises ``UsageError`` naming the item
    that cannot be read, with a right one in the hint; ``DataError`` for a file.
    """
    items: list[SchemaItem] = []
    inferred = task
    for text in given:
        path = _as_file(text)
        found, more = read_schema_file(path, inferred) if path else _read_expression(text, inferred)
        if inferred is not None and found is not inferred:
            raise UsageError(
                f"--schema {text!r} asks for {found.title} ({found.name}), and what stands before "
                f"it for {inferred.title} ({inferred.name})",
                hint="one task at a time",
            )
        inferred = found
        items += more
    if inferred is None or not items:
        raise UsageError("the schema is empty", hint="for example --schema person,location")
    return inferred, distinct_items(items)


def distinct_items(items: Iterable[SchemaItem]) -> list[SchemaItem]:
    """The items without repetitions; raises ``UsageError`` for two that contradict each other."""
    seen: dict[tuple[str, str, str], SchemaItem] = {}
    for item in items:
        key = (item.subject_type, item.type, item.object_type)
        if seen.setdefault(key, item) != item:
            raise UsageError(f"{item.type!r} stands in the schema twice with different parts")
    return list(seen.values())


# --------------------------------------------------------------------------- on the command line


def _as_file(text: str) -> Path | None:
    named = text[1:] if text.startswith("@") else text
    looks = named.lower().endswith(_SUFFIXES)
    try:
        there = (looks or text.startswith("@") or "/" in named) and Path(named).is_file()
    except (OSError, ValueError):
        there = False
    if there:
        return Path(named)
    if text.startswith("@") or looks:
        raise UsageError(f"--schema {text}: no such file")
    return None


def _read_expression(text: str, task: Task | None) -> tuple[Task, list[SchemaItem]]:
    if text.lstrip()[:1] in ("[", "{") and text.rstrip()[-1:] in ("]", "}"):
        try:
            value = json.loads(text)
        except ValueError:
            pass
        else:
            return schema_from_value(value, task)
    return read_items(text, task)


# -------------------------------------------------------------------------------------- in a file


def read_schema_file(path: Path, task: Task | None = None) -> tuple[Task, list[SchemaItem]]:
    """Read a schema file: upstream's three JSON lines, plain JSON, or YAML.

    Raises ``DataError`` naming the file and, where it is known, the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}", path=path) from None
    try:
        return parse_schema(text, task, yaml=path.suffix.lower() in (".yaml", ".yml"))
    except IEPileError as error:
        line = error.line if isinstance(error, DataError) else None
        reason = error.reason if isinstance(error, DataError) else error.message
        raise DataError(reason, path=path, line=line, hint=error.hint) from None


def parse_schema(
    text: str, task: Task | None = None, *, yaml: bool = False
) -> tuple[Task, list[SchemaItem]]:
    """Read the text of a schema file; raises ``DataError`` (with a line) or ``UsageError``."""
    if not text.strip():
        raise DataError("the schema is empty", hint='for example ["person", "location"]')
    if yaml:
        return schema_from_value(_read_yaml(text), task)
    try:
        return schema_from_value(json.loads(text), task)
    except json.JSONDecodeError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if error.msg == "Extra data" and len(lines) > 1:
            return _three_lines(text, task)
        raise DataError(f"not JSON: {error.msg}", line=error.lineno) from None


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        raise DataError(f"not YAML: {problem}", line=mark.line + 1 if mark else None) from None


def _three_lines(text: str, task: Task | None) -> tuple[Task, list[SchemaItem]]:
    values = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"not JSON: {error}", line=number) from None
    values += [[], {}][len(values) - 1 :] if len(values) < 3 else []
    types, roles, roles_of = values[:3]
    named = isinstance(types, list) and isinstance(roles, list) and isinstance(roles_of, dict)
    if not named:
        raise DataError(
            "not a schema in three lines",
            hint="types, roles and types with their roles: [..] then [..] then {..}",
        )
    return from_lists(types, roles, roles_of, task)


def from_lists(
    types: Sequence[str],
    roles: Sequence[str],
    roles_of: dict[str, Sequence[str]],
    task: Task | None = None,
) -> tuple[Task, list[SchemaItem]]:
    """Read upstream's three lists: types, roles, and roles of each type.

    A typed relation stands among the types as ``subject_predicate_object``: first and last part
    are the types, so a type name must hold no underscore (a limit of that format, bug C08d).
    """
    if task is None:
        task = TASKS["EE" if roles_of else "RE" if roles and not types else "NER"]
    if task.layout.subject_type:
        return task, [_triple(name) for name in types]
    if task.slots:
        return task, [
            SchemaItem(str(name), slots=tuple(map(str, slots))) for name, slots in roles_of.items()
        ]
    names = roles if task.layout.field == "relation" else types
    return task, [SchemaItem(str(name)) for name in names]


def _triple(name: str) -> SchemaItem:
    parts = str(name).split("_")
    if len(parts) < 3 or not all((parts[0], parts[-1], "_".join(parts[1:-1]))):
        raise DataError(
            f"{name!r} is not of the form subject_predicate_object",
            hint="or name the parts: "
            + dumps({"subject_type": "person", "predicate": "born in", "object_type": "city"}),
        )
    return SchemaItem("_".join(parts[1:-1]), subject_type=parts[0], object_type=parts[-1])


def schema_from_value(value: Any, task: Task | None = None) -> tuple[Task, list[SchemaItem]]:
    """Read a schema given as plain data.

    A list of names, items in the command line's form or items as an instruction shows them; an
    object of type to description, or of type to parts (a list, or an object of part to
    description); or ``{"task": ..., "schema": ...}`` around one of these. Raises ``UsageError``.
    """
    if isinstance(value, dict) and "schema" in value and set(value) <= {"task", "schema"}:
        named = task_named(str(value["task"])) if "task" in value else task
        return schema_from_value(value["schema"], task or named)
    if isinstance(value, dict):
        return _from_object(value, task)
    if not isinstance(value, list):
        raise UsageError(f"a schema is a list or an object, not {dumps(value)}", hint=examples())
    items = []
    for part in value:
        found, item = _from_part(part, task)
        if task is not None and found is not task:
            raise UsageError(
                f"schema item {dumps(part)} is of the form of {found.name}, not {task.name}",
                hint=f"write it like: {task.example}",
            )
        task = found
        items.append(item)
    if task is None:
        raise UsageError("the schema is empty", hint=examples())
    return task, distinct_items(items)


def _from_object(value: dict[str, Any], task: Task | None) -> tuple[Task, list[SchemaItem]]:
    items = []
    for name, parts in value.items():
        if isinstance(parts, (list, dict)):
            task = task or TASKS["EE"]
            texts = parts.values() if isinstance(parts, dict) else ()
            described = tuple(str(text or "") for text in texts)
            items.append(SchemaItem(str(name), tuple(map(str, parts)), descriptions=described))
        elif isinstance(parts, str) or parts is None:
            task = task or TASKS["NER"]
            items.append(SchemaItem(str(name), description=parts or ""))
        else:
            raise UsageError(f"schema item {name!r} has {dumps(parts)} for its parts")
        if bool(items[-1].slots) > bool(task.slots) or (task.layout.subject_type):
            raise unreadable(str(name), task)
    if task is None:
        raise UsageError("the schema is empty", hint=examples())
    return task, items


def _from_part(part: Any, task: Task | None) -> tuple[Task, SchemaItem]:
    if isinstance(part, str):
        plain = task is None or not task.item_keys
        if plain and not re.search(r"[({\[]|->", part):
            return task or TASKS["NER"], SchemaItem(read_name(part.replace("\\", "\\\\"), part))
        return read_item(part, task)
    if isinstance(part, dict):
        for candidate in (task,) if task else TASKS.values():
            keys = {key for key, _ in candidate.item_keys}
            if keys and candidate.item_keys[0][0] in part and set(part) <= keys | {"description"}:
                return _from_shown(candidate, part)
    raise UsageError(f"schema item {dumps(part)} cannot be read", hint=examples())


def _from_shown(task: Task, part: dict[str, Any]) -> tuple[Task, SchemaItem]:
    try:
        item = item_from_json(task, part)
    except ValueError as error:
        raise UsageError(str(error), hint=examples()) from None
    given = isinstance(part.get("trigger"), list)
    if given and task is TASKS["EE"]:
        return TASKS["EEA"], replace(item, trigger=tuple(map(str, part["trigger"])))
    return task, item

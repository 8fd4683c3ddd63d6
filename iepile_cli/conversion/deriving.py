"""A schema from the data itself, and its text in upstream's three lines."""

from __future__ import annotations

from collections.abc import Sequence

from iepile_cli.conversion.choosing import item_of
from iepile_cli.conversion.survey import Survey
from iepile_cli.errors import DataError
from iepile_cli.task.instruction import dumps, item_json
from iepile_cli.task.shape import SchemaItem, label_of
from iepile_cli.task.table import Task


def derived_schema(survey: Survey, name: str) -> tuple[SchemaItem, ...]:
    """Every type that the annotation has, with every slot seen with it, sorted by name.

    Raises ``DataError`` (``name`` says which data) when there is nothing to derive it from.
    """
    task = survey.task
    items = []
    for key in survey.types:
        item = item_of(key)
        if not item.type:
            raise DataError(
                f"heads have no {task.layout.type!r}, so the schema cannot be derived",
                path=name,
                hint="name types and attributes in a schema file",
            )
        slots = tuple(sorted(survey.slots[key])) if task.slots else ()
        items.append(SchemaItem(item.type, slots, item.subject_type, item.object_type))
    if not items:
        raise DataError(f"no {task.layout.field!r} annotation to derive a schema from", path=name)
    return tuple(sorted(items, key=label_of))


def schema_text(task: Task, items: Sequence[SchemaItem]) -> str:
    """A schema file: three JSON lines (types, roles, roles of each type).

    Typed relations whose type names hold an underscore cannot be written so (bug C08d) and make
    one JSON list of objects.
    """
    names = [item.type for item in items]
    if task.layout.subject_type:
        if any("_" in item.subject_type + item.object_type for item in items):
            return dumps([item_json(task, item) for item in items]) + "\n"
        lists = [label_of(item) for item in items], sorted(set(names))
    elif task.slots:
        lists = names, sorted({slot for item in items for slot in item.slots})
    else:
        lists = ([], names) if task.layout.field == "relation" else (names, [])
    roles_of = {item.type: list(item.slots) for item in items} if task.slots else {}
    return "".join(dumps(part) + "\n" for part in (*lists, roles_of))

"""Schemas: what is to be extracted, read from the command line or from a file.

What ``--schema`` is given is an expression, JSON, or the name of a file: JSON, YAML, or IEPile's
three JSON lines. The task follows from the form. Expressions are items as ``expression.py``
parses them::

    person,location                      entity types (or relations, event types with --task)
    person -works for-> organization     a typed relation
    attack(attacker, target, place)      an event type with its argument roles
    attack[bombed](attacker, target)     the same with its trigger given
    person{birthplace, occupation}       an entity type with attributes

In files and in JSON every name is literal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from iepile_cli import encodings, files
from iepile_cli.config import expand
from iepile_cli.errors import DataError, IEPileError, UsageError
from iepile_cli.task.instruction import dumps
from iepile_cli.task.schema_items import (
    check_count,
    distinct_items,
    from_lists,
    items_from_data,
    items_from_expression,
    shown,
)
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task, task_named

# Far above what the bounds on types allow.
MAX_BYTES = 1 << 25
_MAX_YAML_NODES = 1_000_000

_YAML = (".yaml", ".yml")
_SUFFIXES = (".json", ".jsonl", *_YAML)
# Other endings of files that someone may hold a schema in.
_TEXT_SUFFIXES = (".txt", ".text", ".csv", ".tsv", ".toml", ".xml", ".md", ".ini", ".cfg", ".conf")


@dataclass(frozen=True)
class _Source:
    """One value of ``--schema`` before its task is known; ``declared`` is the task it names.

    ``value`` is an expression, three lists, or plain data.
    """

    value: _Expression | _Lists | Any
    declared: Task | None = None
    path: Path | None = None

    def items(self, task: Task | None) -> tuple[Task, list[SchemaItem]]:
        """Its task and items, read as of ``task`` where that is given."""
        with_task = task or self.declared
        match self.value:
            case _Expression(text):
                return items_from_expression(text, with_task)
            case _Lists():
                return from_lists(*self.value, with_task)
            case _:
                return items_from_data(self.value, with_task)


class _Expression(NamedTuple):
    text: str


class _Lists(NamedTuple):
    types: list[str]
    roles: list[str]
    roles_of: dict[str, list[str]]


def read_schema(given: Sequence[str], task: Task | None = None) -> tuple[Task, list[SchemaItem]]:
    """Read what ``--schema`` was given, once or several times, each an expression or a file.

    Without ``task`` it follows from the form of the items or from what a file declares. Raises
    ``UsageError`` naming the item that cannot be read, with a right one in the hint, and for values
    of different tasks; ``DataError`` for a file.
    """
    items: list[SchemaItem] = []
    found: Task | None = None
    by_form = True
    for text in given:
        path = _as_path(text)
        source = _load_file(path) if path else _load_text(text)
        by_form &= source.declared is None
        # ``attack(target)`` and then ``meeting``: a bare name is of the task before it.
        read, more = _items(source, task or (found if by_form else None))
        if found is not None and read is not found:
            raise UsageError(
                f"--schema {shown(text)} asks for {read.title} ({read.name}), the one before it "
                f"for {found.title} ({found.name})",
                hint="one task at a time; --task reads them as one where their form allows it",
            )
        found = read
        items += more
    if found is None or not items:
        raise UsageError("the schema is empty", hint="for example --schema person,location")
    check_count(len(items))
    return found, distinct_items(items)


def read_schema_file(path: Path, task: Task | None = None) -> tuple[Task, list[SchemaItem]]:
    """Read a schema file: upstream's three JSON lines, plain JSON, or YAML.

    Raises ``DataError`` naming the file and, where it is known, the line.
    """
    return _items(_load_file(path), task)


def parse_schema(
    text: str, task: Task | None = None, *, yaml: bool = False
) -> tuple[Task, list[SchemaItem]]:
    """Read the text of a schema file; raises ``DataError`` (with a line) or ``UsageError``."""
    return _parsed(text, yaml=yaml).items(task)


def _items(source: _Source, task: Task | None) -> tuple[Task, list[SchemaItem]]:
    try:
        return source.items(task)
    except IEPileError as error:
        raise (_of_file(error, source.path) if source.path else error) from None


def _of_file(error: IEPileError, path: Path) -> DataError:
    line = error.line if isinstance(error, DataError) else None
    reason = error.reason if isinstance(error, DataError) else error.message
    return DataError(reason, path=files.display_name(path), line=line, hint=error.hint)


# -------------------------------------------------------------------------------------- loading


def _as_path(text: str) -> Path | None:
    """The file that ``--schema`` names, if it names one; ``UsageError`` for one that is absent."""
    named = text.removeprefix("@")
    path = expand(named)
    try:
        there, folder, beside = path.exists(), path.is_dir(), path.parent.is_dir()
    except (OSError, ValueError):  # too long for a path, or with a NUL in it
        there = folder = beside = False
    suffix = files.suffix(named)
    one_name = not re.search(r"[,;(){}\[\]]|->", named)
    looks = (
        text.startswith("@")
        or named.startswith(("./", "../", "~/", ".\\", "..\\"))
        or suffix.endswith(_SUFFIXES)
        or (one_name and suffix.endswith(_TEXT_SUFFIXES))
        or ("/" in named and (there or (one_name and (beside or re.fullmatch(r"\.\w+", suffix)))))
    )
    if not looks:
        return None
    if there and not folder:
        return path
    raise UsageError(
        f"--schema {text}: " + ("is a folder, not a schema file" if folder else "no such file"),
        hint=f"for a type of that name, write --schema '{dumps([named])}'",
    )


def _load_text(text: str) -> _Source:
    if text.lstrip()[:1] not in ("[", "{"):
        return _Source(_Expression(text))
    try:
        return _declaring(_json(text))
    except DataError as error:
        raise UsageError(f"--schema {shown(text)} is {error.reason}", hint=error.hint) from None


def _load_file(path: Path) -> _Source:
    name = files.display_name(path)
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise DataError(f"is larger than {MAX_BYTES:,} bytes: not a schema", path=name)
    data = files.read_bytes(path, max_decompressed=MAX_BYTES)
    try:
        text = encodings.decode(data)
    except DataError as error:
        raise DataError(error.reason, path=name, hint="save it as UTF-8") from None
    try:
        source = _parsed(text, yaml=files.suffix(path).endswith(_YAML))
    except IEPileError as error:
        raise _of_file(error, path) from None
    return _Source(source.value, source.declared, path)


def _parsed(text: str, *, yaml: bool) -> _Source:
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise DataError("the schema is empty", hint='for example ["person", "location"]')
    if yaml:
        return _declaring(_yaml(text))
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    try:
        return _declaring(_json(text))
    except DataError as error:
        if "Extra data" not in error.reason or len(lines) < 2:
            raise
    return _Source(_three_lines([_json(line, n) for n, line in lines]))


def _json(text: str, line: int | None = None) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", line=line or error.lineno) from None
    except RecursionError:
        raise DataError("not a schema: lists within lists without end", line=line) from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}", line=line) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that comes twice the first would be lost, so it is refused."""
    value = dict(pairs)
    if len(value) < len(pairs):
        _refuse_repeated((key, None) for key, _ in pairs)
    return value


def _refuse_repeated(keys: Iterable[tuple[str, int | None]]) -> None:
    """Raise ``DataError`` for a key of an object that came before; each key with its line."""
    seen: set[str] = set()
    for key, line in keys:
        if key in seen and key != "<<":
            raise DataError(f"the key {shown(key)} comes twice in one object", line=line)
        seen.add(key)


def _yaml(text: str) -> Any:
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        size = _unfolded(node)
        if size > _MAX_YAML_NODES:
            raise DataError(f"its aliases unfold to {size:,} values, at most {_MAX_YAML_NODES:,}")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        raise DataError(f"not YAML: {problem}", line=mark.line + 1 if mark else None) from None
    except RecursionError:
        raise DataError("not a schema: lists within lists without end") from None
    except ValueError as error:  # a date or number that cannot be
        raise DataError(f"not YAML: {error}") from None


def _unfolded(node: Any) -> int:
    """How many values a YAML node holds with its aliases written out; they are shared in memory.

    Raises ``DataError`` for a key that comes twice in a mapping.
    """
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = _MAX_YAML_NODES  # for an alias within itself
            parts = node.value if isinstance(node.value, list) else []
            if parts and isinstance(parts[0], tuple):
                keys = (key for key, _ in parts if isinstance(key.value, str))
                _refuse_repeated((key.value, key.start_mark.line + 1) for key in keys)
                parts = [part for pair in parts for part in pair]
            sizes[id(node)] = 1 + sum(map(size, parts))
        return sizes[id(node)]

    return size(node)


def _declaring(value: Any) -> _Source:
    """Plain data, taken out of ``{"task": ..., "schema": ...}`` where it stands in that."""
    if not (isinstance(value, dict) and "schema" in value and set(value) <= {"task", "schema"}):
        return _Source(value)
    named = value.get("task")
    if named is not None and not isinstance(named, str):
        raise UsageError(f"the task of a schema is a name, not {shown(named)}")
    return _Source(value["schema"], task_named(named) if named is not None else None)


def _three_lines(values: Sequence[Any]) -> _Lists:
    missing: list[Any] = [[], [], {}]
    types, roles, roles_of = [*values, *missing[len(values) :]][:3]
    named = isinstance(types, list) and isinstance(roles, list) and isinstance(roles_of, dict)
    if not named:
        raise DataError(
            "not a schema in three lines",
            hint="types, roles and types with their roles: [..] then [..] then {..}",
        )
    return _Lists(types, roles, roles_of)

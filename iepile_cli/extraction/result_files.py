"""Files of results, as ``iepile extract`` writes them, read again: with their texts, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from iepile_cli import record_files
from iepile_cli.encodings import decoded_lines
from iepile_cli.errors import DataError, OnError
from iepile_cli.files import STDIN, display_name, open_input, suffix
from iepile_cli.task import Task
from iepile_cli.task.shape import fixed_roles
from iepile_cli.task.table import TASKS

# A result, its text or None, and why there is none.
ResultWithText: TypeAlias = "tuple[dict[str, Any], str | None, str]"


def read_results(path: str | None, on_error: OnError) -> Iterator[dict[str, Any]]:
    """The results of a JSON Lines file or a JSON array; ``-`` and None are standard input.

    What is no result goes to ``on_error``, with its line. Raises ``DataError`` for a file that
    cannot be read, or that holds no result at all.
    """
    name = display_name(path)
    found = failed = 0
    with open_input(path) as source:
        array = source.stream.peek(1)[:1] == b"[" or suffix(name) == ".json"
        for number, value in record_files.objects(decoded_lines(source.stream), whole=array):
            try:
                if isinstance(value, DataError):
                    raise value
                check_result(value)
            except DataError as error:
                failed += 1
                if not found and failed == 3:
                    break
                on_error(error.at(name, number))
            else:
                found += 1
                yield value
    if not found:
        raise DataError(
            "holds no results", path=name, hint="`iepile extract -o results.jsonl` writes them"
        )


def check_result(value: Any) -> None:
    """Raise ``DataError``, without a path, for what is no result of ``iepile extract``."""
    if not isinstance(value, dict) or not isinstance(value.get("items"), list):
        output = isinstance(value, dict) and "output" in value
        raise DataError(
            "is no result of extract: it has no items",
            hint="answered instructions are scored by `iepile eval`" if output else "",
        )
    task = TASKS.get(str(value.get("task")))
    if task is None or not isinstance(value.get("source"), str):
        raise DataError("is no result of extract: it has no source, or no known task")
    for number, item in enumerate(value["items"]):
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise DataError(f"its item {number} has no type")
        for part in parts_of(task, item):
            if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                raise DataError(f"its item {number} has a part without a text")
            others = part.get("occurrences", [])
            if not _is_place(part.get("start"), part.get("end")) or not (
                isinstance(others, list) and all(map(_is_pair, others))
            ):
                raise DataError(f"its item {number} has a place that is none")


def _is_place(start: Any, end: Any) -> bool:
    """Whether two values are a place in a text, or both are not given."""
    if start is None and end is None:
        return True
    return type(start) is int and type(end) is int and 0 <= start <= end


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and None not in value and _is_place(*value)


def parts_of(task: Task, item: dict[str, Any]) -> Iterator[Any]:
    """The mentions of an item of a result: objects with ``text``, ``start`` and ``end``."""
    if task.is_single:
        yield item
        return
    yield from (item[role] for role in fixed_roles(task.shape) if item.get(role) is not None)
    slots = item.get(task.slots) if task.slots else ()
    for slot in slots if isinstance(slots, list) else ():
        yield slot if isinstance(slot, dict) and isinstance(slot.get("role"), str) else None


def with_texts(
    results: Iterable[dict[str, Any]],
    folder: Path,
    *,
    text_field: str | None = None,
    encoding: str | None = None,
    on_source: Callable[[Path], None] = lambda path: None,
) -> Iterator[ResultWithText]:
    """Each result with its text: its own, or that of its source.

    A source is looked for where the result says, and in ``folder``. Where it is not there, or is
    not the text any more that the places are of, the text is None and the reason is given.
    ``on_source`` hears of the files that texts may come from.
    """
    from iepile_cli.conversion.readers.results import SourceTexts
    from iepile_cli.conversion.record_gold import Unusable

    field = record_files.TEXT_FIELD if text_field is None else text_field
    texts = SourceTexts(folder, text_field=field, encoding=encoding)
    for result in results:
        try:
            if not isinstance(result.get("text"), str):
                path = texts.path(result["source"])
                if path is not None:
                    on_source(path)
            text = texts.of(result)
        except Unusable as error:
            yield result, None, error.what
            continue
        yield (result, None, reason) if (reason := misplaced(result, text)) else (result, text, "")


def misplaced(result: dict[str, Any], text: str) -> str:
    """Why a text is not the one that a result's places are of; ``""`` when it is."""
    task = TASKS[result["task"]]
    for item in result["items"]:
        for part in parts_of(task, item):
            start, end = part.get("start"), part.get("end")
            if start is not None and end is not None and text[start:end] != part["text"]:
                return f"{result['source']} has changed: {part['text']!r} is not at {start}"
    return ""


def folder_of(path: str | None) -> Path:
    """The folder in which the sources of a file of results are looked for."""
    return Path() if path is None or path == STDIN else Path(path).parent

"""Gold documents of any form, found by what predictions say of theirs."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

from iepile_cli.conversion.readers import form_of, read_gold
from iepile_cli.conversion.record_gold import entries_of
from iepile_cli.evaluation.decoding import decode, decode_record
from iepile_cli.evaluation.predictions import plain_file
from iepile_cli.task.instruction import dumps
from iepile_cli.task.table import Task

# What a gold document can be found by.
Name: TypeAlias = tuple[Any, ...]
NO_GOLD = -1


class GoldIndex:
    """The gold documents of one task in a temporary file, found by what predictions say of theirs.

    ``records`` are unified records with offsets, or results. The n-th prediction of a name goes
    with the n-th gold document of that name. In memory are some hundred bytes a document.
    """

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        # Closed by ``close``.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._starts = array("q", [0])
        self._by_name: dict[Name, list[int]] = {}
        self._times: Counter[Name] = Counter()
        self._used: set[int] = set()
        for number, record in enumerate(records):
            self._file.write(dumps(record).encode("utf-8", "surrogatepass"))
            self._starts.append(self._file.tell())
            for name in _names(record, record.get("text")):
                self._by_name.setdefault(name, []).append(number)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def record(self, number: int) -> dict[str, Any]:
        """A gold document: a unified record, or a result."""
        self._file.seek(self._starts[number])
        data = self._file.read(self._starts[number + 1] - self._starts[number])
        value: dict[str, Any] = decode(data.decode("utf-8", "surrogatepass"))
        return value

    def find(self, prediction: dict[str, Any], text: str | None) -> int:
        """The number of the gold document of a prediction, which is then used; or ``NO_GOLD``."""
        for name in _names(prediction, text):
            numbers = self._by_name.get(name, [])
            while self._times[name] < len(numbers):
                number = numbers[self._times[name]]
                self._times[name] += 1
                if number not in self._used:
                    self._used.add(number)
                    return number
        return NO_GOLD

    def unused(self) -> Iterator[int]:
        """The gold documents that no prediction answers."""
        return (number for number in range(len(self)) if number not in self._used)


def _names(value: dict[str, Any], text: Any) -> Iterator[Name]:
    source, name = value.get("source"), value.get("id")
    if "items" in value:
        yield "result", "" if source is None else str(source), "" if name is None else str(name)
    if name not in (None, ""):
        yield ("id", str(name))
    if isinstance(text, str):
        data = text.encode("utf-8", "surrogatepass")
        yield ("text", blake2b(data, digest_size=12).digest())


def gold_records(path: str, form: str, task: Task) -> Iterator[dict[str, Any]]:
    """The gold of one task in a file: unified records with offsets, or results as they are."""
    known = form_of(Path(path), form)
    # Results need no text here, and no answer beside their items.
    if known == "results" or (known == "iepile" and _holds_results(path)):
        with plain_file(path) as plain, open(plain, "rb") as file:
            for line in file:
                value = decode_record(line)
                if is_result(value) and entries_for(value, task) is not None:
                    yield value
        return
    for record in read_gold(path, form, task):
        if record.task is not None:
            yield {
                "id": record.id,
                "text": record.text,
                task.layout.field: entries_of(task, record.items),
            }


def _holds_results(path: str) -> bool:
    """Whether the first record of a file is a result."""
    if not os.path.isfile(path):
        return False
    with plain_file(path) as plain, open(plain, "rb") as file:
        return is_result(decode_record(next((line for line in file if line.strip()), b"")))


def is_result(value: Any) -> bool:
    """Whether a line is a result of ``extract``, whatever its items are like."""
    return isinstance(value, dict) and "items" in value


def entries_for(record: dict[str, Any], task: Task) -> list[Any] | None:
    """The annotation of a task in a gold document: the items of a result, or its list."""
    if is_result(record):
        name = record.get("task")
        own = not isinstance(name, str) or name.upper() == task.name
        found = record["items"] if own else None
    else:
        found = record.get(task.layout.field)
    return found if isinstance(found, list) else None

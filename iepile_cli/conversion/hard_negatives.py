"""Files that say which labels are easily mistaken for which, and how they are written.

Read: ``{label: [labels]}``; upstream's ``hard_dict.json``, ``{task: {dataset: {label:
[labels]}}}``; a table of confusions from an evaluation, ``{source: {"task": task, "confusions":
{gold label: {predicted label: count}}}}``. Written: upstream's nested form.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from iepile_cli.conversion.mining import MOST
from iepile_cli.conversion.plan import HardNegatives
from iepile_cli.encodings import decode_json
from iepile_cli.errors import DataError
from iepile_cli.files import read_text
from iepile_cli.writing import write_atomic


def read_hard_negatives(path: Path, task_name: str, source: str) -> HardNegatives:
    """Read the part of a file that is about a task and a dataset; empty when there is none.

    Raises ``DataError`` for a file of another form.
    """
    try:
        value = decode_json(read_text(path))
    except DataError as error:
        raise error.at(path) from None
    if not isinstance(value, dict):
        raise _unknown(path)
    if all(isinstance(part, list) for part in value.values()):
        return _lists(value, path)
    if all(isinstance(part, dict) and "confusions" in part for part in value.values()):
        return _from_confusions(value, task_name, source, path)
    sets = value.get(task_name, {})
    if not all(isinstance(part, dict) for part in value.values()):
        raise _unknown(path)
    own = sets.get(source, {})
    if isinstance(own, list):
        # One level only: {task: {label: [labels]}}.
        return _lists(sets, path)
    if not isinstance(own, dict):
        raise _unknown(path)
    return _lists(own, path)


def _lists(value: Mapping[str, Any], path: Path) -> HardNegatives:
    for label, others in value.items():
        if not isinstance(others, list) or not all(isinstance(one, str) for one in others):
            raise DataError(f"{label!r} has no list of labels", path=path)
    return {label: tuple(others) for label, others in value.items()}


def _from_confusions(
    value: Mapping[str, Any], task_name: str, source: str, path: Path
) -> HardNegatives:
    """Labels that a model took for each other, the most frequent first, both ways round.

    Confusions of the dataset itself when it is there, else of all datasets of the task.
    """
    tables = {name: part for name, part in value.items() if part.get("task") == task_name}
    # A source with several tasks has a table for each, told apart by the task.
    own = next((name for name in (source, f"{source} ({task_name})") if name in tables), None)
    if own is not None:
        tables = {own: tables[own]}
    counts: dict[str, Counter[str]] = {}
    for part in tables.values():
        if not isinstance(part["confusions"], dict):
            raise _unknown(path)
        for gold, predicted in part["confusions"].items():
            if not isinstance(predicted, dict):
                raise _unknown(path)
            for label, count in predicted.items():
                if label != gold and label and gold and isinstance(count, (int, float)):
                    counts.setdefault(gold, Counter())[label] += int(count)
                    counts.setdefault(label, Counter())[gold] += int(count)
    return {
        label: tuple(sorted(others, key=lambda one: (-others[one], one))[:MOST])
        for label, others in counts.items()
    }


def joined(dictionaries: Iterable[HardNegatives]) -> HardNegatives:
    """Several dictionaries as one; what stands first in a list stays first."""
    merged: dict[str, dict[str, None]] = {}
    for dictionary in dictionaries:
        for label, others in dictionary.items():
            merged.setdefault(label, {}).update(dict.fromkeys(others))
    return {label: tuple(others) for label, others in merged.items()}


def write_hard_negatives(path: Path, by_set: Mapping[tuple[str, str], HardNegatives]) -> None:
    """Write dictionaries by (task, dataset) in upstream's nested form; replaces a file whole."""
    nested: dict[str, dict[str, dict[str, list[str]]]] = {}
    for (task_name, source), dictionary in sorted(by_set.items()):
        nested.setdefault(task_name, {})[source] = {
            label: list(others) for label, others in sorted(dictionary.items())
        }
    write_atomic(path, json.dumps(nested, ensure_ascii=False, indent=2) + "\n")


def _unknown(path: Path) -> DataError:
    return DataError(
        "is no dictionary of hard negatives",
        path=path,
        hint='{label: [labels]}, {task: {dataset: {label: [labels]}}} or confusions of "eval"',
    )

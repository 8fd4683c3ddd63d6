"""Records of Parquet and Arrow files, and the names of numbered tags, as Hugging Face has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iepile_cli import arrow_files
from iepile_cli.encodings import decode_json
from iepile_cli.errors import DataError
from iepile_cli.files import display_name, read_text
from iepile_cli.task.instruction import dumps

_INFO = "dataset_info.json"


def read_parquet(path: Path) -> Iterator[tuple[int, bytes]]:
    """The rows of a file as JSON records, each with its number; raises ``DataError``."""
    try:
        with path.open("rb") as file:
            for number, row in arrow_files.rows(file):
                yield number, dumps(row).encode()
    except DataError as error:
        raise error.at(display_name(path)) from None


def feature_names(path: Path | None) -> list[str]:
    """The names of numbered tags: in the file itself, or in ``dataset_info.json`` beside.

    Empty where nothing names them.
    """
    if path is None:
        return []
    info: Any = {}
    if path.suffix.lower() in arrow_files.SUFFIXES:
        with path.open("rb") as file:
            metadata = arrow_files.metadata(file)
        info = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})
    elif (beside := path.with_name(_INFO)).is_file():
        info = decode_json(read_text(beside))
    features = info.get("features", {}) if isinstance(info, dict) else {}
    for key in ("ner_tags", "tags", "labels"):
        feature = features.get(key) or {}
        # Written as {"feature": {"names": ...}}, in older files as [{"names": ...}].
        inner = feature[0] if isinstance(feature, list) and feature else feature
        inner = inner.get("feature", inner) if isinstance(inner, dict) else {}
        names = inner.get("names", inner.get("class_label", {}).get("names", []))
        if names:
            return [str(name) for name in (names.values() if isinstance(names, dict) else names)]
    return []

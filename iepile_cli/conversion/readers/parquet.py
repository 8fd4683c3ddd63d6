"""Records of Parquet files, and the names of numbered tags, as Hugging Face datasets have them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iepile_cli.errors import DataError
from iepile_cli.files import decode_json, read_text
from iepile_cli.task.instruction import dumps

_INFO = "dataset_info.json"
_BATCH = 1000


def read_parquet(path: Path) -> Iterator[tuple[int, bytes]]:
    """The rows of a file as JSON records, each with its number; raises ``DataError``."""
    file = _opened(path)
    number = 0
    for batch in file.iter_batches(batch_size=_BATCH):
        for row in batch.to_pylist():
            number += 1
            yield number, dumps(row).encode()


def feature_names(path: Path | None) -> list[str]:
    """The names of numbered tags: in a Parquet file itself, or in ``dataset_info.json`` beside.

    Empty where nothing names them.
    """
    if path is None:
        return []
    info: Any = {}
    if path.suffix.lower() == ".parquet":
        metadata = _opened(path).schema_arrow.metadata or {}
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


def _opened(path: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(
            "Parquet can be read only with pyarrow",
            path=path,
            hint="pip install pyarrow, or write the records as JSON Lines",
        ) from None
    try:
        return ParquetFile(path)
    except (OSError, ArrowInvalid) as error:
        raise DataError(f"is no Parquet file: {error}", path=path) from None

"""Rows of Parquet and Arrow files (IPC, Feather), read batch by batch with pyarrow."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from iepile_cli.errors import DataError, install_hint

SUFFIXES = frozenset({".parquet", ".arrow", ".feather"})
_BATCH = 1000
_PARQUET = b"PAR1"


def rows(stream: io.BufferedReader, columns: Sequence[str] = ()) -> Iterator[tuple[int, Any]]:
    """The rows of an open file as objects, each with its number from 1.

    Only ``columns`` are read, where any are given: the first must be there, the others may. Raises
    ``DataError``, without a path, for a file that is none of these or lacks the column.
    """
    try:
        import pyarrow
    except ImportError:
        raise DataError(
            "Parquet and Arrow are read with pyarrow, which is not installed",
            hint=install_hint("parquet"),
        ) from None
    # Both are read from their end.
    file = stream if stream.seekable() else io.BytesIO(stream.read())
    number = 0
    try:
        schema, read = _opened(file)
        for batch in read(_present(schema.names, columns)):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"is no readable Parquet or Arrow file: {reason}") from None


def metadata(file: Any) -> dict[bytes, bytes]:
    """What the schema of an open file says of itself, as Hugging Face's datasets do."""
    return dict(_opened(file)[0].metadata or {})


def _opened(file: Any) -> tuple[Any, Callable[[list[str] | None], Iterable[Any]]]:
    """The schema of an open file, and what reads its columns (None: all) batch by batch."""
    from pyarrow import feather, ipc
    from pyarrow.parquet import ParquetFile

    start = file.read(4)
    file.seek(0)
    if start == _PARQUET:
        parquet = ParquetFile(file)
        return parquet.schema_arrow, lambda names: parquet.iter_batches(_BATCH, columns=names)
    if start == b"FEA1":
        table = feather.read_table(file)
        return table.schema, lambda names: (table.select(names) if names else table).to_batches(
            _BATCH
        )
    if start == b"ARRO":
        reader = ipc.open_file(file)
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        reader = batches = ipc.open_stream(file)
    return reader.schema, lambda names: (b.select(names) if names else b for b in batches)


def _present(names: Sequence[str], columns: Sequence[str]) -> list[str] | None:
    """Those of the columns that a file has; None without any, for all."""
    if not columns:
        return None
    if columns[0] not in names:
        known = ", ".join(names[:12]) or "none"
        raise DataError(
            f"has no column {columns[0]!r}", hint=f"--text-field names it; it has: {known}"
        )
    return [name for name in columns if name in names]

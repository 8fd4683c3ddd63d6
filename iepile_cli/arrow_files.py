"""Rows of Parquet and Arrow files (IPC, Feather), read batch by batch with pyarrow."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
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
        for batch in _batches(file, columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"is no readable Parquet or Arrow file: {reason}") from None


def _batches(file: Any, columns: Sequence[str]) -> Iterator[Any]:
    from pyarrow import feather, ipc
    from pyarrow.parquet import ParquetFile

    start = file.read(4)
    file.seek(0)
    if start == _PARQUET:
        parquet = ParquetFile(file)
        wanted = _present(parquet.schema_arrow.names, columns)
        yield from parquet.iter_batches(batch_size=_BATCH, columns=wanted)
    elif start == b"ARRO":
        with ipc.open_file(file) as reader:
            wanted = _present(reader.schema.names, columns)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                yield batch.select(wanted) if wanted is not None else batch
    elif start == b"FEA1":
        table = feather.read_table(file)
        wanted = _present(table.schema.names, columns)
        yield from (table.select(wanted) if wanted is not None else table).to_batches(_BATCH)
    else:
        with ipc.open_stream(file) as reader:
            wanted = _present(reader.schema.names, columns)
            for batch in reader:
                yield batch.select(wanted) if wanted is not None else batch


def metadata(file: Any) -> dict[bytes, bytes]:
    """What the schema of an open file says of itself, as Hugging Face's datasets do."""
    from pyarrow import feather, ipc
    from pyarrow.parquet import ParquetFile

    start = file.read(4)
    file.seek(0)
    if start == _PARQUET:
        schema = ParquetFile(file).schema_arrow
    elif start == b"ARRO":
        schema = ipc.open_file(file).schema
    elif start == b"FEA1":
        schema = feather.read_table(file).schema
    else:
        schema = ipc.open_stream(file).schema
    return dict(schema.metadata or {})


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

"""Extraction on a cluster: what a replica does with a shard, and the run of all of them."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from iepile_cli.backends import Options
from iepile_cli.cluster.options import ClusterOptions
from iepile_cli.cluster.ray_data import LOCAL, Outcome, Pool, connected, run_shards
from iepile_cli.cluster.shard_folder import ShardFolder
from iepile_cli.errors import IEPileError
from iepile_cli.extraction.blocks import Inventory, Piece, in_blocks, read_pieces
from iepile_cli.extraction.inputs import InputOptions, file_reader
from iepile_cli.extraction.requests import ExtractOptions
from iepile_cli.extraction.results import Result, to_json, to_line
from iepile_cli.shards import Shard
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import task_named
from iepile_cli.writing import atomic_path, atomic_write

if TYPE_CHECKING:
    from iepile_cli.backends.opening import Opened

# A file for so many texts, unless a number of files is asked for.
TEXTS_PER_SHARD = 1000
# Rows of a Parquet file that are held at once.
_PARQUET_ROWS = 1000
_COUNTS = ("truncated", "ungrounded", "problems")

Write: TypeAlias = Callable[[Result], None]
# What a shard reads, and the number of its first block.
Reading: TypeAlias = tuple[Sequence[Piece], int]


@dataclass(frozen=True)
class ExtractRun:
    """A run as each replica knows it: what to read, what to ask, and who answers."""

    folder: ShardFolder
    task_name: str
    schema: tuple[SchemaItem, ...]
    reading: InputOptions = field(default_factory=InputOptions)
    how: ExtractOptions = field(default_factory=ExtractOptions)
    model: str | None = None
    adapters: tuple[str, ...] = ()
    backend: str | None = None
    template: str | None = None
    opening: Options = field(default_factory=Options)

    def open(self) -> Opened:
        """Open the model; raises what ``open_model`` raises."""
        from iepile_cli.backends.opening import open_model

        return open_model(
            self.model,
            adapters=self.adapters,
            backend=self.backend,
            template=self.template,
            language=self.how.language,
            options=self.opening,
        )

    def worker(self) -> Callable[[int, Reading], dict[str, float]]:
        """What a replica does with a shard; opens the model."""
        opened = self.open()
        return functools.partial(extract_shard, self, opened)


def shards_for(inventory: Inventory, wanted: int = 0) -> int:
    """How many shards there are: as wanted, else as many as the texts need; no empty ones."""
    fitting = -(-inventory.total // TEXTS_PER_SHARD)
    return max(1, min(wanted or fitting, len(inventory.blocks)))


def shard_tasks(inventory: Inventory, folder: ShardFolder) -> list[tuple[int, Reading]]:
    """The shards that are still to do, each with what it reads."""
    return [(number, inventory.pieces(Shard(number, folder.of))) for number in folder.unfinished()]


def extract_shard(
    run: ExtractRun, opened: Opened, number: int, reading: Reading
) -> dict[str, float]:
    """Extract from the texts of one shard and write its files; gives counts.

    A shard that is done again gets the same files: nothing of an attempt that died is used.
    """
    from iepile_cli.extraction.pipeline import extract

    started = time.monotonic()
    pieces, first = reading
    counts = dict.fromkeys(("texts", "items", "failed", "tokens"), 0)
    failures: list[bytes] = []

    def failed(error: IEPileError) -> None:
        reason = getattr(error, "reason", error.message)
        told = {"source": getattr(error, "path", None), "line": getattr(error, "line", None)}
        failures.append(to_line({**told, "reason": reason}) + b"\n")

    def answered(tokens: int, characters: float) -> None:
        counts["tokens"] += tokens

    documents = in_blocks(read_pieces(pieces, file_reader(run.reading), failed), first)
    results = extract(
        documents,
        opened.runner,
        opened.template,
        run.how.suiting(opened),
        task=task_named(run.task_name),
        schema=run.schema,
        on_answer=answered,
        on_error=failed,
    )
    with _writing(run.folder.part(number)) as write:
        for result in results:
            write(result)
            counts["texts"] += 1
            counts["items"] += len(result.items)
        counts["failed"] = len(failures)
        # Before the shard itself, which says that all is done.
        if failures:
            with atomic_write(run.folder.failed(number)) as file:
                file.writelines(failures)
    return {**counts, "seconds": time.monotonic() - started}


@contextmanager
def _writing(path: Path) -> Iterator[Write]:
    """A function that writes results to a file, which appears when the block ends."""
    if path.suffix == ".parquet":
        with _writing_parquet(path) as write:
            yield write
        return
    with atomic_write(path) as file:
        yield lambda result: _put(file, result)


def _put(file: Any, result: Result) -> None:
    file.write(to_line(to_json(result)) + b"\n")


@contextmanager
def _writing_parquet(path: Path) -> Iterator[Write]:
    """As ``_writing``; answers and items are JSON, so that all tasks have the same columns."""
    import pyarrow
    from pyarrow import parquet

    texts = [(name, pyarrow.string()) for name in ("source", "id", "task", "lang")]
    json_ = [(name, pyarrow.string()) for name in ("answer", "items")]
    numbers = [(name, pyarrow.int64()) for name in _COUNTS]
    schema = pyarrow.schema([texts[0], ("line", pyarrow.int64()), *texts[1:], *json_, *numbers])
    rows: list[dict[str, Any]] = []
    with atomic_path(path) as partial, parquet.ParquetWriter(partial, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            rows.clear()

        def write(result: Result) -> None:
            shown = to_json(result)
            for name in ("answer", "items"):
                shown[name] = json.dumps(shown[name], ensure_ascii=False)
            rows.append(dict.fromkeys(_COUNTS, 0) | shown)
            if len(rows) == _PARQUET_ROWS:
                flush()

        yield write
        flush()


def settings_of(run: ExtractRun, inventory: Inventory) -> dict[str, Any]:
    """What the shards of a run have to have in common."""
    import hashlib
    from dataclasses import asdict

    from iepile_cli.task.instruction import schema_json

    files = hashlib.sha256(repr(inventory.files).encode()).hexdigest()
    return {
        "task": run.task_name,
        "schema": schema_json(task_named(run.task_name), run.schema),
        "model": run.model,
        "adapter": list(run.adapters),
        "backend": run.backend,
        "template": run.template,
        "options": asdict(run.how),
        "reading": asdict(replace(run.reading, shard=None)),
        "number of shards": run.folder.of,
        "number of texts": inventory.total,
        "set of files": files,
    }


def extract_on_cluster(
    run: ExtractRun, inventory: Inventory, options: ClusterOptions, *, verbose: bool = False
) -> Iterator[Outcome]:
    """Extract the shards that are not done yet; gives an outcome for each, as they come.

    A replica of a model on processors takes as many as ``run.opening.threads``. The run's folder
    must have been begun. Raises ``ModelError`` without a cluster, and what ends the work of a
    replica.
    """
    tasks = shard_tasks(inventory, run.folder)
    if not tasks:
        return
    pool = Pool(options.replicas, run.opening.threads, options.gpus_per_replica)
    with connected(options.ray or LOCAL, verbose=verbose):
        for outcome in run_shards(run.worker, tasks, pool):
            if outcome.error is not None:
                raise outcome.error
            yield outcome

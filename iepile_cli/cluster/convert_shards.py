"""Conversion on a cluster: files of records in shards, each converted as ``--shard`` does it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from iepile_cli.cluster.options import ClusterOptions
from iepile_cli.cluster.ray_data import LOCAL, Outcome, Pool, connected, run_shards
from iepile_cli.cluster.shard_folder import ShardFolder
from iepile_cli.conversion import ConvertOptions, convert
from iepile_cli.conversion.options import AUTO
from iepile_cli.errors import UsageError, raise_error
from iepile_cli.extraction.paths import find_files
from iepile_cli.shards import Shard
from iepile_cli.writing import atomic_write

# A file is divided into shards of so many bytes, unless their number is given.
BYTES_PER_SHARD = 64_000_000


@dataclass(frozen=True)
class FileShard:
    """A part of one file."""

    path: Path
    part: Shard


def file_shards(source: Path, shards: int = 0) -> list[FileShard]:
    """The shards of a file, or of all record files in a folder; as many as are wanted at least.

    Raises ``UsageError`` for a folder without one.
    """
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder")
    paths = [Path(path) for path in find_files([str(source)], raise_error)]
    if not paths:
        raise UsageError(f"{source}: no file of records in it")
    sizes = [path.stat().st_size for path in paths]
    each = BYTES_PER_SHARD if not shards else max(1, sum(sizes) // shards)
    found = []
    for path, size in zip(paths, sizes, strict=True):
        of = shards if len(paths) == 1 and shards else max(1, -(-size // each))
        found += [FileShard(path, Shard(number, of)) for number in range(1, of + 1)]
    return found


@dataclass(frozen=True)
class ConvertRun:
    """A run as each worker knows it."""

    folder: ShardFolder
    options: ConvertOptions

    def worker(self) -> Callable[[int, FileShard], dict[str, float]]:
        """What a worker does with a shard."""
        return functools.partial(convert_shard, self)


def convert_shard(run: ConvertRun, number: int, shard: FileShard) -> dict[str, float]:
    """Convert one shard and write its files; gives counts. Raises what ``convert`` raises."""
    target = run.folder.part(number)
    (report,) = convert(
        replace(run.options, path=shard.path, shard=str(shard.part), output=target, workers=1)
    )
    problems = [json.dumps({"source": str(shard.path), "reason": one.strip()}) for one in
                report.problems()]  # fmt: skip
    if problems:
        with atomic_write(run.folder.failed(number)) as file:
            file.write("".join(f"{one}\n" for one in problems).encode())
    return {"records": report.records, "rows": report.rows, "skipped": report.skipped}


def convert_on_cluster(
    source: Path,
    chosen: ConvertOptions,
    options: ClusterOptions,
    *,
    resume: bool = False,
    verbose: bool = False,
) -> Iterator[Outcome]:
    """Convert what is not done yet of a file or folder of records; gives an outcome for each shard.

    Raises ``UsageError`` for options whose result depends on more than a shard.
    """
    _check(chosen)
    shards = file_shards(source, options.shards)
    folder = ShardFolder(str(chosen.output), len(shards))
    folder.begin(_settings(chosen, shards), resume=resume)
    tasks = [(number, shards[number - 1]) for number in folder.unfinished()]
    if not tasks:
        return
    run = ConvertRun(folder, replace(chosen, output=None))
    with connected(options.ray or LOCAL, verbose=verbose):
        for outcome in run_shards(run.worker, tasks, Pool(options.replicas)):
            if outcome.error is not None:
                raise outcome.error
            yield outcome


def _check(chosen: ConvertOptions) -> None:
    if chosen.output is None:
        raise UsageError("--ray writes a folder of shards", hint="name one with -o")
    if chosen.shard is not None:
        raise UsageError("--shard and --ray: one of them divides the input")
    if AUTO in chosen.schema:
        raise UsageError(
            "--schema auto would read the whole corpus for each shard",
            hint="iepile convert SRC --to schema -o schema.json writes it once",
        )
    if AUTO in chosen.hard_negatives or chosen.write_hard_negatives:
        raise UsageError(
            "--hard-negatives auto would read the whole corpus for each shard",
            hint="iepile convert SRC --write-hard-negatives hard.json writes them once",
        )


def _settings(chosen: ConvertOptions, shards: Sequence[FileShard]) -> dict[str, Any]:
    options = asdict(replace(chosen, path=None, output=None, workers=None))
    return {
        **{name: str(value) for name, value in options.items()},
        "files": [f"{one.path} {one.part}" for one in shards],
    }

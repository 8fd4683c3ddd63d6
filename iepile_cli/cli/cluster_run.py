"""``--ray``: an extraction or a conversion on a cluster, as its command shows it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from iepile_cli.backends import Options
from iepile_cli.cli import console
from iepile_cli.cli.options import BackendOptions, ModelOptions
from iepile_cli.errors import PartialFailure, UsageError
from iepile_cli.formatting import duration, plural

if TYPE_CHECKING:
    from iepile_cli.cli.extract_sources import Texts
    from iepile_cli.cluster.options import ClusterOptions
    from iepile_cli.cluster.ray_data import Outcome
    from iepile_cli.conversion.options import ConvertOptions
    from iepile_cli.extraction.forms import OutputOptions
    from iepile_cli.extraction.requests import ExtractOptions

# Reasons of failures that are shown; the files hold all.
_SHOWN = 10


def extract_on_cluster(
    source: Texts,
    writing: OutputOptions,
    how: ExtractOptions,
    cluster: ClusterOptions,
    named: ModelOptions,
    runs: BackendOptions,
    opening: Options,
) -> None:
    """Extract from texts on a cluster into a folder of shards, and report.

    Raises ``PartialFailure`` when some texts failed.
    """
    from iepile_cli.cli.extract_sources import name_skipped
    from iepile_cli.cluster import extract_shards as running
    from iepile_cli.cluster.shard_folder import ShardFolder

    folder = _folder(writing, source)
    missing = console.Failures()
    with console.Progress() as progress:
        progress.bar("counting the texts")
        skipped: list[str] = []
        inventory = source.inventory(missing.add, skipped.append)
    name_skipped(skipped)
    if not inventory.total:
        raise UsageError("no text to read")
    of = running.shards_for(inventory, cluster.shards)
    run = running.ExtractRun(
        ShardFolder(folder, of, "parquet" if cluster.parquet else "jsonl"),
        source.task.name,
        source.schema,
        source.reading,
        how,
        named.model,
        named.adapter,
        runs.backend,
        runs.template,
        # A replica's processors are those that Ray gives it.
        replace(opening, threads=opening.threads or 1),
    )
    run.folder.begin(running.settings_of(run, inventory), resume=writing.resume)
    outcomes = running.extract_on_cluster(
        run, inventory, cluster, verbose=console.verbosity.verbose
    )
    counts, seconds = _show(outcomes, len(run.folder.unfinished()))
    failures = list(run.folder.failures())
    for one in failures[:_SHOWN]:
        where = f"{one['source']}:{one['line']}" if one.get("line") else one.get("source")
        console.print_error(f"{where}: {one['reason']}")
    done = f"{plural(counts['texts'], 'text')} with {plural(counts['items'], 'item')}"
    speed = f", {counts['texts'] / max(seconds, 1e-9):,.1f} a second" if counts["texts"] else ""
    console.note(f"{done} written to {folder} in {duration(seconds)}{speed}")
    if failures or missing:
        where = f" (see {folder}/failed-*)" if failures else ""
        raise PartialFailure(f"{plural(len(failures) + len(missing), 'input')} failed{where}")


def _folder(writing: OutputOptions, source: Texts) -> str:
    """The folder of the shards; raises ``UsageError`` for what goes with one output only."""
    if writing.output in (None, "-"):
        raise UsageError("--ray writes a folder of shards", hint="name one with -o")
    if writing.format not in (None, "jsonl") or writing.bom:
        raise UsageError("--ray writes JSON Lines, or Parquet with --parquet")
    if source.reading.shard is not None:
        raise UsageError("--shard and --ray: one of them divides the input")
    if source.paths == ["-"]:
        raise UsageError("--ray reads files, which every node must see", hint="name them")
    assert writing.output is not None
    if source.reading.save_text is not None or writing.summary:
        raise UsageError("--save-text and --summary are for one machine, not for --ray")
    source.refuse_folder_inside(writing.output)
    return writing.output


def convert_on_cluster(chosen: ConvertOptions, cluster: ClusterOptions, *, resume: bool) -> None:
    """Convert files of records on a cluster into a folder of shards, and report.

    Raises ``PartialFailure`` when records were skipped.
    """
    from iepile_cli.cluster import convert_shards as running
    from iepile_cli.cluster.shard_folder import ShardFolder

    if chosen.path is None:
        raise UsageError("--ray reads files, which every node must see", hint="name SRC")
    outcomes = running.convert_on_cluster(
        chosen.path, chosen, cluster, resume=resume, verbose=console.verbosity.verbose
    )
    counts, seconds = _show(outcomes)
    rows, records = plural(counts["rows"], "row"), plural(counts["records"], "record")
    console.note(f"{rows} of {records} written to {chosen.output} in {duration(seconds)}")
    skipped = counts["skipped"]
    shards = len(running.file_shards(chosen.path, cluster.shards))
    for one in list(ShardFolder(str(chosen.output), shards).failures())[:_SHOWN]:
        console.note(one["reason"])
    if skipped:
        raise PartialFailure(f"{plural(skipped, 'record')} skipped", hint="the rest is written")


def _show(outcomes: Iterable[Outcome], total: int | None = None) -> tuple[Counter[str], float]:
    """Show the shards as they are done; gives the sums of their counts, and the seconds it took."""
    counts: Counter[str] = Counter()
    started = time.monotonic()
    with console.Progress("items") as progress:
        bar = progress.bar("shards", total=total)
        for outcome in outcomes:
            counts.update({name: int(value) for name, value in outcome.counts.items()})
            bar.advance()
            console.detail(f"shard {outcome.number} done")
    return counts, time.monotonic() - started

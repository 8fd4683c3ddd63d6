"""What the format of the merged weights costs: strict F1 of each beside that of the parts.

Run: ``python tests/bench/formats.py SOURCE... [--rows 200] [--formats q8_0 f16] [--keep FOLDER]``.
Sources are those of ``development.py``. The parts are the embedded model's 4-bit file with its
adapter beside; each format is both merged into one file. A format is one that ``export`` writes, or
a mixture: ``q8_0,attn_=f16`` keeps the weights whose names hold ``attn_`` in 16 bits. With
``--keep`` answers stay, and a later run goes on where one was interrupted.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import development

import iepile_cli as iepile
from iepile_cli.backends import merging
from iepile_cli.backends.opening import Opened, open_model
from iepile_cli.extraction.forms import record_line
from iepile_cli.extraction.pipeline import ExtractOptions
from iepile_cli.models import resolve_model

PARTS = "parts"


def opened(spec: str, folder: Path) -> Opened:
    """The embedded model in a format."""
    found = resolve_model()
    if spec == PARTS:
        return open_model(adapters=[str(adapter) for adapter in found.adapters])
    merged = folder / f"{spec}.gguf"
    usual, rules = spec.split(",")[0], [rule.split("=") for rule in spec.split(",")[1:]]
    planned = merging._planned

    def plan(tensor: Any, file: Any, changes: Any, _: str) -> Any:
        kind = next((kind for part, kind in rules if part in tensor.name), usual)
        if kind == usual or len(tensor.shape) != 2:
            return planned(tensor, file, changes, usual)
        import gguf

        return replace(tensor, type=int(gguf.GGMLQuantizationType[kind.upper()]))

    with mock.patch.object(merging, "_planned", plan):
        merging.merge_adapters(found.path, found.adapters, merged, usual)
    return open_model(str(merged))


def answer(spec: str, drawn: list[Path], folder: Path, options: ExtractOptions) -> None:
    """Write what a format answers, unless it is there."""
    missing = [rows for rows in drawn if not (folder / spec / rows.name).is_file()]
    if not missing:
        return
    (folder / spec).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        model = opened(spec, Path(scratch))
        stack.callback(model.runner.close)
        for rows in missing:
            lines = [record_line(r) for r in development.answers(model, rows, options)]
            (folder / spec / rows.name).write_bytes(b"".join(lines))


def compared(system: Path, baseline: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each task and unit, both F1s, their difference and its 95 % interval."""
    report = iepile.evaluate(system, baseline=baseline)
    for task, scores in report["baseline"]["tasks"].items():
        for unit, difference in scores["units"].items():
            yield f"{task} {unit}", difference


def show(name: str, formats: list[str], folder: Path, file: str) -> None:
    """A line of the table for each task and unit of a set."""
    count = sum(1 for _ in (folder / PARTS / file).open("rb"))
    columns: dict[str, list[str]] = {}
    for spec in formats:
        for unit, found in compared(folder / spec / file, folder / PARTS / file):
            low, high = found["interval"]
            cells = columns.setdefault(unit, [f"{found['baseline_f1']:.1f}"])
            cells.append(
                f"{found['f1']:.1f} ({found['difference']:+.1f}: {low:+.1f} to {high:+.1f})"
            )
    for unit, cells in columns.items():
        kind = unit.split()[1]
        shown = name if kind in ("entity", "relation", "event") else f"{name}, {kind}"
        print(f"| {shown} | {count} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--formats", nargs="+", default=[merging.FAST_FORMAT])
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        drawn = list(development.draw(given.sources, given.rows, folder / "rows"))
        found = resolve_model()
        options = ExtractOptions(by_task=found.by_task)
        for spec in (PARTS, *given.formats):
            answer(spec, drawn, folder, options)
        print("| set | rows | parts |", " | ".join(given.formats), "|")
        print("|---" * (3 + len(given.formats)) + "|")
        for rows in drawn:
            show(rows.stem.partition("-")[2], given.formats, folder, rows.name)
        tasks = {rows.name.partition("-")[0] for rows in drawn}
        for task in sorted(tasks):
            for spec in (PARTS, *given.formats):
                every = b"".join(
                    (folder / spec / rows.name).read_bytes()
                    for rows in drawn
                    if rows.name.startswith(f"{task}-")
                )
                (folder / spec / f"all {task}").write_bytes(every)
            show(f"all of {task}", given.formats, folder, f"all {task}")


if __name__ == "__main__":
    main()

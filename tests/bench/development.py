"""Development data for measurements of quality: rows of corpora, and a model's answers to them.

A source is a file of test rows, as ``iepile convert --split test`` writes them, or a corpus folder
with a ``schema.json`` beside its ``dev.json`` (else ``test.json``). Of each source some rows are
drawn, the same for every model, at most a fifth of them without anything to find.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import iepile_cli as iepile
from iepile_cli.backends.opening import Opened
from iepile_cli.errors import raise_error
from iepile_cli.extraction.instruction_records import read_instructions
from iepile_cli.extraction.pipeline import ExtractOptions, extract
from iepile_cli.extraction.results import Result

# One row in so many may have nothing to find.
EMPTY = 5
# Longer texts are left out: sentences are measured, and how they are cut is measured apart.
LONGEST = 800


def draw(sources: Sequence[str], count: int, folder: Path, *, seed: int = 7) -> Iterator[Path]:
    """A file of ``count`` rows for each source, in ``folder``, named after it."""
    for source in map(Path, sources):
        rows = _rows(source, 4 * count, seed)
        random.Random(seed).shuffle(rows)
        full = [row for row in rows if row["label"] != "[]"][:count]
        empty = [row for row in rows if row["label"] == "[]"]
        some = [*full, *empty[: len(full) // (EMPTY - 1)]][:count]
        if some:
            task = some[0]["task"]
            file = folder / f"{task}-{source.stem}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
            yield file


def _rows(source: Path, texts: int, seed: int) -> list[dict[str, str]]:
    if source.is_file():
        return [json.loads(line) for line in source.open(encoding="utf-8")]
    part = next(file for name in ("dev", "test") if (file := source / f"{name}.json").is_file())
    records = [json.loads(line) for line in part.open(encoding="utf-8")]
    records = [record for record in records if len(record["text"]) <= LONGEST]
    random.Random(seed).shuffle(records)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / source.parent.name / source.name
        corpus.mkdir(parents=True)
        (corpus / "schema.json").write_bytes((source / "schema.json").read_bytes())
        drawn = corpus / "test.json"
        drawn.write_text("".join(json.dumps(one) + "\n" for one in records[:texts]), "utf-8")
        iepile.convert(drawn, corpus / "rows.jsonl", split="test", workers=1)
        return [json.loads(line) for line in (corpus / "rows.jsonl").open(encoding="utf-8")]


def answers(opened: Opened, rows: Path, options: ExtractOptions) -> Iterator[Result]:
    """A model's results for a file of rows."""
    documents = read_instructions(str(rows), raise_error)
    return extract(documents, opened.runner, opened.template, options)

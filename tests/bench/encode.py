"""Training lines encoded a second: ``iepile train`` before its first step, on many lines.

Lines are taken from a file again and again, each with a number in its text, so that no two are the
same, and encoded as a run encodes them, into a folder that is removed. Run it on an otherwise idle
machine; the figure by CPU time holds elsewhere too::

    python tests/bench/encode.py TRAIN.jsonl [--lines 200000] [--workers 2] [--model NAME]
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

from iepile_cli.training.dataset import dataset_key, encode_dataset
from iepile_cli.training.model import base_to_train, quiet_libraries, tokenizer_digest
from iepile_cli.training.prepare import build_encoder, encoder_elsewhere
from iepile_cli.training.recipes import options_from


def write_lines(source: Path, lines: int, output: Path) -> None:
    """Write so many lines, each of another text."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    with output.open("w", encoding="utf-8") as file:
        for number, row in enumerate(itertools.islice(itertools.cycle(rows), lines)):
            question = json.loads(row["instruction"])
            question["input"] += f" {number}"
            row = {**row, "instruction": json.dumps(question, ensure_ascii=False)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=0, help="0: one for each core")
    parser.add_argument("--model", default="smollm2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        path = Path(folder, "lines.jsonl")
        write_lines(given.data, given.lines, path)
        options = options_from(
            {"model": given.model, "adapter": "none", "data": str(path), "output": folder}
        )
        base = base_to_train(options)
        began, used = time.perf_counter(), sum(os.times()[:4])
        encoder = build_encoder(base.tokenizer, base.template, options)
        encoded = encode_dataset(
            Path(folder, "encoded"),
            dataset_key([path], encoder, tokenizer_digest(base)),
            [path],
            encoder,
            workers=given.workers,
            factory=functools.partial(
                encoder_elsewhere, base.path, base.remote_code, base.template, options
            ),
        )
        seconds, used = time.perf_counter() - began, sum(os.times()[:4]) - used
        held = sum(file.stat().st_size for file in encoded.folder.iterdir())
    rate, of_core = len(encoded) / seconds, len(encoded) / used
    print(
        f"{len(encoded):,} lines, {encoded.report.tokens:,} tokens in {seconds:.1f} s: "
        f"{rate:,.0f} lines a second, {of_core:,.0f} by CPU time, 2 million in "
        f"{2e6 / of_core / 60:.1f} minutes of a core; "
        f"{held / encoded.report.tokens:.2f} bytes a token on disk"
    )


if __name__ == "__main__":
    main()

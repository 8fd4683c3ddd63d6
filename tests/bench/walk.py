"""The commands of ``docs/walk.md`` on a corpus: F1 before training and after it.

Sentences are drawn from ``train.json`` and ``test.json`` of a dataset folder, as ``iepile convert``
reads it, and written as BIO files, from which the walk goes on::

    python tests/bench/walk.py CORPUS/NER/bc5cdr FOLDER [--train 300] [--test 120]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Run the walk and print what each command took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=120)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)

    def iepile(words: str) -> None:
        began = time.monotonic()
        command = [sys.executable, "-m", "iepile_cli", *words.split()]
        subprocess.run(command, cwd=given.folder, check=True)
        print(f"{time.monotonic() - began:.0f} s: iepile {words}", flush=True)

    draw = random.Random(20)
    schema = (given.corpus / "schema.json").resolve()
    for part, count in (("train", given.train), ("test", given.test)):
        lines = (given.corpus / f"{part}.json").read_text(encoding="utf-8").splitlines()
        text = "".join(f"{line}\n" for line in draw.sample(lines, count))
        (given.folder / f"{part}-records.jsonl").write_text(text, encoding="utf-8")
        iepile(f"convert {part}-records.jsonl --task NER --schema {schema} --to bio -o {part}.bio")
    iepile("convert train.bio --task NER --schema auto -o train.jsonl")
    iepile("convert test.bio --task NER --schema auto --split test -o test.jsonl")
    iepile("extract --instructions test.jsonl -o predictions.jsonl")
    iepile("train --data train.jsonl -o my-adapter")
    iepile("extract --adapter my-adapter --instructions test.jsonl -o mine.jsonl")
    iepile("eval mine.jsonl --baseline predictions.jsonl --html errors.html")


if __name__ == "__main__":
    main()

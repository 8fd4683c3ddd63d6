"""The mean of two LoRA adapters of one training line, weight by weight.

    python tests/bench/average_adapters.py FIRST SECOND OUTPUT

The folders are those that ``iepile train`` writes; ``OUTPUT`` is a copy of ``SECOND`` with other
weights, and is made a file for llama.cpp by ``iepile export --adapter OUTPUT --to gguf-adapter``.
A and B are averaged each by itself, which is near the mean of their products only where the second
was gone on from the first (as in "model soups", arXiv 2203.05482).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

WEIGHTS = "adapter_model.safetensors"


def main() -> None:
    first, second, output = map(Path, sys.argv[1:4])
    shutil.copytree(second, output, ignore=shutil.ignore_patterns("checkpoints", "*.gguf"))
    left, right = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    if left.keys() != right.keys():
        sys.exit("the adapters have different weights")
    mean = {name: (left[name] + right[name]) / 2 for name in left}
    save_file(mean, output / WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    main()

"""Write anew what the commands on the pages write: after a change of the model or of an output.

    python tests/refresh_pages.py                    all pages
    python tests/refresh_pages.py docs/biologist.md  these

What still agrees, ``...`` included, stays as it is. Blocks marked ``<!-- refreshed -->`` go on
where the walk of a page ends, and are run only here: they train. Read the difference before it is
committed.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from test_docs import ESTIMATE, PAGES, ROOT, Block, agrees, blocks, shell_in, steps, written_by

# How long something took is another time each time.
_TIME = re.compile(r"\bin [\d.]+ s\b|\bin \d+ min \d+ s\b")


def refreshed(block: Block, shell: dict[str, str]) -> str:
    """The text of a block with what its commands write now."""
    made = []
    for step in steps(block.text):
        written = written_by(step, shell)
        if agrees(step, written):
            made.append(f"$ {step.shown}\n{step.expected}")
        else:
            lasting = _TIME.sub("in ... s", ESTIMATE.sub("", written))
            made.append(f"$ {step.shown}\n{lasting}")
    return "".join(made)


def refresh(page: str) -> bool:
    """Write a page anew; whether anything changed."""
    path = ROOT / page
    content = before = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as walked:
        shell = shell_in(Path(walked))
        for block in blocks():
            if block.page != page or block.mark not in ("transcript", "walk", "refreshed"):
                continue
            with tempfile.TemporaryDirectory() as alone:
                used = shell_in(Path(alone)) if block.mark == "transcript" else shell
                content = content.replace(block.text, refreshed(block, used), 1)
    path.write_text(content, encoding="utf-8")
    return content != before


if __name__ == "__main__":
    for name in sys.argv[1:] or PAGES:
        print(f"{name}: {'changed' if refresh(name) else 'as it was'}")

"""How fast extraction is, side by side: one answer at a time against many with shared prompts.

Run: ``python tests/bench/extract.py [texts]``. Both runs answer the same requests under the same
grammars with the embedded model and must give the same number of valid answers; tokens a second
count every prompt and answer token, computed or shared.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

from iepile_cli.backends import Options
from iepile_cli.backends.opening import open_model
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.pipeline import ExtractOptions, extract
from iepile_cli.task.schema import read_schema

PEOPLE = ("Ada Keller", "Rui Sousa", "Mei Lin", "Tomás Ferreira", "Ines Roth")
PLACES = ("Hamburg", "Lisbon", "Porto", "Oslo", "Setúbal")


def documents(count: int) -> Iterator[Document]:
    for n in range(count):
        who, where, then = PEOPLE[n % 5], PLACES[n % 5], PLACES[(n * 3 + 1) % 5]
        text = (
            f"On day {n} {who}, chief engineer of plant number {n * 7}, travelled from {where} to "
            f"{then}, where the council had asked for a second report on the new harbour."
        )
        yield Document("bench", text, line=n)


def measure(count: int, parallel: int) -> tuple[float, int, int]:
    task, items = read_schema(["person,location,organization,date"])
    options = ExtractOptions(answer_tokens=96)
    opened = open_model(options=Options(parallel=parallel))
    tokens = answers = 0

    def note(spent: int, _: float) -> None:
        nonlocal tokens, answers
        tokens, answers = tokens + spent, answers + 1

    started = time.perf_counter()
    for result in extract(
        documents(count),
        opened.runner,
        opened.template,
        options,
        task=task,
        schema=items,
        on_answer=note,
    ):
        assert list(result.answer) == [item.type for item in items]
        json.dumps(result.answer)
    seconds = time.perf_counter() - started
    opened.runner.close()
    return seconds, tokens, answers


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    rows = {parallel: measure(count, parallel) for parallel in (1, 8)}
    for parallel, (seconds, tokens, answers) in rows.items():
        print(f"parallel {parallel}: {answers} answers, {tokens / seconds:.0f} tokens/s")
    print(f"ratio: {rows[1][0] / rows[8][0]:.2f}")


if __name__ == "__main__":
    main()

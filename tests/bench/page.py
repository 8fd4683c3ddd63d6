"""How large a page of results is, and how long a browser takes to show and use it.

Makes pages of 1, 50 and 2 000 made-up documents of about 4 000 characters with 80 mentions each, as
``iepile view`` does, and opens each three times in headless Chromium. The times are those of the
page's own clock, from the beginning of the navigation until the page can be used, and from a click
until the page is laid out again; the middle one of three is given.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iepile_cli.extraction.page import page_of

sys.path.insert(0, str(Path(__file__).parents[1]))
from browser import Browser, browser

WORDS = ("the", "of", "plans", "water", "committee", "budget", "river", "museum", "teachers")
CLICKS = {
    "next document": "#after",
    "hide a type": "#types .chip",
    "show it again": "#types .chip",
    "summary": "#tab-table",
    "sort it": "[data-name=name] button",
}
READY = """
const timing = performance.getEntriesByType('navigation')[0];
return timing.domContentLoadedEventEnd;
"""
CLICK = """
const before = performance.now();
document.querySelector(arguments[0]).click();
document.body.getBoundingClientRect();
return performance.now() - before;
"""


def documents(count: int) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Results with their texts."""
    rng = random.Random(7)
    for number in range(count):
        text, items = "", []
        for _ in range(80):
            text += " ".join(rng.choices(WORDS, k=6)) + " "
            kind = rng.choice(("person", "location", "organization", "date"))
            name = f"{kind.title()} {rng.randrange(3000)}"
            place = {
                "start": len(text),
                "end": len(text) + len(name),
                "score": round(rng.random(), 4),
            }
            items.append({"type": kind, "text": name, **place})
            text += name + rng.choice((" ", ". ", ".\n\n"))
        source = f"archive/{number:05}.txt"
        yield {"source": source, "task": "NER", "lang": "en", "items": items}, text, ""


def measured(window: Browser, page: Path) -> dict[str, float]:
    """Milliseconds until the page can be used, and for each click."""
    window.open(page)
    window.wait("return document.documentElement.dataset.ready")
    return {"load": window.run(READY)} | {
        name: window.run(CLICK, selector) for name, selector in CLICKS.items()
    }


def main() -> None:
    """Print a row for each page: documents, size, seconds to write it, times in milliseconds."""
    print("documents", "MB", "written s", "load ms", *CLICKS, sep="\t")
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder, "profile")) as window:
        window.size(1600, 900)
        for count in (1, 50, 2000):
            page = Path(folder, f"{count}.html")
            found = list(documents(count))
            before = time.perf_counter()
            page.write_bytes(b"".join(page_of(found)))
            written = time.perf_counter() - before
            runs = [measured(window, page) for _ in range(3)]
            times = [f"{statistics.median(run[name] for run in runs):.0f}" for name in runs[0]]
            size = f"{page.stat().st_size / 1e6:.2f}"
            print(count, size, f"{written:.2f}", *times, sep="\t", flush=True)


if __name__ == "__main__":
    main()

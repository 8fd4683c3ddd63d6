"""How large a page of results is, and how long a browser takes to show and use it.

Makes pages of 1, 50 and 2 000 made-up documents of about 4 000 characters with 80 mentions each, as
``iepile view`` does, and opens each three times in headless Chromium. The times are the processor
time of the page's process, which other work on the machine changes little: until the page can be
used, and from a click until the page is drawn again; the middle one of three is given. ``wall`` is
the time by the clock until the page can be used.
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
# Until two frames after the click have been drawn.
CLICK = """
document.querySelector(arguments[0]).click();
const done = arguments[arguments.length - 1];
requestAnimationFrame(() => requestAnimationFrame(() => done(true)));
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


def processor_time(window: Browser) -> float:
    """The milliseconds that the page's process has computed so far."""
    metrics = window.command("Performance.getMetrics")["metrics"]
    return 1000 * float(next(one["value"] for one in metrics if one["name"] == "ProcessTime"))


def measured(page: Path, profile: Path) -> dict[str, float]:
    """Milliseconds until the page can be used, in a new browser, and for each click."""
    with browser(profile) as window:
        window.size(1600, 900)
        window.command("Performance.enable")
        window.open(page)
        window.wait("return document.documentElement.dataset.ready")
        found = {"wall": window.run(READY)}
        before = 0.0
        for name, selector in (("load", ""), *CLICKS.items()):
            if selector:
                window.run_async(CLICK, selector)
            now = processor_time(window)
            found[name], before = now - before, now
    return found


def main() -> None:
    """Print a row for each page: documents, size, seconds to write it, times in milliseconds."""
    print("documents", "MB", "written s", "wall", "load", *CLICKS, sep="\t")
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, 50, 2000):
            page = Path(folder, f"{count}.html")
            found = list(documents(count))
            before = time.process_time()
            page.write_bytes(b"".join(page_of(found)))
            written = time.process_time() - before
            runs = [measured(page, Path(folder, f"{count}-{number}")) for number in range(3)]
            times = [f"{statistics.median(run[name] for run in runs):.0f}" for name in runs[0]]
            size = f"{page.stat().st_size / 1e6:.2f}"
            print(count, size, f"{written:.2f}", *times, sep="\t", flush=True)


if __name__ == "__main__":
    main()

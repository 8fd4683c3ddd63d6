"""Results for people: the text with its mentions marked, and a table of what was found.

Nothing of a text reaches the terminal as it is: control characters, and those that turn the
direction of writing, are replaced, one by one, so that offsets keep.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from iepile_cli.extraction.forms import Form
from iepile_cli.extraction.grounding import Item, Span
from iepile_cli.extraction.results import Result, end_types, slots_of
from iepile_cli.formatting import one_line, safe
from iepile_cli.task import Task
from iepile_cli.task.shape import fixed_roles

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# A longer text is shown only around its mentions, with so many characters on either side.
WHOLE = 1500
AROUND = 80
FILE_WIDTH = 100
# The width from which an item of several parts has room for its place and score.
WIDE = 60

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")


class Terminal(Form):
    """The ``table`` format, as wide and as coloured as standard output is."""

    def __init__(self, on_stdout: bool = True) -> None:
        from rich.console import Console

        self._out = io.StringIO()
        outer = Console() if on_stdout else Console(file=io.StringIO(), width=FILE_WIDTH)
        self.console = Console(
            file=self._out,
            width=outer.width,
            force_terminal=outer.is_terminal,
            color_system=outer.color_system,  # type: ignore[arg-type]
            no_color=outer.no_color,
            legacy_windows=False,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._encoding = (on_stdout and getattr(sys.stdout, "encoding", None)) or "utf-8"

    def result(self, result: Result) -> bytes:
        """One document: where it comes from, its text, what was found."""
        colours = {
            name: COLOURS[number % len(COLOURS)] for number, name in enumerate(result.answer)
        }
        show(result, self.console, colours)
        shown = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return shown.encode(self._encoding, "replace")


def show(result: Result, console: Console, colours: dict[str, str]) -> None:
    """Print one result on a rich console."""
    from rich.text import Text

    console.print(Text(_heading(result), style="bold"))
    if not result.items:
        console.print(Text("nothing found", style="dim"))
    for excerpt in excerpts(result):
        console.print(_marked(result, *excerpt, colours))
    if result.items:
        console.print(_tabulated(result, colours, console.width))
    console.print()


def _heading(result: Result) -> str:
    document = result.document
    where = one_line(document.source) + (f":{document.line}" if document.line else "")
    named = f" ({one_line(document.id)})" if document.id else ""
    cut = ", answer cut short" if result.truncated else ""
    return f"{where}{named}: {item_count(len(result.items), result.task)}{cut}"


# The words of the tasks' titles that are counted.
_SINGULAR = {
    "entities": "entity",
    "relations": "relation",
    "events": "event",
    "triggers": "trigger",
    "arguments": "argument",
}


def item_count(count: int, task: Task) -> str:
    """How many items of a task there are, in words: ``1 named entity``, ``2 events``."""
    title = task.title.partition(":")[0]
    if count == 1:
        title = " ".join(_SINGULAR.get(word, word) for word in title.split())
        title = title.replace("of given trigger", "of given triggers")
    return f"{count} {title}"


def _spans(result: Result) -> Iterator[tuple[str, int, int]]:
    """The places to mark, each with its type."""
    for item in result.items:
        for _, span in item.roles:
            for start, end in span.occurrences or ((span.start, span.end),):
                yield item.item.type, start, end


def excerpts(result: Result) -> list[tuple[int, int]]:
    """The stretches of the text to show: all of a short one, else what is around mentions."""
    length = len(result.document.text)
    if length <= WHOLE:
        return [(0, length)] if result.items else []
    shown: list[tuple[int, int]] = []
    for start, end in sorted((start, end) for _, start, end in _spans(result)):
        left, right = max(0, start - AROUND), min(length, end + AROUND)
        if shown and left <= shown[-1][1]:
            shown[-1] = (shown[-1][0], max(shown[-1][1], right))
        else:
            shown.append((left, right))
    return shown


def _marked(result: Result, start: int, end: int, colours: dict[str, str]) -> Text:
    """A stretch of the text with its mentions marked; where two overlap, both styles apply."""
    from rich.text import Text

    text = result.document.text
    marked = Text(safe(text[start:end]), overflow="fold")
    for kind, begins, stops in _spans(result):
        if begins < end and stops > start:
            style = f"bold {colours.get(kind, '')}".rstrip()
            marked.stylize(style, max(0, begins - start), stops - start)
            marked.stylize("underline", max(0, begins - start), stops - start)
    before = "\u2026" if start else ""
    after = "\u2026" if end < len(text) else ""
    return Text.assemble(before, marked, after)


def _tabulated(result: Result, colours: dict[str, str], width: int) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    names = columns(result.task)
    # Where there is no room for all, places and scores make way for the words.
    shown = len(names) if width >= WIDE or result.task.is_single else len(names) - 2
    for name in names[:shown]:
        right = name in ("at", "score")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for item in result.items:
        first, *rest = row(result.task, item)[:shown]
        colour = colours.get(item.item.type, "")
        table.add_row(Text(first, style=colour), *map(Text, rest))
    return table


def columns(task: Task) -> list[str]:
    """The columns of a task's table."""
    if task.is_single:
        return ["type", "text", "at", "score"]
    slots = [task.slots] if task.slots else []
    return ["type", *fixed_roles(task.shape), *slots, "at", "score"]


def row(task: Task, item: Item) -> list[str]:
    """An item's cells; ``at`` is where its first part stands."""
    types = [one_line(part) for part in end_types(task, item.item).values()]
    kind = one_line(item.item.type)
    spans: dict[str, Span] = dict(reversed(item.roles))
    slots = slots_of(task, item)
    cells = [f"{types[0]} -{kind}-> {types[1]}" if len(types) == 2 else kind]
    held = len(item.roles) - len(slots)
    present = {role for role, _ in item.roles[:held]}
    cells += [
        one_line(spans[role].text) if role in present else "-" for role in fixed_roles(task.shape)
    ]
    if task.slots:
        cells.append("\n".join(f"{one_line(role)}: {one_line(span.text)}" for role, span in slots))
    first = item.roles[0][1]
    score = "-" if item.score is None else f"{item.score:.2f}"
    return [*cells, f"{first.start}-{first.end}", score]


__all__ = ["Terminal", "columns", "excerpts", "row", "show"]

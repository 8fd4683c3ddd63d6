"""What was found, counted over all documents: the same name in several surfaces counts as one.

What is counted are the units of a task, as in scoring: entities, relations, events with their
arguments, attributes. Works on the objects that ``iepile extract`` writes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from iepile_cli.fields import check_fields, option
from iepile_cli.task import Task
from iepile_cli.task.table import task_named

_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\S)", re.IGNORECASE)
_INITIAL = re.compile(r"[^\W\d_]\.?")
# "J.R.R. Tolkien" has the initials of "J. R. R. Tolkien".
_GLUED_INITIALS = re.compile(r"(?<=\b[^\W\d_]\.)(?=[^\W\d_])")
_GROUP = "Summary"


@dataclass(frozen=True)
class SummaryOptions:
    """When two surfaces are the same name; raises ``UsageError`` for values that cannot be."""

    ignore_case: bool = option(True, group=_GROUP, help="Count names together whatever their case.")
    ignore_space: bool = option(
        True, group=_GROUP, help="Count names together whatever their white space."
    )
    ignore_determiners: bool = option(
        True, group=_GROUP, help="Count names together with and without a leading the, a or an."
    )
    match_initials: bool = option(
        False,
        group=_GROUP,
        help="Count 'J. Smith' with 'John Smith', where no other full name of the type fits.",
    )

    def __post_init__(self) -> None:
        check_fields(self)


class Counted(NamedTuple):
    """What is counted once: its unit (``entity``, ``relation`` ...), type, and mentions' texts.

    ``label`` is the type, with the slot where slots are counted; a typed relation's type shows
    those of its ends.
    """

    unit: str
    type: str
    label: str
    mentions: tuple[str, ...]


@dataclass
class Entry:
    """A name of a type with how often it occurs, in how many documents, and how it is written.

    ``name`` is its most frequent surface, ``surfaces`` how often each occurs, ``in_documents`` how
    often it occurs in each document, by the documents' numbers.
    """

    unit: str
    type: str
    label: str
    surfaces: Counter[str] = field(default_factory=Counter)
    in_documents: Counter[int] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """The most frequent surface; of several the first."""
        return self.surfaces.most_common(1)[0][0]

    @property
    def count(self) -> int:
        """How often it occurs."""
        return sum(self.in_documents.values())

    @property
    def documents(self) -> int:
        """In how many documents it occurs."""
        return len(self.in_documents)

    @property
    def others(self) -> list[str]:
        """The other surfaces, the most frequent first."""
        return [surface for surface, _ in self.surfaces.most_common()[1:]]


class Summary:
    """Counts results as they come; ``entries`` are what they come to."""

    def __init__(self, options: SummaryOptions | None = None) -> None:
        self._options = options or SummaryOptions()
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._entries: list[Entry] = []
        self.documents: list[str] = []

    def add(self, result: dict[str, Any]) -> list[list[int]]:
        """Count a result; gives for each of its items the numbers of the names it counts under."""
        task = task_named(result["task"])
        number = len(self.documents)
        self.documents.append(document_name(result))
        return [
            [self._count(one, number) for one in counted(task, item)] for item in result["items"]
        ]

    def _count(self, one: Counted, document: int) -> int:
        key = (*one[:3], *map(self._key, one.mentions))
        number = self._numbers.setdefault(key, len(self._entries))
        if number == len(self._entries):
            self._entries.append(Entry(*one[:3]))
        entry = self._entries[number]
        entry.surfaces[" → ".join(" ".join(text.split()) for text in one.mentions)] += 1
        entry.in_documents[document] += 1
        return number

    def _key(self, surface: str) -> str:
        """What two surfaces of one name have in common."""
        key = unicodedata.normalize("NFC", surface)
        if self._options.ignore_determiners:
            key = _ARTICLE.sub("", key.lstrip(), count=1) if _ARTICLE.match(key.lstrip()) else key
        if self._options.ignore_case:
            key = key.casefold()
        if self._options.ignore_space:
            key = "".join(key.split())
        return key

    def merged(self) -> tuple[list[Entry], dict[int, int]]:
        """All names by the numbers that ``add`` gave, and which of them count under another."""
        into = _initials(self._entries, self._options) if self._options.match_initials else {}
        entries = [
            Entry(one.unit, one.type, one.label, Counter(one.surfaces), Counter(one.in_documents))
            for one in self._entries
        ]
        for number, full in into.items():
            entries[full].surfaces += entries[number].surfaces
            entries[full].in_documents += entries[number].in_documents
        return entries, into

    def entries(self) -> list[Entry]:
        """The names: types in the order of their first, then the most frequent first."""
        entries, into = self.merged()
        order: dict[tuple[str, str], int] = {}
        for entry in entries:
            order.setdefault((entry.unit, entry.label), len(order))
        kept = [entry for number, entry in enumerate(entries) if number not in into]
        return sorted(
            kept, key=lambda one: (order[one.unit, one.label], -one.count, one.name.casefold())
        )


def summarise(
    results: Iterable[dict[str, Any]], options: SummaryOptions | None = None
) -> list[Entry]:
    """The names in results (objects as ``iepile extract`` writes them), counted."""
    summary = Summary(options)
    for result in results:
        summary.add(result)
    return summary.entries()


def document_name(result: dict[str, Any]) -> str:
    """A result's document in words: its source, the line in it, else its id."""
    source, line = str(result.get("source", "")), result.get("line")
    return f"{source}:{line}" if line is not None else source or str(result.get("id", ""))


def counted(task: Task, item: dict[str, Any]) -> Iterator[Counted]:
    """What one item of a result counts as, by its task's units."""
    for unit in task.units:
        for slot in item.get(task.slots) or () if unit.slotted else (None,):
            mentions = [_mention(task, role, item, slot) for role in unit.mentions]
            if mentions and all(mentions):
                kind = _type(item)
                label = f"{kind} / {slot['role']}" if slot else kind
                yield Counted(unit.name, kind, label, tuple(filter(None, mentions)))


def _mention(
    task: Task, role: str, item: dict[str, Any], slot: dict[str, Any] | None
) -> str | None:
    if role == "filler":
        return str(slot["text"]) if slot else None
    if task.is_single:
        return str(item["text"])
    part = item.get(role)
    return str(part["text"]) if isinstance(part, dict) else None


def _type(item: dict[str, Any]) -> str:
    if item.get("subject_type") or item.get("object_type"):
        ends = item.get("subject_type") or "", item.get("object_type") or ""
        return f"{ends[0]} -{item['type']}-> {ends[1]}"
    return str(item["type"])


# -------------------------------------------------------------------------------------- initials


def _initials(entries: Sequence[Entry], options: SummaryOptions) -> dict[int, int]:
    """The names with initials, each with the one full name of its type that it can stand for."""
    words = [_words(entry.name, options) for entry in entries]
    full: dict[tuple[Any, ...], list[int]] = {}
    for number, parts in enumerate(words):
        if len(parts) > 1 and not any(map(_INITIAL.fullmatch, parts)):
            full.setdefault(_family(entries[number], parts), []).append(number)
    into = {}
    for number, parts in enumerate(words):
        if len(parts) < 2 or _INITIAL.fullmatch(parts[-1]):
            continue
        if not any(map(_INITIAL.fullmatch, parts)):
            continue
        fitting = [
            one
            for one in full.get(_family(entries[number], parts), ())
            if all(map(_stands_for, parts, words[one]))
        ]
        if len(fitting) == 1:
            into[number] = fitting[0]
    return into


def _words(name: str, options: SummaryOptions) -> list[str]:
    name = unicodedata.normalize("NFC", name)
    return _GLUED_INITIALS.sub(" ", name.casefold() if options.ignore_case else name).split()


def _family(entry: Entry, words: list[str]) -> tuple[Any, ...]:
    return (entry.unit, entry.label, len(words), words[-1], words[0][0])


def _stands_for(word: str, full: str) -> bool:
    return word == full or (
        _INITIAL.fullmatch(word) is not None and full.startswith(word.removesuffix("."))
    )

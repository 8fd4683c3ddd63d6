"""From a model's answer to the mentions extracted: each with a score, and where it stands.

Goes in: an answer about one passage. Comes out: items whose every span satisfies
``document.text[start:end] == span.text``. What the passage does not hold is dropped and counted.

A score is the probability of a mention's tokens, each renormalised over the tokens that the
grammar allowed, its quotes included: how sure the model was to list this mention here. So strings
are decoded together with where they stand in the answer.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

from iepile_cli.backends import Answer
from iepile_cli.task.instruction import parse_answer
from iepile_cli.task.passages import SENTENCE, Passage, full_stop, units
from iepile_cli.task.segment import segment
from iepile_cli.task.shape import Each, Keyed, Mention, Node, Record, Roles, SchemaItem
from iepile_cli.task.table import Task

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def read_answer(
    task: Task, items: Sequence[SchemaItem], answer: Answer, problems: list[str]
) -> list[Extracted]:
    """Read an answer; what is not of its form is repaired or left out, and told in ``problems``."""
    value = _decode(answer.text, problems)
    score = _Scorer(answer)
    return [
        (item, [(roles, tuple(score(text) for _, text in roles)) for roles in found])
        for item, found in parse_answer(task, items, value, problems)
    ]


def _decode(text: str, problems: list[str]) -> Any:
    try:
        return located_json(text)
    except (ValueError, RecursionError):
        problems.append("the answer is not JSON")
    import json_repair

    try:
        return json_repair.loads(text)
    except (ValueError, RecursionError):
        return None


class _Scorer:
    """Scores mentions by the tokens that spell them."""

    def __init__(self, answer: Answer) -> None:
        self._text, self._ends = answer.text, answer.token_ends
        self._logs = [math.log(max(p, 1e-30)) for p in answer.token_probs]
        self._ascii = answer.text.isascii()

    def __call__(self, mention: str) -> float | None:
        if not self._logs or not isinstance(mention, LocatedString):
            return None
        first = bisect_right(self._ends, self._byte(mention.start))
        last = bisect_left(self._ends, self._byte(mention.end))
        return min(1.0, math.exp(sum(self._logs[first : last + 1])))

    def _byte(self, at: int) -> int:
        return at if self._ascii else len(self._text[:at].encode("utf-8", errors="replace"))


# --------------------------------------------------------------------- JSON with places of strings


class LocatedString(str):
    """A decoded string with the half-open character range of its literal, quotes included."""

    start: int
    end: int
    __slots__ = ("end", "start")

    def __new__(cls, text: str, start: int, end: int) -> LocatedString:
        """A string that stands from ``start`` to ``end``."""
        located = super().__new__(cls, text)
        located.start, located.end = start, end
        return located


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object, in their order."""


def located_json(text: str) -> Any:
    """Decode JSON with ``LocatedString`` for every string, keys too.

    Under a key that comes twice stands what both hold, where both are objects or lists. Raises
    ``json.JSONDecodeError``, ``RecursionError`` for absurd nesting.
    """
    value = json.loads(text, object_pairs_hook=_Pairs)
    return _located(value, (match.span() for match in _STRING.finditer(text)))


def _located(value: Any, places: Iterator[tuple[int, int]]) -> Any:
    """The value with its strings located: literals and strings are in one order."""
    match value:
        case str():
            return LocatedString(value, *next(places))
        case _Pairs():
            found: dict[str, Any] = {}
            for name, inner in value:
                key = LocatedString(name, *next(places))
                part = _located(inner, places)
                found[key] = _joined(found[key], part) if key in found else part
            return found
        case list():
            return [_located(part, places) for part in value]
        case _:
            return value


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, list) and isinstance(second, list):
        return first + second
    if isinstance(first, dict) and isinstance(second, dict):
        both = dict(first)
        for key, value in second.items():
            held = both.get(key)
            if isinstance(held, str) and isinstance(value, str):
                both[key] = [held, value]
            else:
                both[key] = _joined(held, value) if key in both else value
        return both
    return second


# The roles of an extracted item with a score for each (None where the backend gives none).
Scored: TypeAlias = tuple[Roles, Sequence[float | None]]
Extracted: TypeAlias = tuple[SchemaItem, Sequence[Scored]]


@dataclass(frozen=True, slots=True)
class Span:
    """A mention in its document: characters ``start`` to ``end``, half-open; ``score`` in 0..1.

    ``occurrences`` are all the places of the same words in the document, where they were asked for.
    """

    text: str
    start: int
    end: int
    score: float | None = None
    occurrences: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """What was extracted: the schema item, its roles in reading order, and a score in 0..1."""

    item: SchemaItem
    roles: tuple[tuple[str, Span], ...]
    score: float | None = None

    @property
    def texts(self) -> Roles:
        """The roles with their mentions only: the item as it stands in an answer."""
        return tuple((role, span.text) for role, span in self.roles)


class Grounded(NamedTuple):
    """Items of a passage, and how many mentions were dropped because it does not hold them."""

    items: list[Item]
    ungrounded: int


class Occurrences:
    """Where words stand in a text, left to right and not overlapping; found once, then kept.

    Places where they begin and end with a piece come first: only when there are none does a part
    of a word count.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._known: dict[str, list[int]] = {}

    def of(self, mention: str) -> list[int]:
        """The offsets at which the mention stands; empty when the text does not hold it."""
        if mention not in self._known:
            self._known[mention] = self._found(mention) if mention else []
        return self._known[mention]

    def sentence(self, offset: int) -> int:
        """How many sentences end before the offset."""
        return bisect_right(self._sentence_ends, offset)

    @cached_property
    def _sentence_ends(self) -> list[int]:
        return [end for _, end, cut in units(self.text) if cut >= SENTENCE]

    def _found(self, mention: str) -> list[int]:
        if self.text.find(mention) < 0:
            return []
        whole = list(self._scan(mention, self._edges))
        return whole or list(self._scan(mention, None))

    def _scan(self, mention: str, edges: bytearray | None) -> Iterator[int]:
        at = self.text.find(mention)
        while at >= 0:
            fits = edges is None or (edges[at] and edges[at + len(mention)])
            if fits:
                yield at
            at = self.text.find(mention, at + (len(mention) if fits else 1))

    @cached_property
    def _edges(self) -> bytearray:
        edges = bytearray(len(self.text) + 1)
        for edge in accumulate(map(len, segment(self.text)), initial=0):
            edges[edge] = 1
        return edges


def ground(found: Iterable[Extracted], passage: Passage, shape: Node) -> Grounded:
    """Find the mentions of parsed answers in their passage.

    The n-th listing of the same item under a schema item goes to its n-th place. An item of
    several parts goes where its parts stand closest together, if possible in one sentence: its
    first part (trigger, subject or head) where the others are nearest, each other part nearest to
    that one; ties go to the earlier place. The full stop of a sentence is no part of a mention.

    An item without a required part (every fixed role but a trigger, which may be absent) is
    dropped; of an optional part, only that part.
    """
    places = Occurrences(passage.text)
    needed = required_roles(shape)
    items: list[Item] = []
    dropped = 0
    for item, extracted in found:
        listed: Counter[Roles] = Counter()
        for roles, scores in extracted:
            held = [
                (pair, score)
                for pair, score in zip(roles, scores, strict=True)
                if places.of(pair[1])
            ]
            dropped += len(roles) - len(held)
            kept = tuple(pair for pair, _ in held)
            # A slot may be called like a fixed part, which stands before it.
            first = dict(reversed(roles))
            if not kept or not all(places.of(first.get(role, "")) for role in needed):
                continue
            starts = _closest(kept, places, listed[kept])
            listed[kept] += 1
            spans = tuple(
                (role, _span(passage, text, start, score))
                for ((role, text), score), start in zip(held, starts, strict=True)
            )
            items.append(Item(item, spans, joint_score([score for _, score in held])))
    return Grounded(items, dropped)


def required_roles(node: Node) -> frozenset[str]:
    """The fixed roles that every item must have: all but those with a word for 'none'."""
    match node:
        case Mention(role, absent):
            return frozenset((role,) if absent is None else ())
        case Each(element):
            return required_roles(element)
        case Record(fields):
            return frozenset().union(*(required_roles(inner) for _, inner in fields))
        case Keyed(role, inner):
            return required_roles(inner) | {role}
        case _:
            return frozenset()


def _closest(roles: Roles, places: Occurrences, nth: int) -> list[int]:
    """The offset of each part: of the anchors, best first, the ``nth``, and what is nearest to it.

    When an item is listed more often than its anchor stands in the text, the best is taken again.
    """
    (_, head), *others = roles
    anchors = places.of(head)

    def nearest(anchor: int) -> list[tuple[tuple[int, int], int]]:
        return [_nearest(places, text, anchor, anchor + len(head)) for _, text in others]

    def apart(anchor: int) -> tuple[int, int]:
        distances = [distance for distance, _ in nearest(anchor)]
        return sum(crossed for crossed, _ in distances), sum(gap for _, gap in distances)

    ranked = anchors
    if others and len(anchors) > 1:
        ranked = sorted(anchors, key=apart) if nth else [min(anchors, key=apart)]
    anchor = ranked[nth] if nth < len(ranked) else ranked[0]
    return [anchor, *(start for _, start in nearest(anchor))]


def _nearest(
    places: Occurrences, mention: str, start: int, end: int
) -> tuple[tuple[int, int], int]:
    """The place of a mention that is nearest to a span, after its distance.

    A distance is the sentence ends in between, then the characters in between.
    """
    starts = places.of(mention)
    after = bisect_left(starts, start)
    sentence = places.sentence(start)
    return min(
        (
            (
                abs(places.sentence(at) - sentence),
                max(0, at - end, start - at - len(mention)),
            ),
            at,
        )
        for at in starts[max(0, after - 1) : after + 1]
    )


def _span(passage: Passage, text: str, start: int, score: float | None) -> Span:
    if passage.text[start : start + len(text)] != text:
        raise AssertionError(f"{text!r} does not stand at {start} of its passage")
    begins = passage.start + start
    length = len(text) - full_stop(passage.text, start, start + len(text))
    # The text may be a ``LocatedString``; what is kept is the text alone.
    return Span(str(text)[:length], begins, begins + length, score)


def joint_score(scores: Iterable[float | None]) -> float | None:
    """The geometric mean of the parts' scores: comparable between items of few and many parts."""
    known = [score for score in scores if score is not None]
    if not known:
        return None
    if min(known) <= 0:
        return 0.0
    return min(1.0, math.exp(sum(map(math.log, known)) / len(known)))


def at_all_places(items: Iterable[Item], text: str) -> list[Item]:
    """An item for each place of its words in a document, with the best score of them.

    For items that are single mentions.
    """
    places = Occurrences(text)
    best: dict[tuple[SchemaItem, str], Item] = {}
    listed: dict[tuple[SchemaItem, str], set[int]] = {}
    for item in items:
        ((_, span),) = item.roles
        key = (item.item, span.text)
        if key not in best or (item.score or 0.0) > (best[key].score or 0.0):
            best[key] = item
        listed.setdefault(key, set()).add(span.start)
    found: list[Item] = []
    for key, item in best.items():
        ((role, span),) = item.roles
        for start in sorted(listed[key].union(places.of(span.text))):
            moved = replace(span, start=start, end=start + len(span.text))
            found.append(replace(item, roles=((role, moved),)))
    return found


def with_occurrences(items: Iterable[Item], text: str) -> list[Item]:
    """The items with the ``occurrences`` of each of their mentions in a document."""
    places = Occurrences(text)

    def everywhere(span: Span) -> Span:
        starts = sorted({span.start, *places.of(span.text)})
        return replace(span, occurrences=tuple((at, at + len(span.text)) for at in starts))

    return [
        replace(item, roles=tuple((role, everywhere(span)) for role, span in item.roles))
        for item in items
    ]

"""The grammar of an answer in GBNF, for servers of llama.cpp.

The same answers as ``grammar`` allows. GBNF has no substrings: the pieces of the passage become an
automaton, one rule a state, in which every way through spells a mention. A passage of more than
``MOST_PIECES`` gets any JSON string instead; what is not in the text is then found by grounding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from iepile_cli.task.grammar import Rules, literal
from iepile_cli.task.instruction import dumps
from iepile_cli.task.segment import segment
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.substrings import Substrings
from iepile_cli.task.table import Task

MOST_PIECES = 4000

# A string literal, or a name.
_PART = re.compile(r'"(?:[^"\\]|\\.)*"|\w+')
_ANY_STRING = (
    r'mention ::= "\"" char+ "\""',
    r'char ::= [^"\\\x7F\x00-\x1F] | [\\] (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
)


def says_mentions(text: str) -> bool:
    """Whether the grammar says which mentions a text has; of a very long one it does not."""
    return len(segment(text)) <= MOST_PIECES


def gbnf(task: Task, items: Sequence[SchemaItem], text: str) -> str:
    """The GBNF grammar of the answers to ``items`` about ``text``, after an optional space."""
    cut = segment(text)
    rules = Rules.of(task, items, [cut])
    return _written(f'" "? {_renamed(rules.body())}', rules, cut)


def gbnf_behind_key(task: Task, items: Sequence[SchemaItem], text: str, answered: int) -> str:
    """The grammar of what stands behind a key and its colon, ``answered`` other keys before it."""
    cut = segment(text)
    rules = Rules.of(task, items, [cut])
    return _written(f'" " {_renamed(rules.body(answered, opened=True))}', rules, cut)


def _written(root: str, rules: Rules, cut: Sequence[str]) -> str:
    lines = [f"root ::= {root}"]
    for rule in rules.rules:
        name, _, body = rule.partition(": ")
        lines.append(f"{_renamed(name)} ::= {_renamed(body)}")
    if rules.mentionable:
        lines += _automaton(cut) if len(cut) <= MOST_PIECES else _ANY_STRING
    return "\n".join([*lines, ""])


def _renamed(body: str) -> str:
    """A rule's body with names as GBNF has them: small letters, no underscore."""
    return _PART.sub(
        lambda part: part[0] if part[0][0] == '"' else part[0].lower().replace("_", "-"), body
    )


def _automaton(cut: Sequence[str]) -> Iterator[str]:
    """The rules of a quoted run of pieces with no white space at its ends."""
    automaton = Substrings(cut)
    yield 'mention ::= "\\"" s0'
    for state, moves in enumerate(automaton.moves):
        ways = [
            (dumps(piece)[1:-1], f"s{target}")
            for piece, target in moves.items()
            if state or not piece.isspace()
        ]
        last = automaton.last[state]
        if last and not last.isspace():
            ways.append(('"', ""))
        if ways:
            yield f"s{state} ::= {_factored(sorted(ways))}"


def _factored(ways: Sequence[tuple[str, str]]) -> str:
    """Alternatives with their common beginnings written once: each costs the server time."""
    if len(ways) == 1:
        text, then = ways[0]
        return f"{literal(text)} {then}".strip() if text else then
    groups: dict[str, list[tuple[str, str]]] = {}
    for text, then in ways:
        groups.setdefault(text[:1], []).append((text, then))
    parts = []
    for group in groups.values():
        begin = _beginning(group[0][0], group[-1][0])
        if len(group) == 1 or not begin:
            parts += [_factored([way]) for way in group]
        else:
            rest = _factored([(text[len(begin) :], then) for text, then in group])
            parts.append(f"{literal(begin)} ({rest})")
    return " | ".join(parts)


def _beginning(first: str, last: str) -> str:
    """What the first and the last of sorted texts, and so all between, begin with."""
    same = (n for n, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1])
    return first[: next(same, min(len(first), len(last)))]

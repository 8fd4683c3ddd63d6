"""The grammar of an answer in GBNF, for servers of llama.cpp.

GBNF has no substrings: the pieces of the passage become an automaton, one rule a state, in which
every way through spells a mention. A passage of more than ``MOST_PIECES`` gets any JSON string
instead; what is not in the text is then found by grounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iepile_cli.task.grammar import Rules, answer_grammar, literal
from iepile_cli.task.instruction import dumps
from iepile_cli.task.shape import SchemaItem
from iepile_cli.task.table import Task

MOST_PIECES = 4000

_ANY_STRING = (
    r'mention ::= "\"" char+ "\""',
    r'char ::= [^"\\\x7F\x00-\x1F] | [\\] (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
)


def gbnf_grammar(task: Task, items: Sequence[SchemaItem], text: str) -> str:
    """The GBNF grammar of the answers to ``items`` about ``text``, after an optional space."""
    grammar = answer_grammar(task, items, text)
    rules = Rules(grammar, "mention", " ::= ")
    root = rules.answer('" "?')
    lines = [f"root ::= {root}", *rules.lines]
    if grammar.runs:
        pieces = grammar.runs[0]
        lines += _mention(pieces) if len(pieces) <= MOST_PIECES else _ANY_STRING
    return "\n".join([*lines, ""])


def _mention(pieces: Sequence[str]) -> Iterator[str]:
    """The rules of a quoted run of pieces with no white space at its ends."""
    automaton = Substrings(pieces)
    yield 'mention ::= "\\"" s0'
    ends = [bool(last) and not last.isspace() for last in automaton.last]
    # From the last pieces of the text on, a state may lead to white space only.
    useful = list(ends)
    for state in automaton.longest_first():
        useful[state] |= any(useful[target] for target in automaton.moves[state].values())
    for state, moves in enumerate(automaton.moves):
        ways = [
            (dumps(piece)[1:-1], f"s{target}")
            for piece, target in moves.items()
            if useful[target] and (state or not piece.isspace())
        ]
        if ends[state]:
            ways.append(('"', ""))
        if ways:
            yield f"s{state} ::= {_factored(sorted(ways))}"


def _factored(ways: Sequence[tuple[str, str]]) -> str:
    """Alternatives with their common prefixes written once: each costs the server time."""
    if len(ways) == 1:
        text, then = ways[0]
        return f"{literal(text)} {then}".strip() if text else then
    groups: dict[str, list[tuple[str, str]]] = {}
    for text, then in ways:
        groups.setdefault(text[:1], []).append((text, then))
    parts = []
    for group in groups.values():
        prefix = _common_prefix(group[0][0], group[-1][0])
        if len(group) == 1 or not prefix:
            parts += [_factored([way]) for way in group]
        else:
            rest = _factored([(text[len(prefix) :], then) for text, then in group])
            parts.append(f"{literal(prefix)} ({rest})")
    return " | ".join(parts)


def _common_prefix(first: str, last: str) -> str:
    """The common prefix of the first and the last of sorted texts, and so of all between."""
    same = (n for n, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1])
    return first[: next(same, min(len(first), len(last)))]


class Substrings:
    """The suffix automaton of a row of pieces; state 0 is where a run begins.

    As of Blumer et al. (1985), "The smallest automaton recognizing the subwords of a text", over
    pieces instead of letters: it has at most two states for each piece. ``moves[state]`` maps a
    piece to the state after it; ``last[state]`` is the piece that leads into a state, the same
    whichever way it is entered.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.moves: list[dict[str, int]] = [{}]
        self.last: list[str] = [""]
        self._link = [-1]
        self._length = [0]
        self._end = 0
        for piece in pieces:
            self._append(piece)

    def longest_first(self) -> list[int]:
        """The states, those that a state leads to before it."""
        return sorted(range(len(self.moves)), key=self._length.__getitem__, reverse=True)

    def _append(self, piece: str) -> None:
        added = self._state(piece, self._length[self._end] + 1, {})
        state = self._end
        while state >= 0 and piece not in self.moves[state]:
            self.moves[state][piece] = added
            state = self._link[state]
        if state < 0:
            self._link[added] = 0
        else:
            self._link[added] = self._split(state, piece)
        self._end = added

    def _split(self, state: int, piece: str) -> int:
        """The state of exactly the runs that end with ``state``'s and ``piece``."""
        target = self.moves[state][piece]
        if self._length[target] == self._length[state] + 1:
            return target
        copy = self._state(piece, self._length[state] + 1, dict(self.moves[target]))
        self._link[copy] = self._link[target]
        self._link[target] = copy
        while state >= 0 and self.moves[state].get(piece) == target:
            self.moves[state][piece] = copy
            state = self._link[state]
        return copy

    def _state(self, piece: str, length: int, moves: dict[str, int]) -> int:
        self.moves.append(moves)
        self.last.append(piece)
        self._link.append(-1)
        self._length.append(length)
        return len(self.moves) - 1

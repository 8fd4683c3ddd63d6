"""What a GBNF grammar still allows behind a text: the grammar of the rest of an answer.

A server keeps an answer in form from the beginning of a call only. To go on with an answer at any
character, the grammar is followed through what is said already, as llama.cpp follows it: a set of
stacks of what must come next. Knows of GBNF what ``gbnf`` writes: literals, names, groups,
alternatives, ``?`` and ``*``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from iepile_cli.task.grammar import literal

# The name of a rule, or a literal with a quotation mark before it.
_Symbol = str
_Stack = tuple[_Symbol, ...]

_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[\w-]+|[()|?*]')


class Rest:
    """A grammar that can be gone on with behind any text that it allows the beginning of."""

    def __init__(self, grammar: str) -> None:
        self._rules: dict[str, list[_Stack]] = {}
        self._groups = 0
        for line in grammar.splitlines():
            name, defined, body = line.partition(" ::= ")
            if defined:
                self._rules[name] = self._alternatives(_PART.findall(body)[::-1])
        self._start = self._opened([("root",)])

    def behind(self, said: str) -> str | None:
        """The grammar of what may follow ``said``; None where the grammar does not allow it.

        Its rule ``rest`` says all that may come: the caller writes the root.
        """
        stacks = self._start
        for character in said:
            stacks = self._opened(_moved(stacks, character))
        if not stacks:
            return None
        ways = [self._written(stack) for stack in sorted(stacks)]
        names = {symbol for stack in stacks for symbol in stack if symbol[0] != '"'}
        return "\n".join([f"rest ::= {' | '.join(ways)}", *self._reached(names), ""])

    # ------------------------------------------------------------------------------ inner steps

    def _alternatives(self, parts: list[str]) -> list[_Stack]:
        """Read alternatives off the end of reversed parts, up to a closing bracket."""
        ways: list[list[_Symbol]] = [[]]
        while parts and parts[-1] != ")":
            part = parts.pop()
            if part == "|":
                ways.append([])
            elif part == "(":
                ways[-1].append(self._group(self._alternatives(parts)))
                parts.pop()
            elif part in "?*":
                once = ways[-1].pop()
                name = self._group([])
                self._rules[name] += [(once,) if part == "?" else (once, name), ()]
                ways[-1].append(name)
            elif part[0] != '"':
                ways[-1].append(part)
            elif part != '""':
                ways[-1].append('"' + json.loads(part))
        return [tuple(way) for way in ways]

    def _group(self, ways: list[_Stack]) -> _Symbol:
        self._groups += 1
        name = f"group-{self._groups}"
        self._rules[name] = ways
        return name

    def _opened(self, stacks: Iterable[_Stack]) -> set[_Stack]:
        """The stacks with their first rules opened, until each begins with a literal or is over."""
        seen: set[_Stack] = set()
        ready: set[_Stack] = set()
        todo = list(stacks)
        while todo:
            stack = todo.pop()
            if stack in seen:
                continue
            seen.add(stack)
            if not stack or stack[0][0] == '"':
                ready.add(stack)
            else:
                todo += [way + stack[1:] for way in self._rules[stack[0]]]
        return ready

    def _reached(self, names: set[_Symbol]) -> list[str]:
        """The rules of these names and of all that they name."""
        lines: dict[_Symbol, str] = {}
        todo = sorted(names)
        while todo:
            name = todo.pop()
            if name in lines:
                continue
            ways = self._rules[name]
            lines[name] = f"{name} ::= {' | '.join(map(self._written, ways))}"
            todo += [symbol for way in ways for symbol in way if symbol[0] != '"']
        return list(lines.values())

    def _written(self, stack: _Stack) -> str:
        return " ".join(s if s[0] != '"' else literal(s[1:]) for s in stack) or '""'


def _moved(stacks: Iterable[_Stack], character: str) -> set[_Stack]:
    """The stacks behind a character that their first literals begin with."""
    moved = set()
    for stack in stacks:
        if stack and stack[0][1] == character:
            left = stack[0][2:]
            moved.add(((f'"{left}',) if left else ()) + stack[1:])
    return moved

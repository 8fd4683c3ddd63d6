"""The syntax of schema items on the command line: ``name``, ``name(part, part)``, ``a -name-> b``.

Items are separated by commas or semicolons outside brackets. A sign that belongs to a name is
written after a backslash; full-width punctuation is understood too. What the items mean, and of
which task they are, is decided in ``schema.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from iepile_cli.errors import UsageError
from iepile_cli.task.table import TASKS

# A character and the sign it is read as: "" in a name and after a backslash.
_Token: TypeAlias = tuple[str, str]

_SIGNS = {sign: sign for sign in ",;(){}[]->"} | dict(
    zip("，、；（）｛｝［］", ",,;(){}[]", strict=True)
)
_BRACKETS = {"(": ")", "{": "}", "[": "]"}


class ParsedItem(NamedTuple):
    """One item: its name and the names in its bracketed groups, or those around its arrow.

    ``brackets`` holds the opening bracket of each group, ``text`` the item as it was written,
    without backslashes.
    """

    text: str
    name: str
    brackets: str = ""
    groups: tuple[tuple[str, ...], ...] = ()
    subject: str = ""
    object: str = ""


def parse_expression(text: str) -> list[ParsedItem]:
    """Parse schema items; raises ``UsageError`` naming the one that cannot be parsed."""
    return [_relation(part) or _grouped(part) for part in _separated(_tokens(text))]


def examples() -> str:
    """Right items, for hints."""
    return "write it like: " + " or ".join(
        TASKS[name].example for name in ("NER", "SPO", "EE", "KG")
    )


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    escaped = False
    for character in text:
        if escaped:
            tokens[-1] = (character, "")
        else:
            tokens.append((character, _SIGNS.get(character, "")))
        escaped = character == "\\" and not escaped
    return tokens


def _separated(tokens: Sequence[_Token]) -> list[Sequence[_Token]]:
    """Cut at commas and semicolons outside brackets; an empty last part is none."""
    parts, depth, start = [], 0, 0
    for at, (_, sign) in enumerate(tokens):
        if sign in _BRACKETS:
            depth += 1
        elif sign in _BRACKETS.values():
            depth = max(0, depth - 1)
        elif sign in (",", ";") and depth == 0:
            parts.append(tokens[start:at])
            start = at + 1
    parts.append(tokens[start:])
    if len(parts) > 1 and not _spelled(parts[-1]):
        parts.pop()
    if not all(map(_spelled, parts)):
        raise UsageError(f"schema {_spelled(tokens)!r} has an empty name in it", hint=examples())
    return parts


def _relation(part: Sequence[_Token]) -> ParsedItem | None:
    """Parse ``subject -predicate-> object``; None without an arrow.

    The predicate begins at the first hyphen that has a space before it.
    """
    arrows = [n for n in range(len(part) - 1) if part[n][1] + part[n + 1][1] == "->"]
    if not arrows:
        return None
    if len(arrows) > 1:
        raise UsageError(
            f"schema item {_spelled(part)!r} holds {len(arrows)} relations",
            hint=r"separate them by commas; an arrow in a name is written \->",
        )
    left, right = part[: arrows[0]], part[arrows[0] + 2 :]
    for start, (_, sign) in enumerate(left):
        if sign == "-" and start and left[start - 1][0].isspace():
            subject, predicate = _spelled(left[:start]), _spelled(left[start + 1 :])
            if subject and predicate and _spelled(right):
                return ParsedItem(
                    _spelled(part), predicate, subject=subject, object=_spelled(right)
                )
    raise UsageError(
        f"schema item {_spelled(part)!r} cannot be read",
        hint=f"write it like: {TASKS['SPO'].example}",
    )


def _grouped(part: Sequence[_Token]) -> ParsedItem:
    """Parse ``name(inner){inner}``."""
    text = _spelled(part)
    name: list[_Token] = []
    brackets = ""
    groups: list[tuple[str, ...]] = []
    at = 0
    while at < len(part):
        character, sign = part[at]
        if sign in _BRACKETS:
            end = _closing(part, at)
            inner = part[at + 1 : end]
            brackets += sign
            groups.append(tuple(map(_spelled, _separated(inner))) if _spelled(inner) else ())
            at = end
        elif groups and not character.isspace():
            raise UsageError(f"schema item {text!r} cannot be read", hint=examples())
        elif sign in _BRACKETS.values():
            raise UsageError(
                f"schema item {text!r} has a {character!r} that nothing opened", hint=examples()
            )
        else:
            name.append(part[at])
        at += 1
    if not _spelled(name):
        raise UsageError(f"schema item {text!r} has no name", hint=examples())
    return ParsedItem(text, _spelled(name), brackets, tuple(groups))


def _closing(part: Sequence[_Token], start: int) -> int:
    opening, want = part[start][0], _BRACKETS[part[start][1]]
    for at in range(start + 1, len(part)):
        sign = part[at][1]
        if sign == want:
            return at
        if sign in _BRACKETS or sign in _BRACKETS.values():
            break
    raise UsageError(
        f"schema item {_spelled(part)!r} has no {want!r} for its {opening!r}", hint=examples()
    )


def _spelled(part: Sequence[_Token]) -> str:
    return "".join(character for character, _ in part).strip()

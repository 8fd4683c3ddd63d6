"""The grammar of an answer, for decoding that cannot be wrong in form.

``answer_grammar`` builds a small tree of JSON values from a task, the schema items of a request
and the passage: the keys in their order, and where a mention, a list or a fixed word may stand.
Three printers write it: ``lark_grammar`` for llguidance (our own backends and vLLM),
``gbnf_grammar`` (in ``gbnf.py``) for llama.cpp's servers, and ``json_schema`` for servers that take
nothing finer. Lark and GBNF accept exactly the answers of the wire format (``json.dumps`` layout)
whose mentions are pieces of the passage, JSON-escaped. The grammar depends on the passage, so it
belongs to a request, not to a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from iepile_cli.errors import ModelError
from iepile_cli.task.instruction import dumps
from iepile_cli.task.segment import segment
from iepile_cli.task.shape import Each, Keyed, Mention, Node, Record, SchemaItem, Slots
from iepile_cli.task.table import Task

# -------------------------------------------------------------------------------------- the tree


@dataclass(frozen=True, slots=True)
class Verbatim:
    """A mention: a string that is a run of the passage's pieces, no white space at its ends."""


@dataclass(frozen=True, slots=True)
class Const:
    """One fixed string."""

    text: str


@dataclass(frozen=True, slots=True)
class Array:
    """A list of any number of values; of at least one unless ``may_be_empty``."""

    element: Value
    may_be_empty: bool = True


@dataclass(frozen=True, slots=True)
class Object:
    """An object of these keys in this order: all of them, or any with ``optional``."""

    fields: tuple[tuple[str, Value], ...] = ()
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Map:
    """An object of any number of mentions, each with a value."""

    value: Value


@dataclass(frozen=True, slots=True)
class OneOf:
    """Any one of these values."""

    values: tuple[Value, ...]


Value: TypeAlias = Verbatim | Const | Array | Object | Map | OneOf


@dataclass(frozen=True)
class Grammar:
    """The form of an answer, and the passage in runs of pieces that mentions are made of.

    Without ``runs`` the passage holds no mention, and only empty answers are left.
    """

    answer: Object
    runs: tuple[tuple[str, ...], ...] = ()


def answer_grammar(
    task: Task,
    items: Sequence[SchemaItem],
    text: str,
    spells: Callable[[str], bool] | None = None,
) -> Grammar:
    """The grammar of the answers to ``items`` about ``text``.

    Items that share a key are answered once, as the first of them asks. ``spells`` tells whether
    the model's vocabulary can write a text at all; no mention holds what it cannot, and a name of
    the schema that it cannot write raises ``ModelError``.
    """
    for name in (name for item in items for name in (item.type, *item.slots)):
        if spells is not None and not name.isascii() and not spells(name):
            raise ModelError(
                f"this model's vocabulary cannot write {name!r}, a name in the schema",
                hint="rename it, or use another model",
            )
    runs = (run for run in _runs(text, spells) if any(not piece.isspace() for piece in run))
    return Grammar(_answer(task, items), tuple(map(tuple, runs)))


def _runs(text: str, spells: Callable[[str], bool] | None) -> list[list[str]]:
    """The pieces of a text, in runs between those that cannot be written."""
    pieces = segment(text)
    if spells is None or spells(text):
        return [pieces]
    runs: list[list[str]] = [[]]
    for piece in pieces:
        if piece.isascii() or spells(piece):
            runs[-1].append(piece)
        elif runs[-1]:
            runs.append([])
    return runs


def _answer(task: Task, items: Sequence[SchemaItem]) -> Object:
    first = {item.type: item for item in reversed(items)}
    keys = dict.fromkeys(item.type for item in items)
    return Object(tuple((key, _value(task.shape, first[key])) for key in keys))


def _value(node: Node, item: SchemaItem) -> Value:
    """The values that a node of the answer's shape may have for one schema item."""
    match node:
        case Each(element):
            return Array(_value(element, item))
        case Keyed(_, inner):
            return Map(_value(inner, item))
        case Mention(_, absent):
            return Verbatim() if absent is None else OneOf((Verbatim(), Const(absent)))
        case Record(fields):
            shown = [(key, _value(inner, item)) for key, inner in fields if not item.lacks(key)]
            return Object(tuple(shown))
        case Slots(absent):
            # Training data has no list of one, but a list whose second mention repeats the first
            # must be free to end.
            filler: tuple[Value, ...] = (Verbatim(), Array(Verbatim(), may_be_empty=False))
            filler += () if absent is None else (Const(absent),)
            slots = tuple((slot, OneOf(filler)) for slot in dict.fromkeys(item.slots))
            if absent is None or not slots:
                return Object(slots, optional=True)
            # All slots, those without a filler too, or none at all.
            return OneOf((Object(), Object(slots)))
        case _:
            raise TypeError(f"{type(node).__name__} is no part of an answer")


def empty_answers(task: Task, items: Sequence[SchemaItem]) -> tuple[str, ...]:
    """For each key of an answer, in order, the text that answers it with nothing."""
    nothing = "{}" if isinstance(task.shape, Keyed) else "[]"
    return tuple(f"{dumps(key)}: {nothing}" for key in dict.fromkeys(item.type for item in items))


# ---------------------------------------------------------------------------------- as a schema


def json_schema(task: Task, items: Sequence[SchemaItem]) -> dict[str, Any]:
    """The JSON schema of the answers to ``items``; every key is required.

    It cannot say that mentions are pieces of the text: what is not is dropped by grounding.
    """
    return _schema(_answer(task, items))


def is_closed(task: Task) -> bool:
    """Whether all keys of an answer are known beforehand, as strict modes require."""
    return not isinstance(task.shape, Keyed)


def _schema(value: Value) -> dict[str, Any]:
    match value:
        case Verbatim() | Const():
            return {"type": "string"}
        case Array(element):
            return {"type": "array", "items": _schema(element)}
        case Map(inner):
            return {"type": "object", "additionalProperties": _schema(inner)}
        case Object(fields, optional):
            return {
                "type": "object",
                "properties": {key: _schema(inner) for key, inner in fields},
                "required": [] if optional else [key for key, _ in fields],
                "additionalProperties": False,
            }
        case OneOf(values):
            ways: list[dict[str, Any]] = []
            for way in map(_schema, values):
                ways += [] if way in ways else [way]
            return ways[0] if len(ways) == 1 else {"anyOf": ways}


# --------------------------------------------------------------------------------- as text rules


class Rules:
    """Writes a grammar's tree as the rules of Lark or of GBNF, which differ in little.

    ``mention`` names the rule of a mention, ``sign`` stands between a rule's name and its body.
    Equal values share a rule. Names are of small letters and digits, as both dialects allow.
    """

    def __init__(self, grammar: Grammar, mention: str, sign: str) -> None:
        self.grammar, self.mention, self.sign = grammar, mention, sign
        self.lines: list[str] = []
        self._names: dict[Value, str] = {}

    def answer(self, lead: str) -> str:
        """The body of the first rule: ``lead`` (a body) and every key with its value."""
        parts = [literal("{")]
        for number, (key, value) in enumerate(self.grammar.answer.fields):
            parts += [literal(", ")] if number else []
            parts += [literal(dumps(key) + ": "), self.body(value)]
        return " ".join([*filter(None, [lead]), *parts, literal("}")])

    def body(self, value: Value) -> str:
        """What stands for a value in a rule: a literal, a name or a group."""
        some = bool(self.grammar.runs)
        match value:
            case Verbatim():
                return self.mention
            case Const(text):
                return literal(dumps(text))
            case Array(_, may_be_empty) if may_be_empty and not some:
                return literal("[]")
            case Map() if not some:
                return literal("{}")
            case Object(()):
                return literal("{}")
            case OneOf(values) if all(isinstance(one, Verbatim | Const) for one in values):
                return f"({' | '.join(map(self.body, values))})"
        if value not in self._names:
            self._names[value] = self._rule(self._written(value))
        return self._names[value]

    def _written(self, value: Value) -> str:
        match value:
            case Array(element, may_be_empty):
                part = self.body(element)
                more = f"({literal(', ')} {part})*"
                some = f"{literal('[')} {part} {more} {literal(']')}"
                return f"{literal('[]')} | {some}" if may_be_empty else some
            case Map(inner):
                part = f"{self.mention} {literal(': ')} {self.body(inner)}"
                more = f"({literal(', ')} {part})*"
                return f"{literal('{}')} | {literal('{')} {part} {more} {literal('}')}"
            case Object(fields, optional):
                pairs = [f"{literal(dumps(key) + ': ')} {self.body(part)}" for key, part in fields]
                if optional:
                    return self._any_of(pairs)
                inside = f" {literal(', ')} ".join(pairs)
                return f"{literal('{')} {inside} {literal('}')}"
            case OneOf(values):
                return " | ".join(map(self.body, values))
            case _:
                raise TypeError(f"{type(value).__name__} needs no rule")

    def _any_of(self, pairs: Sequence[str]) -> str:
        """Any of these pairs in order, each at most once.

        One rule for each pair says what may follow it, so that size grows with the pairs.
        """
        tails = [literal("}")]
        for pair in reversed(pairs[1:]):
            tails.append(self._rule(f"({literal(', ')} {pair})? {tails[-1]}"))
        firsts = " | ".join(f"{pair} {tail}" for pair, tail in zip(pairs, tails[::-1], strict=True))
        return f"{literal('{}')} | {literal('{')} ({firsts})"

    def _rule(self, body: str) -> str:
        name = f"r{len(self.lines)}"
        self.lines.append(f"{name}{self.sign}{body}")
        return name


def literal(value: Any) -> str:
    """A string literal of a grammar; the escapes of JSON text are those of Lark and of GBNF.

    Lark takes no DEL as it is, which JSON does not escape.
    """
    return dumps(value).replace("\x7f", r"\u007f")


# --------------------------------------------------------------------------------------- as Lark


def lark_grammar(
    task: Task,
    items: Sequence[SchemaItem],
    text: str,
    *,
    lead: str | None = "",
    spells: Callable[[str], bool] | None = None,
) -> str:
    """The grammar of the answers to ``items`` about ``text`` in llguidance's Lark dialect.

    ``lead`` stands before the answer: the space that a SentencePiece tokenizer puts before any
    text; None leaves it open whether there is one. ``spells`` is as for ``answer_grammar``.
    """
    grammar = answer_grammar(task, items, text, spells)
    rules = Rules(grammar, "MENTION", ": ")
    before = '" "?' if lead is None else literal(lead) if lead else ""
    start = f"start: {rules.answer(before)}"
    return "\n".join([start, *rules.lines, *_lark_mention(grammar), ""])


def _lark_mention(grammar: Grammar) -> list[str]:
    """The terminal of a quoted mention: a run of pieces without white space at its ends."""
    if not grammar.runs:
        return []
    runs = [[dumps(piece)[1:-1] for piece in run] for run in grammar.runs]
    # White space that JSON does not escape, and the escapes of white space that it does.
    blank = r"[ \u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{85}]"
    escaped = r"\\(n|t|r|f|u000b|u001c|u001d|u001e|u001f)"
    edge = f"({blank}|{escaped})"
    return [
        *(f"RUN{n}: %regex {literal({'substring_chunks': run})}" for n, run in enumerate(runs)),
        "PIECES: " + " | ".join(f"RUN{n}" for n in range(len(runs))),
        # An escape at the end is white space only when its backslash is not itself escaped.
        rf"EDGED: /(?s:{edge}.*|.*{blank}|([^\\]|\\.)*{escaped}|)/",
        'MENTION: "\\"" (PIECES & ~EDGED) "\\""',
    ]

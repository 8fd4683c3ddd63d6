"""The grammar of an answer, for decoding that cannot be wrong in form.

Goes in: a task, the schema items asked and the passage. Comes out: a grammar in llguidance's Lark
dialect that accepts exactly the answers of the wire format (``json.dumps`` layout) whose keys are
those asked, in order, and whose mentions are pieces of the passage, JSON-escaped. It depends on
the passage, so it belongs to a request, not to a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from iepile_cli.task.instruction import dumps
from iepile_cli.task.segment import segment
from iepile_cli.task.shape import Each, Keyed, Mention, Node, Record, SchemaItem, Slots
from iepile_cli.task.table import Task


def grammar(
    task: Task,
    items: Sequence[SchemaItem],
    text: str,
    *,
    lead: str = "",
    spells: Callable[[str], bool] | None = None,
    answered: int = 0,
) -> str:
    """The Lark grammar of the answers to ``items`` about ``text``.

    Items that share a key are answered once, under that key. ``lead`` stands before the answer:
    the space that a SentencePiece tokenizer puts before any text. ``spells`` tells whether the
    model's vocabulary can write a text at all; what it cannot, no mention holds. With
    ``answered``, the grammar is that of what is left of an answer after so many of its keys.
    """
    return Rules.of(task, items, _runs(text, spells)).lark(lead, answered)


def _runs(text: str, spells: Callable[[str], bool] | None) -> list[list[str]]:
    """The pieces of a text, in runs between those that cannot be written."""
    cut = segment(text)
    if spells is None or spells(text):
        return [cut]
    runs: list[list[str]] = [[]]
    for piece in cut:
        if piece.isascii() or spells(piece):
            runs[-1].append(piece)
        elif runs[-1]:
            runs.append([])
    return runs


def empty_answers(task: Task, items: Sequence[SchemaItem]) -> tuple[str, ...]:
    """For each key of an answer, in order, the text that answers it with nothing."""
    nothing = "{}" if isinstance(task.shape, Keyed) else "[]"
    return tuple(f"{dumps(key)}: {nothing}" for key in dict.fromkeys(item.type for item in items))


class Rules:
    """Collects the rules of one grammar; each method gives the name of a rule or a literal."""

    def __init__(
        self, task: Task, items: Sequence[SchemaItem], runs: Sequence[Sequence[str]]
    ) -> None:
        self.task, self.items = task, items
        # Without a piece that could be mentioned only empty answers are left.
        named = [run for run in runs if any(not piece.isspace() for piece in run)]
        self.runs = [[dumps(piece)[1:-1] for piece in run] for run in named]
        self.mentionable = bool(named)
        self.rules: list[str] = []

    @classmethod
    def of(cls, task: Task, items: Sequence[SchemaItem], runs: Sequence[Sequence[str]]) -> Rules:
        """For schema items some of which may share a key: each key is answered once."""
        by_key = {item.type: item for item in reversed(items)}
        asked = [by_key[key] for key in dict.fromkeys(item.type for item in items)]
        return cls(task, asked, runs)

    def lark(self, lead: str, answered: int = 0) -> str:
        """The whole grammar in Lark form."""
        start = self.body(answered, lead)
        return "\n".join([f"start: {start}", *self.rules, *self.mention(), ""])

    def body(self, answered: int = 0, lead: str = "", *, opened: bool = False) -> str:
        """What an answer consists of, behind its first ``answered`` keys.

        With ``opened``, behind the next key and its colon and space too.
        """
        behind = [
            self.answer(self.task.shape, item, f"a{n}") if n >= answered else ""
            for n, item in enumerate(self.items)
        ]
        pairs = [
            f"{literal(dumps(item.type) + ': ')} {answer}"
            for item, answer in zip(self.items, behind, strict=True)
        ][answered:]
        opening = literal(lead + (", " if answered else "{"))
        if opened:
            opening, pairs[0] = "", behind[answered]
        return " ".join([opening, f" {literal(', ')} ".join(pairs), literal("}")]).lstrip()

    def mention(self) -> list[str]:
        """The terminal of a quoted mention: a run of pieces without white space at its ends."""
        if not self.mentionable:
            return []
        runs = [
            f"RUN{n}: %regex {json.dumps({'substring_chunks': run}, ensure_ascii=False)}"
            for n, run in enumerate(self.runs)
        ]
        # White space that JSON does not escape, and the escapes of white space that it does.
        blank = r"[ \u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{85}]"
        escaped = r"\\(n|t|r|f|u000b|u001c|u001d|u001e|u001f)"
        edge = f"({blank}|{escaped})"
        return [
            *runs,
            "PIECES: " + " | ".join(f"RUN{n}" for n in range(len(runs))),
            # An escape at the end is white space only when its backslash is not itself escaped.
            rf"EDGED: /(?s:{edge}.*|.*{blank}|([^\\]|\\.)*{escaped}|)/",
            'MENTION: "\\"" (PIECES & ~EDGED) "\\""',
        ]

    def answer(self, node: Node, item: SchemaItem, name: str) -> str:
        """A rule for what answers one schema item."""
        match node:
            case Each(element):
                empty = literal("[]")
                if not self.mentionable:
                    return empty
                part = self.part(element, item, f"{name}_x")
                more = f"({literal(', ')} {part})*"
                return self.rule(name, f"{empty} | {literal('[')} {part} {more} {literal(']')}")
            case Keyed(_, inner):
                empty = literal("{}")
                if not self.mentionable:
                    return empty
                part = f"MENTION {literal(': ')} {self.part(inner, item, f'{name}_x')}"
                more = f"({literal(', ')} {part})*"
                return self.rule(name, f"{empty} | {literal('{')} {part} {more} {literal('}')}")
            case _:
                raise TypeError(f"{type(node).__name__} cannot answer a schema item")

    def part(self, node: Node, item: SchemaItem, name: str) -> str:
        """A rule for one extracted thing, or for a part of it."""
        match node:
            case Mention(_, absent):
                return "MENTION" if absent is None else f"(MENTION | {literal(dumps(absent))})"
            case Record(fields):
                shown = [
                    f"{literal(dumps(key) + ': ')} {self.part(inner, item, f'{name}_{n}')}"
                    for n, (key, inner) in enumerate(fields)
                    if not item.lacks(key)
                ]
                body = f" {literal(', ')} ".join(shown)
                return self.rule(name, f"{literal('{')} {body} {literal('}')}")
            case Slots(absent):
                return self.slots(absent, item, name)
            case _:
                raise TypeError(f"{type(node).__name__} cannot stand inside an answer")

    def slots(self, absent: str | None, item: SchemaItem, name: str) -> str:
        """``{}``, or the slots in order: all of them when absence has a word, else any of them."""
        empty = literal("{}")
        if not item.slots:
            return empty
        filler = self.filler(absent)
        pairs = [f"{literal(dumps(slot) + ': ')} {filler}" for slot in item.slots]
        if absent is not None:
            body = f" {literal(', ')} ".join(pairs)
            return self.rule(name, f"{empty} | {literal('{')} {body} {literal('}')}")
        # One rule for each slot says what may follow it, so that size grows with the slots and
        # no slot can come twice.
        tails = [literal("}")]
        for n in range(len(pairs) - 1, 0, -1):
            body = f"({literal(', ')} {pairs[n]})? {tails[-1]}"
            tails.append(self.rule(f"{name}_t{n}", body))
        tails.reverse()
        firsts = " | ".join(f"{pair} {tails[n]}" for n, pair in enumerate(pairs))
        return self.rule(name, f"{empty} | {literal('{')} ({firsts})")

    def filler(self, absent: str | None) -> str:
        """One mention, a list of them, or the word for none.

        Training data has no list of one, but a list whose second mention repeats the first must
        be free to end.
        """
        more = f"({literal(', ')} MENTION)*"
        many = f"{literal('[')} MENTION {more} {literal(']')}"
        none = "" if absent is None else f" | {literal(dumps(absent))}"
        rule = f"filler: MENTION | {many}{none}"
        if rule not in self.rules:
            self.rules.append(rule)
        return "filler"

    def rule(self, name: str, body: str) -> str:
        """Note a rule; gives its name."""
        self.rules.append(f"{name}: {body}")
        return name


def literal(text: str) -> str:
    """A string literal of a grammar; the escapes of JSON text are those of Lark and of GBNF."""
    return json.dumps(text, ensure_ascii=False)

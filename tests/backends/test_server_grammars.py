"""What servers are sent to keep answers in form, judged by the parsers that servers use.

llama.cpp reads the GBNF, llguidance the JSON schemas; both are asked with the embedded model's
vocabulary, token by token.
"""

from __future__ import annotations

import ctypes
import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_cli.backends import Request
from iepile_cli.backends.constraint import Constraint
from iepile_cli.backends.llamacpp import library, load_model
from iepile_cli.backends.servers import SERVER_KINDS, Server, structure
from iepile_cli.backends.tokenizers import LlamaCppTokenizer
from iepile_cli.task import TASKS, SchemaItem
from iepile_cli.task.gbnf import MOST_PIECES, gbnf_grammar
from iepile_cli.task.grammar import empty_answers, is_closed, json_schema, lark_grammar
from iepile_cli.task.instruction import Instruction, dumps
from iepile_cli.task.segment import segment
from iepile_cli.templates import Prompt

TEXT = 'Żółć met Ann "the [cat]" Smith\tin C:\\temp. 任正非在深圳 😀::= <x> Ann.'
QUOTED, SIGNS, CHINESE = 'a "quoted" \\ label', "root ::= [^x]* | (y)? {1,2} # <[7]>", "名前_名\n"
SLOTS = ('ro"le', "x ::= y", "角色\\")

ITEMS: dict[str, tuple[SchemaItem, ...]] = {
    "NER": (SchemaItem(QUOTED), SchemaItem(SIGNS), SchemaItem(CHINESE)),
    "RE": (SchemaItem(SIGNS), SchemaItem(CHINESE)),
    "SPO": (
        SchemaItem(QUOTED, subject_type="a|b", object_type='"'),
        SchemaItem(CHINESE, subject_type="x", object_type="y"),
    ),
    "EE": (SchemaItem(SIGNS, slots=SLOTS), SchemaItem(CHINESE, trigger=False, slots=SLOTS[:1])),
    "EET": (SchemaItem(QUOTED), SchemaItem(SIGNS)),
    "EEA": (SchemaItem(CHINESE, slots=SLOTS, trigger=("met",)),),
    "KG": (SchemaItem(SIGNS, slots=SLOTS), SchemaItem(QUOTED, slots=SLOTS[1:])),
}
A, B, C = 'Ann "the [cat]" Smith', "C:\\temp", "深圳 😀"
PAIRS = [{"subject": A, "object": B}, {"subject": C, "object": "::= <x"}]
ANSWERS: dict[str, dict[str, Any]] = {
    "NER": {QUOTED: [A, B, "任"], SIGNS: [], CHINESE: ["Żółć", "😀"]},
    "RE": {SIGNS: PAIRS, CHINESE: []},
    "SPO": {QUOTED: [], CHINESE: PAIRS},
    "EE": {
        SIGNS: [
            {"trigger": "met", "arguments": {SLOTS[0]: A, SLOTS[1]: [B, C], SLOTS[2]: "NAN"}},
            {"trigger": "NAN", "arguments": {}},
        ],
        CHINESE: [{"arguments": {SLOTS[0]: "Żółć met"}}],
    },
    "EET": {QUOTED: ["met"], SIGNS: ["in", "\\"]},
    "EEA": {CHINESE: [{SLOTS[0]: "NAN", SLOTS[1]: [A], SLOTS[2]: C}]},
    "KG": {SIGNS: {A: {SLOTS[0]: B, SLOTS[2]: [A, C]}, B: {}}, QUOTED: {}},
}
# What is none of the text: another word, a part of one, another case, white space at its end.
UNGROUNDED = ("Bob", "An", "ann", "Ann ", "the cat", "temp. 任正非 在", "")


# The embedded model's vocabulary has no tokens for the planes beyond.
SPELLED = st.characters(exclude_categories=["Cs"], max_codepoint=0x3FFFF)


@pytest.fixture(scope="module")
def model(embedded: Path) -> Any:
    return load_model(embedded, vocab_only=True)


class Judge:
    """What llama.cpp makes of a GBNF grammar and a text in a model's tokens."""

    def __init__(self, model: Any, path: Path) -> None:
        self.lib = library()
        self.vocab = self.lib.llama_model_get_vocab(model)
        self.tokenizer = LlamaCppTokenizer(model, path)

    def accepts(self, rules: str, text: str) -> bool:
        """Whether the grammar allows each token in turn, and then the end."""
        lib = self.lib
        sampler = lib.llama_sampler_init_grammar(self.vocab, rules.encode(), b"root")
        assert sampler, rules
        try:
            for token in self.tokenizer.text(text):
                if not self._allows(sampler, token):
                    return False
                lib.llama_sampler_accept(sampler, token)
            return self._allows(sampler, lib.llama_vocab_eos(self.vocab))
        finally:
            lib.llama_sampler_free(sampler)

    def _allows(self, sampler: Any, token: int) -> bool:
        lib = self.lib
        data = (lib.llama_token_data * 1)(lib.llama_token_data(id=token, logit=1.0, p=0.0))
        array = lib.llama_token_data_array(data=data, size=1, selected=-1, sorted=False)
        lib.llama_sampler_apply(sampler, ctypes.byref(array))
        return not math.isinf(data[0].logit)


@pytest.fixture(scope="module")
def judge(model: Any, embedded: Path) -> Judge:
    return Judge(model, embedded)


def variants(task: str) -> Iterator[str]:
    """Answers that are not right: another mention, key, order or layout."""
    right = ANSWERS[task]
    written = dumps(right)
    mention = next(one for one in (C, "met", "😀") if dumps(one) in written)
    for other in UNGROUNDED:
        yield written.replace(dumps(mention), dumps(other))
    yield dumps({f"{key}!": value for key, value in right.items()})
    yield dumps({**right, "more": []})
    if len(right) > 1:
        yield dumps(dict(list(right.items())[1:]))
        yield dumps(dict(reversed(right.items())))
    yield json.dumps(right, ensure_ascii=False, separators=(",", ":"))
    yield json.dumps(right, indent=1)
    yield written + " "
    yield written[:-1]
    yield dumps(dict.fromkeys(right))


@pytest.mark.parametrize("task", ITEMS)
def test_gbnf_accepts_what_is_right_and_nothing_else(task: str, judge: Judge) -> None:
    rules = gbnf_grammar(TASKS[task], ITEMS[task], TEXT)
    right = dumps(ANSWERS[task])
    assert judge.accepts(rules, right)
    assert judge.accepts(rules, " " + right)
    assert judge.accepts(rules, "{" + ", ".join(empty_answers(TASKS[task], ITEMS[task])) + "}")
    wrong = [text for text in variants(task) if judge.accepts(rules, text)]
    assert wrong == []
    assert right not in variants(task)


@pytest.mark.parametrize("task", ITEMS)
def test_gbnf_allows_all_that_decoding_here_allows(task: str, judge: Judge, model: Any) -> None:
    """Random answers under the grammar of our own backends are answers under the GBNF."""
    tokenizer = judge.tokenizer.constraining
    kind, asked, dice = TASKS[task], ITEMS[task], random.Random(task)
    rules, ours = gbnf_grammar(kind, asked, TEXT), lark_grammar(kind, asked, TEXT)
    for _ in range(15):
        constraint = Constraint(tokenizer, ours, 150, empty_answers(kind, asked))
        while not constraint.done:
            allowed = [int(token) for token in constraint.allowed()]
            closing = [t for t in allowed if {*"]}"} & {*tokenizer.decode_str([t])}]
            some = closing if closing and dice.random() < 0.3 else allowed
            constraint.accept(dice.choice(some), 1.0)
        answer = constraint.answer(0).text
        assert judge.accepts(rules, answer), answer


@pytest.mark.parametrize("text", [TEXT, "start: x ::= y // #", "", "字" * 3000])
@pytest.mark.parametrize("task", ITEMS)
def test_vllm_reads_the_grammar_as_we_do(task: str, text: str, judge: Judge) -> None:
    """vLLM hands a grammar to llguidance as "grammar", checks it without a vocabulary, and gives
    its matcher no larger limits than usual."""
    from llguidance import LLMatcher, grammar_from

    kind, asked = TASKS[task], ITEMS[task]
    request = Request(Prompt((), "", ""), "ours", 10, instruction=Instruction(kind, asked, text))
    found = Server(SERVER_KINDS["vllm"], "m")
    sent = structure(found, request, "lark")["extra_body"]["structured_outputs"]["grammar"]
    read = grammar_from("grammar", sent)
    assert not LLMatcher.validate_grammar(read, None)
    tokenizer = judge.tokenizer.constraining
    empty = "{" + ", ".join(empty_answers(kind, asked)) + "}"
    right = dumps(ANSWERS[task])
    answers = {empty: True, f" {empty}": True, right: text is TEXT, f" {right}": text is TEXT}
    for answer, fits in answers.items():
        matcher = LLMatcher(tokenizer, read, log_level=0)
        tokens = tokenizer.tokenize_str(answer)
        taken = matcher.try_consume_tokens(tokens)
        assert (taken == len(tokens) and matcher.is_accepting()) == fits, answer
        assert not matcher.is_error()


def test_nothing_to_mention_leaves_empty_answers(judge: Judge) -> None:
    for task, asked in ITEMS.items():
        rules = gbnf_grammar(TASKS[task], asked, " \n\t")
        assert judge.accepts(rules, "{" + ", ".join(empty_answers(TASKS[task], asked)) + "}")
        assert not judge.accepts(rules, dumps(ANSWERS[task]))


@pytest.mark.parametrize("end", [" ", "\n", ".\n\n", " \n \t", "\u3000", " Ann "])
@pytest.mark.parametrize("task", ["NER", "KG"])
def test_gbnf_of_a_text_that_ends_in_white_space(task: str, end: str, judge: Judge) -> None:
    """Every rule that is named is there: llama.cpp refuses the grammar otherwise."""
    text = f"  {TEXT}{end}"
    rules = gbnf_grammar(TASKS[task], ITEMS[task], text)
    assert judge.accepts(rules, dumps(ANSWERS[task]))
    assert not judge.accepts(rules, dumps(ANSWERS[task]).replace('"C:', '" C:'))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([" ", "\n", "\u3000", "a", "b", "ab", "."]), max_size=8))
def test_gbnf_mentions_are_runs_of_pieces(judge: Judge, some: list[str]) -> None:
    text = "".join(some)
    pieces = segment(text)
    runs = {
        "".join(pieces[start:end])
        for start in range(len(pieces))
        for end in range(start + 1, len(pieces) + 1)
    }
    rules = gbnf_grammar(TASKS["NER"], (SchemaItem("x"),), text)
    assert judge.accepts(rules, '{"x": []}')
    for run in sorted(runs | {"c", ""}):
        assert judge.accepts(rules, dumps({"x": [run]})) == (run in runs and run == run.strip())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(SPELLED, min_size=1, max_size=8), min_size=1, max_size=4),
    st.text(SPELLED, max_size=20),
)
def test_gbnf_of_any_names_and_text_is_read(judge: Judge, names: list[str], text: str) -> None:
    asked = tuple(SchemaItem(name, slots=tuple(names[:2])) for name in names)
    rules = gbnf_grammar(TASKS["EE"], asked, text)
    assert judge.accepts(rules, "{" + ", ".join(empty_answers(TASKS["EE"], asked)) + "}")


def test_a_very_long_text_gets_any_string(judge: Judge) -> None:
    text = "Ann met Bob. " * MOST_PIECES
    asked = (SchemaItem("person"),)
    rules = gbnf_grammar(TASKS["NER"], asked, text)
    assert judge.accepts(rules, '{"person": ["Ann", "Carl \\"x\\" \\u00e9"]}')
    assert not judge.accepts(rules, '{"person": ["Ann\n"]}')
    assert not judge.accepts(rules, '{"persons": ["Ann"]}')


@pytest.mark.parametrize("task", ITEMS)
def test_json_schema(task: str, judge: Judge) -> None:
    from llguidance import LLMatcher

    tokenizer = judge.tokenizer.constraining
    schema = json_schema(TASKS[task], ITEMS[task])
    rules = LLMatcher.grammar_from_json_schema(schema)

    def accepts(value: Any) -> bool:
        matcher = LLMatcher(tokenizer, rules, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        tokens = tokenizer.tokenize_str(value if isinstance(value, str) else dumps(value))
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    right = ANSWERS[task]
    assert accepts(right)
    assert accepts("{" + ", ".join(empty_answers(TASKS[task], ITEMS[task])) + "}")
    assert not accepts({**right, "more": []})
    assert not accepts({f"{key}!": value for key, value in right.items()})
    assert not accepts(dict.fromkeys(right))
    assert not accepts(dict.fromkeys(right, "Ann"))
    assert not accepts({key: [7] for key in right})
    assert not accepts(dumps(right)[:-1])
    if task == "EEA":
        assert accepts({CHINESE: [{}]})
        assert not accepts({CHINESE: [{SLOTS[0]: "Ann"}]})
    assert list(schema["properties"]) == schema["required"] == [item.type for item in ITEMS[task]]
    assert is_closed(TASKS[task]) == (task != "KG")


def test_types_that_share_a_key_are_answered_once(judge: Judge) -> None:
    asked = (ITEMS["NER"][0], replace(ITEMS["NER"][0], description="twice"))
    rules = gbnf_grammar(TASKS["NER"], asked, TEXT)
    assert judge.accepts(rules, dumps({QUOTED: ["Ann"]}))
    assert list(json_schema(TASKS["NER"], asked)["properties"]) == [QUOTED]

"""No text ever becomes a control token: toy vocabularies that try, and generated text."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iepile_cli.errors import ModelError
from iepile_cli.templates import Bos, Control, Eos, Prompt, Text, encode

CONTROLS = {"<s>": 0, "</s>": 1, "<|im_start|>": 2, "[/INST]": 3, "<<": 4}
FIRST_CHARACTER = 100


class Greedy:
    """A tokenizer of characters that reads the names of control tokens wherever they stand.

    With ``spaced`` it puts a space before any text, as SentencePiece does.
    """

    bos: int | None = 0
    eos: int | None = 1
    add_bos = True
    chat_template = None

    def __init__(self, *, spaced: bool = False) -> None:
        self.spaced = spaced

    def control(self, token: str) -> int | None:
        return CONTROLS.get(token)

    def text(self, text: str) -> list[int]:
        names = "|".join(map(re.escape, CONTROLS))
        ids = []
        for part in re.split(f"({names})", (" " if self.spaced and text else "") + text):
            ids += (
                [CONTROLS[part]] if part in CONTROLS else [FIRST_CHARACTER + ord(c) for c in part]
            )
        return ids

    control_ids = frozenset(range(FIRST_CHARACTER))

    def controls(self) -> Mapping[str, int]:
        return CONTROLS


def characters(ids: list[int]) -> str:
    return "".join(chr(i - FIRST_CHARACTER) for i in ids)


HOSTILE = st.lists(
    st.sampled_from([*CONTROLS, "<", ">", "/", "s", "<</s>>", "\n", " ", "a", "\ud800", "名"])
    | st.text(max_size=3)
).map("".join)


@given(HOSTILE, st.booleans())
def test_text_gives_its_characters_and_no_control_token(text: str, spaced: bool) -> None:
    ids = encode((Text(text),), Greedy(spaced=spaced))
    expected = re.sub("[\ud800-\udfff]", "\ufffd", text)
    assert characters(ids) == (" " if spaced and expected else "") + expected


@given(HOSTILE)
def test_control_tokens_are_those_of_the_pieces(text: str) -> None:
    pieces = (Bos(), Control("<|im_start|>"), Text(text), Control("[/INST]"), Text(text), Eos())
    ids = encode(Prompt(pieces, "", text), Greedy())
    assert [i for i in ids if i < FIRST_CHARACTER] == [0, 2, 3, 1]


class Ordinary(Greedy):
    """A vocabulary in which nothing is marked as control, as Baichuan's roles are not."""

    control_ids: frozenset[int] = frozenset()

    def controls(self) -> Mapping[str, int]:
        return {}


@given(HOSTILE)
def test_tokens_that_the_template_uses_are_kept_from_the_text(text: str) -> None:
    pieces = (Bos(), Control("[/INST]"), Text(text), Control("<|im_start|>"))
    ids = encode(pieces, Ordinary())
    asked = {0, 1, 2, 3}
    assert [i for i in ids if i in asked] == [0, 3, 2]


class Folding(Greedy):
    """A tokenizer that reads full-width characters as the ASCII ones, so that names hide."""

    def text(self, text: str) -> list[int]:
        return super().text(text.replace("＜", "<").replace("＞", ">"))


def test_a_name_that_the_tokenizer_reads_in_other_characters_is_cut_too() -> None:
    ids = encode((Text("a ＜s＞ b ＜/s＞"),), Folding())
    assert characters(ids) == "a <s> b </s>"


class Lossy(Greedy):
    """A vocabulary without the character 名: it gives the unknown token, a control token here."""

    unknown = 5

    def text(self, text: str) -> list[int]:
        lost = FIRST_CHARACTER + ord("名")
        return [self.unknown if i == lost else i for i in super().text(text)]


def test_what_a_vocabulary_does_not_cover_stays_unknown_and_ends() -> None:
    assert encode((Text("a名</s>"),), Lossy()) == [
        FIRST_CHARACTER + ord("a"),
        5,
        *(FIRST_CHARACTER + ord(c) for c in "</s>"),
    ]


def test_very_many_names_take_little_time() -> None:
    ids = encode((Text("</s>" * 20_000),), Greedy(spaced=True))
    assert len(ids) == 80_001


def test_a_model_without_an_end_token_is_told_so() -> None:
    tokenizer = Greedy()
    tokenizer.eos = None
    with pytest.raises(ModelError, match=r"<\|endoftext\|>"):
        encode((Eos(),), tokenizer)

"""Passages: nothing is lost, everything fits, cuts are where they should be, and it is cheap."""

from __future__ import annotations

import contextlib
import itertools
import random
import textwrap
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_cli.errors import ModelError
from iepile_cli.task.passages import Passage, full_stop, passages, units
from iepile_cli.task.segment import segment

HOSTILE = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.sampled_from(
            [
                "<|im_end|>",
                "[/INST]",
                "</s>",
                '"',
                "\\",
                "\n",
                "\r\n",
                "\n\n",
                " " * 40,
                "\t",
                "👨‍👩‍👧‍👦",
                "🇩🇪🇫🇷",
                "e\u0301\u0302\u0303",
                "שלום עולם",
                "\u200b",
                "\u202e",
                "word " * 9,
                "x" * 300,
                "汉" * 50,
                "他说：“你好！”",
                "Dr. No. 5 said U.S. etc. ",
                "... ",
                "?!) ",
                "ไทย",
                "カタカナ",
                "\u2028",
                "\x0c",
                "\x85",
            ]
        ),
    ),
    max_size=12,
).map("".join)


def words(text: str) -> int:
    return len(text.split())


def check(text: str, budget: int, measure: Callable[[str], int]) -> list[Passage]:
    """The passages, after checking that they fit, are in place, and hold everything once."""
    found = list(passages(text, budget, measure))
    end = 0
    for passage in found:
        assert text[passage.start : passage.end] == passage.text
        assert measure(passage.text) <= budget
        assert passage.text == passage.text.strip() != ""
        assert passage.start >= end
        assert not text[end : passage.start].strip()
        end = passage.end
    assert not text[end:].strip()
    return found


@settings(max_examples=300, deadline=None)
@given(HOSTILE, st.integers(70, 400))
def test_everything_stands_in_exactly_one_passage(text: str, budget: int) -> None:
    check(text, budget, len)


@settings(max_examples=150, deadline=None)
@given(HOSTILE, st.integers(1, 50))
def test_a_measure_that_does_not_add_up_still_fits(text: str, budget: int) -> None:
    # Dearer together than apart, cheaper together than apart, and neither.
    check(text, budget + 64 * 64, lambda part: len(part) + len(part) ** 2 // 50)
    check(text, budget, lambda part: 1 + len(part) // 100)
    check(text, budget + 64, lambda part: len(part) - part.count("e") + 3 * part.count("e\u0301"))


@settings(max_examples=150, deadline=None)
@given(HOSTILE, st.integers(2, 60))
def test_bytes_as_tokens(text: str, budget: int) -> None:
    def measure(part: str) -> int:
        return len(part.encode("utf-8", "surrogatepass"))

    if max(map(measure, segment(text)), default=0) <= budget:
        check(text, budget, measure)
        return
    # A word is cut inside; only one cluster of characters alone may be too large, and is named.
    with contextlib.suppress(ModelError):
        check(text, budget, measure)


@given(HOSTILE)
def test_cuts_are_between_pieces_when_pieces_fit(text: str) -> None:
    edges = set(itertools.accumulate(map(len, segment(text)), initial=0))
    longest = max(map(len, segment(text)), default=1)
    for passage in check(text, max(8 * longest, 300), len):
        assert passage.start in edges
        assert passage.end in edges


def test_long_chinese_sentences_are_cut_at_commas() -> None:
    found = check("我们今天去了北京大学和清华大学，" * 50, 100, len)
    assert all(passage.text.endswith("，") for passage in found)
    assert len(found) <= 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One here. Two here! Three? Four", ["One here.", "Two here!", "Three?", "Four"]),
        (
            "Dr. J. K. Rowling et al. met Mr. X. He left.",
            ["Dr. J. K. Rowling et al. met Mr. X. He left."],
        ),
        ("It costs 3.14 dollars. Yes.", ["It costs 3.14 dollars.", "Yes."]),
        ('He said "Go." Then left.', ['He said "Go."', "Then left."]),
        ("Wait... what? no", ["Wait... what?", "no"]),
        ("他说：“你好！”走了。她笑了？好", ["他说：“你好！”", "走了。", "她笑了？", "好"]),
        ("title\nbody goes\r\n\r\nnext", ["title", "body goes", "next"]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end, _ in units(text)] == expected


def test_sentences_are_packed_and_not_cut() -> None:
    text = " ".join(f"Sentence number {number} stands here." for number in range(100))
    found = check(text, 23, words)
    assert all(passage.text.endswith("here.") for passage in found)
    assert [words(passage.text) for passage in found[:-1]] == [20] * 24 + [20][: len(found) - 25]


@pytest.mark.parametrize("width", [3, 5, 7])
@pytest.mark.parametrize("budget", [9, 12, 20, 31])
def test_a_sentence_that_fits_is_not_cut_at_the_end_of_its_lines(width: int, budget: int) -> None:
    draw = random.Random(width * 100 + budget)
    sentences = []
    for number in range(60):
        length = draw.randint(3, 9)
        sentences.append(f"The {'word ' * (length - 2)}{number}.")
    tokens = " ".join(sentences).split()
    lines = [" ".join(tokens[at : at + width]) for at in range(0, len(tokens), width)]
    for passage in check("\n".join(lines), budget, words):
        assert passage.text.split()[0] == "The"
        assert passage.text.endswith(".")
    # Tokens that join at the seams: what is foretold is more than what it comes to.
    text = "\n".join(lines)
    for passage in check(text, budget, lambda part: max(1, words(part) - part.count("\n"))):
        assert passage.text.endswith(".")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_sentence_of_wrapped_lines_is_not_cut_though_it_is_longer(end: str) -> None:
    sentences = [
        "The committee of the regional council said on Monday that the new bridge over the river "
        "near Hamburg would be opened in May by the minister of transport, who had ordered it.",
        "It is long.",
        "Engineers from three of the companies that took part in the work, among them Northwind, "
        "had told reporters that it would not be ready before the autumn of the next year.",
    ]
    text = end.join(textwrap.wrap(" ".join(sentences), 72))
    found = list(passages(text, 24, words, sentence_budget=100))
    assert [" ".join(passage.text.split()) for passage in found] == sentences


def test_lines_that_are_not_wrapped_are_cut_between() -> None:
    # Short posts, and records of equal length: each line is by itself.
    posts = [
        "wow emma and kaite is so very cute and so funny i wish im ryan",
        "trump is the boy",
        "hobby frog is a savage and so is the dog that came with it from far away places",
    ]
    rows = [
        f"{number:04} Ann Smith of Northwind Turbines was seen at the gate" for number in range(9)
    ]
    for lines in (posts, rows):
        found = list(passages("\n".join(lines), 16, words, sentence_budget=100))
        assert all(part in lines for passage in found for part in passage.text.split("\n"))
        assert len(found) >= len(lines) - 1


def test_lines_of_any_length_and_indentation_are_looked_at_in_little_memory() -> None:
    indented = "The first line of some\n" + " " * 500 + "and the second one is far to the right\n"
    assert len(list(units(indented * 3))) == 6
    text = "\n".join(["word " * 20, *["a short line"] * 30, "word " * 2_000_000])
    tracemalloc.start()
    try:
        list(units(text))
        assert tracemalloc.get_traced_memory()[1] < 2.5 * len(text)
    finally:
        tracemalloc.stop()


def test_a_passage_rather_ends_with_a_paragraph() -> None:
    paragraphs = ["A b c. " * 5, "D e f. " * 5, "G h i. " * 2]
    found = check("\n\n".join(paragraphs), 20, words)
    assert [passage.text for passage in found] == [
        paragraphs[0].strip(),
        paragraphs[1].strip(),
        paragraphs[2].strip(),
    ]
    whole = check("\n\n".join(paragraphs), 40, words)
    assert len(whole) == 1


def test_long_sentences_are_cut_between_words_and_long_words_between_characters() -> None:
    found = check("word " * 1000, 100, words)
    assert {piece for passage in found for piece in passage.text.split()} == {"word"}
    assert len(found) <= 13
    found = check("x" * 10_000, 100, len)
    assert len(found) <= 134
    cluster = "e\u0301"
    for passage in check(cluster * 3000, 100, len):
        assert passage.text.startswith("e")
        assert passage.text.endswith("\u0301")


def test_a_long_gap_ends_a_passage() -> None:
    text = "One." + " " * 5000 + "Two." + "\n" * 1_000_000 + "Three."
    assert [passage.text for passage in check(text, 50, len)] == ["One.", "Two.", "Three."]


def test_a_hopeless_budget_is_named() -> None:
    with pytest.raises(ModelError, match="passage of 0 tokens does not hold even 'a'") as caught:
        list(passages("a b", 0, len))
    assert "context" in caught.value.hint
    with pytest.raises(ModelError, match="-5 tokens"):
        list(passages("a b", -5, len))


def test_passages_come_as_they_are_asked_for() -> None:
    measured = 0

    def measure(part: str) -> int:
        nonlocal measured
        measured += len(part)
        return len(part)

    text = "A sentence of words. " * 50_000
    first = next(passages(text, 500, measure))
    assert first.start == 0
    assert measured < 5000


@pytest.mark.parametrize(
    "text",
    [
        "The committee met on Monday in Berlin, as planned. " * 4000,
        "word " * 40_000,
        "x" * 200_000,
        "北京是中国的首都。" * 22_000,
        "汉" * 200_000,
        "one line of text without a stop\n" * 6500,
        "." * 200_000,
        "!) " * 66_000,
        " " * 100_000 + "x" + "\n" * 100_000,
        "e\u0301" * 100_000,
        "\u0301" * 200_000,
        "\u200d" * 200_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_200_000_characters_cost_a_few_times_their_length(text: str) -> None:
    measured = calls = 0

    def measure(part: str) -> int:
        nonlocal measured, calls
        measured += len(part)
        calls += 1
        return -(-len(part) // 3)

    begun = time.process_time()
    for passage in passages(text, 700, measure):
        assert measure(passage.text) <= 700
    assert measured < 6 * len(text)
    assert calls < len(text) // 2
    # About 0.1 to 0.8 s; anything quadratic takes minutes.
    assert time.process_time() - begun < 10


def test_memory_does_not_grow_with_the_text() -> None:
    peaks = []
    for text in ("The committee met on Monday in Berlin. " * 1250, "x y" * 60_000):
        tracemalloc.start()
        assert sum(1 for _ in passages(text, 700, len)) > 50
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 1_000_000


def test_the_same_passages_every_time() -> None:
    draw = random.Random(1)
    text = "".join(draw.choice(["a ", "bc. ", "\n", "d", "。", "文"]) for _ in range(20_000))
    assert check(text, 97, len) == check(text, 97, len)


def test_seams_that_cost_do_not_leave_passages_empty() -> None:
    # Found with real tokenizers: "!)" is one token, but " !)" is two.
    calls = 0

    def measure(part: str) -> int:
        nonlocal calls
        calls += 1
        return 2 * words(part) - 1

    text = "!) " * 20_000
    found = check(text, 401, measure)
    assert len(found) <= 110
    assert calls < 21_000


def test_a_dear_stretch_does_not_make_all_later_passages_short() -> None:
    def measure(part: str) -> int:
        return len(part) * (1 + 9 * part.count("$ $"))

    text = "$ " * 200 + "A sentence of this kind. " * 400
    found = check(text, 500, measure)
    assert sum(len(passage.text) for passage in found[-5:-1]) > 4 * 400


def test_the_first_dot_of_several_ends_no_sentence() -> None:
    text = "We saw Ann.. Then"
    assert full_stop(text, 7, 11) == 0
    assert full_stop(text.replace("..", "."), 7, 11) == 1

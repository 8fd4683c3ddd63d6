"""The pieces of a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iepile_cli.task.segment import segment


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("Spain's U.S.", ["Spain", "'", "s", " ", "U", ".", "S", "."]),
        ("anti-war 3.5%", ["anti", "-", "war", " ", "3", ".", "5", "%"]),
        ("在北京met Bob", ["在", "北", "京", "met", " ", "Bob"]),
        ("हिन्दी में", ["हिन्दी", " ", "में"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("e\u0301te\u0301 한국어", ["e\u0301te\u0301", " ", "한국어"]),
        ("👩\u200d👩\u200d👧👍🏽🇩🇪", ["👩\u200d👩\u200d👧", "👍🏽", "🇩🇪"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("e\u0301在 在\u0301e", ["e\u0301", "在", " ", "在\u0301", "e"]),
        ("🧑🏽\u200d🚀 e\u0301!", ["🧑🏽\u200d🚀", " ", "e\u0301", "!"]),
        ("Xi'an é", ["Xi", "'", "an", " ", "é"]),
        ("", []),
    ],
)
def test_segments(text: str, cut: list[str]) -> None:
    assert segment(text) == cut


@given(st.text())
def test_pieces_joined_are_the_text(text: str) -> None:
    cut = segment(text)
    assert "".join(cut) == text
    assert all(cut)
    assert all(piece.isspace() or not any(map(str.isspace, piece)) for piece in cut)

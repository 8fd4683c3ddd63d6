"""``--save-text``: names that never collide or leave the folder, and never an input."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iepile_cli.errors import UsageError
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.saved_texts import SavedTexts, text_name


def name(source: str, line: int | None = None) -> str:
    return text_name(Document(source, "x", line=line))


@pytest.mark.parametrize(
    ("source", "line", "expected"),
    [
        ("a.pdf", None, "a.pdf.txt"),
        ("./notes/b.docx", None, "notes/b.docx.txt"),
        ("posts.jsonl", 12, "posts.jsonl%line12.txt"),
        ("/tmp/a.txt", None, "%2F/tmp/a.txt.txt"),
        ("../a.txt", None, "%2E%2E/a.txt.txt"),
        ("https://example.org/a?b=c", None, "https%3A/%2F/example.org/a%3Fb=c.txt"),
        ("con.txt", None, "%63%6Fn.txt.txt"),
        ("李.md", None, "李.md.txt"),
        ("50%.txt", None, "50%25.txt.txt"),
    ],
)
def test_names(source: str, line: int | None, expected: str) -> None:
    assert name(source, line) == expected


_PATHS = st.text(
    st.one_of(st.sampled_from("./%:\\ a"), st.characters(exclude_categories=["Cs"])), min_size=1
)


@example("0", ".", None)
@given(_PATHS, _PATHS, st.one_of(st.none(), st.integers(1, 99)))
def test_no_name_leaves_the_folder_and_no_two_are_one(one: str, other: str, line: int) -> None:
    names = [name(one, line), name(other), name(one)]
    for found in names:
        parts = found.split("/")
        assert ".." not in parts
        assert "" not in parts
        assert all(len(part.encode()) <= 255 for part in parts)
        assert not {"\0", "\\", ":"} & set(found)

    def steps(source: str) -> list[str]:
        return [part for part in source.split("/") if part != "."]

    if steps(one) != steps(other):
        assert names[1] != names[2]
    assert (names[0] == names[2]) == (line is None)


def test_long_names_are_cut_and_differ() -> None:
    long = "x" * 300
    assert name(long + "a.pdf") != name(long + "b.pdf")
    assert len(PurePosixPath(name(long, 7)).name) < 255


def test_texts_are_written_to_the_letter_and_inputs_are_safe(tmp_path: Path) -> None:
    inputs, texts = tmp_path / "in", tmp_path / "in" / "texts"
    inputs.mkdir()
    (inputs / "a.txt").write_text("x")
    saved = SavedTexts(str(texts), [str(inputs)])
    document = Document("a.txt", "one\r\ntwo \u2028 é")
    assert list(saved.saving([document])) == [document]
    assert (texts / "a.txt.txt").read_bytes().decode() == document.text
    for folder, read in [(inputs, inputs), (inputs, inputs / "a.txt"), (tmp_path, inputs)]:
        with pytest.raises(UsageError, match="is read, and is in --save-text"):
            SavedTexts(str(folder), [str(read)])
    with pytest.raises(UsageError, match="is no folder"):
        SavedTexts(str(inputs / "a.txt"), [])

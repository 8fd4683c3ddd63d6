"""Parts of a run: joined they are the whole, whatever their number and the files' sizes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_cli.cli.app import run
from iepile_cli.errors import IEPileError, OnError, UsageError
from iepile_cli.extraction import blocks
from iepile_cli.extraction.inputs import Document
from iepile_cli.shards import Shard, parse_shard


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "1/0", "-1/3", "a/b", "1/3/5", "1.5/3"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text)


@given(st.integers(0, 1000), st.integers(1, 60))
def test_bounds_meet(total: int, of: int) -> None:
    bounds = [Shard(number, of).bounds(total) for number in range(1, of + 1)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == total
    assert all(left[1] == right[0] for left, right in itertools.pairwise(bounds))


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=6),
    st.integers(1, 9),
    st.none() | st.integers(0, 30),
)
def test_parts_are_the_whole(sizes: list[list[int]], of: int, limit: int | None) -> None:
    """Every document, and every error, once and in order; 0 is a record that cannot be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_DOCUMENTS", 3)
        patch.setattr(blocks, "BLOCK_CHARACTERS", 50)

        def read_file(path: str, on_error: OnError) -> list[Document] | object:
            for line, size in enumerate(sizes[int(path)], 1):
                if size:
                    yield Document(path, "x" * size, line=line)
                else:
                    on_error(IEPileError(f"{path}:{line}"))

        paths = list(map(str, range(len(sizes))))
        inventory = blocks.take_inventory(paths, read_file, limit)
        whole_errors: list[str] = []
        documents = (
            one
            for path in paths
            for one in read_file(path, lambda error: whole_errors.append(str(error)))
        )
        whole = list(blocks.in_blocks(itertools.islice(documents, limit)))
        joined, errors = [], []
        for number in range(1, of + 1):
            pieces, first = inventory.pieces(Shard(number, of))
            found = blocks.read_pieces(pieces, read_file, lambda error: errors.append(str(error)))
            joined += blocks.in_blocks(found, first)
        assert joined == whole
        assert [one.block for one in joined] == [one.block for one in whole]
        if limit is None:
            assert errors == whole_errors
        assert len(errors) == len(set(errors))


def test_long_documents_are_blocks_of_their_own() -> None:
    long = "x" * blocks.BLOCK_CHARACTERS
    found = blocks.in_blocks(Document("a", text) for text in (long, long, "b", "c", long, "d"))
    assert [one.block for one in found] == [1, 2, 3, 3, 3, 4]


@pytest.mark.model
def test_joined_outputs_are_those_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_DOCUMENTS", 3)
    names = ["Ann Lee", "Bob Stone", "Tim Cook", "Ada Keller", "Rui Sousa"]
    places = ["Oslo", "Lisbon", "Hamburg", "Denmark", "New York", "Rome", "Porto"]
    texts = [
        f"{name} flew to {place} on {day}."
        for name, place, day in zip(
            itertools.cycle(names), itertools.cycle(places), ["Monday", "2 May", "a cold day"] * 3
        )
    ]
    file = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text}) for text in texts]
    file.write_text("\n".join([*lines[:4], "{broken", *lines[4:]]) + "\n")
    base = ["-q", "extract", str(file), "--schema", "person,location", "--parallel", "3"]
    for format_ in ("jsonl", "csv"):
        assert run([*base, "-f", format_, "-o", str(tmp_path / "whole")]) == 3
        outputs, codes = [], []
        for number in (1, 2, 3):
            part = tmp_path / f"{number}.{format_}"
            codes.append(run([*base, "--shard", f"{number}/3", "-f", format_, "-o", str(part)]))
            outputs.append(part.read_bytes())
        assert b"".join(outputs) == (tmp_path / "whole").read_bytes()
        assert all(outputs)
        assert sorted(codes) == [0, 0, 3]


def test_an_empty_part_is_an_empty_file(tmp_path: Path) -> None:
    file, out = tmp_path / "a.txt", tmp_path / "out.jsonl"
    file.write_text("Ann flew to Oslo.")
    arguments = ["extract", str(file), "--schema", "person", "--shard", "1/2", "-o", str(out)]
    assert run(["-q", *arguments]) == 0
    assert out.read_bytes() == b""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--shard", "0/2"], "--shard 0/2 is no part of several"),
        (["--shard", "1/2", "-f", "json"], "json cannot be joined"),
        (["--shard", "1/2", "-f", "table"], "table cannot be joined"),
        (["--shard", "1/2", "-"], "read twice"),
    ],
)
def test_wrong_parts_are_refused(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("Ann flew to Oslo.")
    assert run(["extract", str(file), "--schema", "person", *more]) == 2
    assert said in capsys.readouterr().err


def test_a_part_is_resumed_as_the_same_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "a.txt", tmp_path / "out.jsonl"
    file.write_text("Ann flew to Oslo.")
    result = {"source": str(file), "task": "NER", "answer": {"person": []}, "items": []}
    out.write_text(json.dumps(result) + "\n")
    Path(f"{out}.run").write_text(json.dumps({"shard": "1/2"}))
    arguments = ["extract", str(file), "--schema", "person", "--shard", "2/2", "-o", str(out)]
    assert run([*arguments, "--resume"]) == 2
    assert "was written with another shard: 1/2, not 2/2" in capsys.readouterr().err


def test_documents_are_read_once_by_default() -> None:
    """Blocks are numbered while reading: nothing is counted before."""
    taken: list[int] = []

    def source() -> object:
        for number in range(1000):
            taken.append(number)
            yield Document("a", "x", line=number)

    next(iter(blocks.in_blocks(source())))
    assert taken == [0]

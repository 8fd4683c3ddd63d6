"""Reading files of records in pieces, whatever their form and whatever is wrong with them."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from iepile_cli.conversion import chunks
from iepile_cli.conversion.chunks import Chunk, json_chunks
from iepile_cli.conversion.readers import open_records
from iepile_cli.errors import DataError
from iepile_cli.files import Input


def chunks_of(data: bytes) -> list[Chunk]:
    stream = io.BufferedReader(io.BytesIO(data))  # type: ignore[type-var]
    return list(json_chunks(Input(stream, len(data), lambda: 0)))


def records_of(data: bytes) -> list[tuple[int, bytes]]:
    return [
        (chunk.line_of(index), raw) for chunk in chunks_of(data) for index, raw in chunk.records()
    ]


def problems_of(data: bytes) -> list[tuple[int, str]]:
    return [(one.line, one.what) for chunk in chunks_of(data) for one in chunk.problems]


def test_lines_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'{"a": 1}\n\n{"b": 2}\r\n   \n{"c": 3}'
    for size in range(1, 20):
        monkeypatch.setattr(chunks, "BLOCK", size)
        assert [(line, json.loads(raw)) for line, raw in records_of(data)] == [
            (1, {"a": 1}),
            (3, {"b": 2}),
            (5, {"c": 3}),
        ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_say_what_the_encoding_is(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.json"
    record = {"text": "naïve 中😀" * 5000}
    path.write_bytes((json.dumps(record, ensure_ascii=False) + "\n").encode(encoding))
    with open_records(path, "iepile", None) as (found, _):
        assert [json.loads(chunk.data) for chunk in found] == [record]


values = st.recursive(
    st.none() | st.integers() | st.text('a"\\[]{},:\n中', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=6),
    st.sampled_from([None, 1, 4]),
    st.integers(1, 40),
)
def test_arrays_come_apart_into_their_elements(
    elements: list[object], indent: int | None, size: int
) -> None:
    text = json.dumps(elements, indent=indent, ensure_ascii=False)
    before, chunks.BLOCK = chunks.BLOCK, size
    try:
        records = records_of(text.encode())
    finally:
        chunks.BLOCK = before
    assert [json.loads(raw) for _, raw in records] == elements
    lines = text.split("\n")
    for line, raw in records:
        assert lines[line - 1].lstrip(" [")[:1] == raw.decode()[:1]


def test_a_broken_element_costs_itself_alone() -> None:
    data = b'[{"a": 1},\n {"b": nope},\n {"c": 3}]\n'
    assert records_of(data) == [(1, b'{"a": 1}'), (2, b'{"b": nope}'), (3, b'{"c": 3}')]


def test_an_array_without_an_end_is_named() -> None:
    assert problems_of(b'[{"a": 1},\n{"b": 2}') == [(2, "the array is not closed")]
    assert problems_of(b'[{"a": "x},\n') == [(1, "the array is not closed")]


def test_lines_that_are_arrays_are_lines() -> None:
    data = b'["a", {"entities": []}]\n["b", {"entities": []}]\n'
    assert [raw[:4] for _, raw in records_of(data)] == [b'["a"', b'["b"']


def test_records_without_end_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "BLOCK", 1 << 16)
    monkeypatch.setattr(chunks, "LONGEST", 1 << 20)
    long = b'{"a": "' + b"x" * (1 << 21) + b'"}'
    data = b'{"b": 1}\n' + long + b'\n{"c": 1}\n'
    assert [(line, raw) for line, raw in records_of(data)] == [
        (1, b'{"b": 1}'),
        (3, b'{"c": 1}'),
    ]
    assert problems_of(data) == [(2, "over 1 MB long")]
    assert problems_of(b'{"b": 1}\n' + long) == [(2, "over 1 MB long")]
    assert problems_of(b"[" + long) == [(1, "over 1 MB long")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfea\x00\x00", "is not utf-16"),
        (b"\x7fELF\x00\x00", "is a binary file, not text"),
        (b"\x1f\x8b\x08\x00broken", "compression is damaged"),
        (b"\x28\xb5\x2f\xfdbroken", "compression is damaged"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=said), open_records(path, "iepile", None) as (found, _):
        list(found)


def test_compressed_files_are_known_by_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    data = b'{"a": 1}\n' * 1000
    two_frames = zstandard.compress(data[:900]) + zstandard.compress(data[900:])
    for packed in (gzip.compress(data), two_frames):
        path.write_bytes(packed)
        with open_records(path, "iepile", None) as (found, _):
            assert b"".join(chunk.data for chunk in found) == data


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    with pytest.raises(DataError, match=r"none\.json"), open_records(missing, "iepile", None):
        pass

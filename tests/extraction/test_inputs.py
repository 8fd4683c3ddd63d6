"""Reading documents: forms, encodings, bad input, and what is never held."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iepile_cli.errors import DataError, IEPileError, UsageError
from iepile_cli.extraction.inputs import Document, InputOptions, clean, read_documents


def read(*paths: object, **options: Any) -> tuple[list[Document], list[str]]:
    """The documents, and the messages with their hints."""
    errors: list[IEPileError] = []
    named = [str(path) for path in paths]
    ours = {key: options.pop(key) for key in ("pattern", "exclude", "on_skip") if key in options}
    reading = InputOptions(**options)
    documents = list(read_documents(named, reading, on_error=errors.append, **ours))
    return documents, [f"{error} ({error.hint})" for error in errors]


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_a_file_is_one_document_with_its_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\ntwo\rthree\n四\n".encode())
    assert read(path) == ([Document(str(path), "one\r\ntwo\rthree\n四\n")], [])


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("héé 中文".encode(), None),
        ("héé 中文".encode("utf-8-sig"), None),
        ("héé 中文".encode("utf-16"), None),
        ("héé 中文".encode("utf-32"), None),
        (b"\xfe\xff" + "héé 中文".encode("utf-16-be"), None),
        ("héé 中文".encode("utf-16-le"), "utf-16-le"),
        ("héé 中文".encode("utf-8-sig"), "utf-8"),
        ("héé 中文".encode("gb18030"), "gb18030"),
    ],
)
@pytest.mark.parametrize("lines", [False, True])
def test_encodings(tmp_path: Path, data: bytes, encoding: str | None, lines: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    documents, errors = read(path, encoding=encoding, lines=lines)
    assert [document.text for document in documents] == ["héé 中文"]
    assert errors == []


@pytest.mark.parametrize("name", ["no-such", "hex", "rot13", "utf-8\0", ""])
def test_an_encoding_that_is_none_is_refused_at_once(name: str) -> None:
    with pytest.raises(UsageError, match="encoding"):
        InputOptions(encoding=name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"ab\xff\xfecd", "is not UTF-8 at byte 2 .*--encoding cp1252"),
        (b"\xef\xbb\xbfab\xff", "is not UTF-8 at byte 5"),
        (b"ab\0cd", "binary .*--encoding utf-16"),
        (b"%PDF-1.7 ...", "is damaged|pypdfium2"),
        (b"PK\x03\x04...", "is damaged: File is not a zip file"),
        (b"GGUF\x03", "is a model"),
        (b"\x1f\x8b broken", "compression is damaged"),
        (b"\x28\xb5\x2f\xfd broken", "compression is damaged"),
    ],
)
@pytest.mark.parametrize("lines", [False, True])
def test_a_bad_file_among_good_ones_is_named_and_the_rest_goes_on(
    tmp_path: Path, data: bytes, message: str, lines: bool
) -> None:
    bad, good = tmp_path / "bad.txt", tmp_path / "good.txt"
    bad.write_bytes(data)
    good.write_text("good")
    documents, errors = read(bad, good, lines=lines)
    assert [document.source for document in documents if document.source != str(bad)] == [str(good)]
    assert len(errors) == 1
    assert errors[0].startswith(str(bad))
    if not lines:
        assert re.search(message, errors[0])


def test_without_on_error_the_first_problem_is_raised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        list(read_documents([str(tmp_path / "none.txt")]))


def test_what_is_not_there(tmp_path: Path) -> None:
    documents, errors = read(tmp_path / "none.txt", tmp_path / "*.none", tmp_path)
    assert documents == []
    assert ["no such file" in errors[0], "no file matches" in errors[1]] == [True, True]
    assert "no file in this folder of a kind that is read" in errors[2]


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop.txt"
    loop.symlink_to(loop)
    assert "cannot be read" in read(loop)[1][0]


def test_folders_are_read_in_order_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "deep/er/c.jsonl", "x.png", ".hidden.txt", ".git/d.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "t"}')
    documents, errors = read(tmp_path)
    found = [os.path.relpath(document.source, tmp_path) for document in documents]
    assert (found, errors) == (["a.md", "b.txt", "deep/er/c.jsonl"], [])
    picked, _ = read(tmp_path, pattern="*.png")
    assert [Path(document.source).name for document in picked] == ["x.png"]


def test_globs_and_repeated_paths_give_each_file_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "[odd].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    documents, _ = read(tmp_path / "a.txt", tmp_path / "?.txt", tmp_path / "a.txt")
    assert [Path(document.source).name for document in documents] == ["a.txt", "b.txt"]
    again, _ = read(tmp_path / "a.txt", f"{tmp_path}/./a.txt", f"{tmp_path}/sub/../a.txt")
    assert len(again) == 1
    deep, _ = read(tmp_path / "**" / "*.txt")
    assert len(deep) == 4
    odd, errors = read(tmp_path / "[odd].txt")
    assert (len(odd), errors) == (1, [])


def test_the_output_file_is_no_input(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "out.jsonl").write_text('{"text": "x"}\n')
    documents, _ = read(tmp_path, exclude=[str(tmp_path / "out.jsonl")])
    assert [Path(document.source).name for document in documents] == ["a.txt"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b"one\ntwo\n")
    assert read("-")[0] == [Document("stdin", "one\ntwo\n")]
    give(monkeypatch, b"one\n\n \r\ntwo\r\n")
    assert read("-", lines=True)[0] == [
        Document("stdin", "one", line=1),
        Document("stdin", "two", line=4),
    ]
    give(monkeypatch, b'{"body": "t", "id": 7}\n')
    assert read("-", text_field="body")[0] == [Document("stdin", "t", "7", 1)]
    give(monkeypatch, b"")
    assert "stdin: is empty" in read("-")[1][0]


def test_lines_of_several_files_keep_their_numbers_past_a_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n\xff\n\nfour")
    documents, errors = read(path, lines=True)
    assert [(document.text, document.line) for document in documents] == [("one", 1), ("four", 4)]
    assert errors[0].startswith(f"{path}:2: is not UTF-8 at byte 0")


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        '{"text": "one", "id": "x"}',
        "",
        "not json",
        '{"body": "no text"}',
        '{"text": 3}',
        "[1]",
        '"bare"',
        '{"text": ""}',
        '{"text": "\\ud83d\\ude00 \\ud800"}',
        "9" * 5000,
        "[" * 100_000,
    ]
    path.write_text("\n".join(rows))
    documents, errors = read(path)
    assert [(document.text, document.id, document.line) for document in documents] == [
        ("one", "x", 1),
        ("bare", "", 7),
        ("", "", 8),
        ("\U0001f600 \ufffd", "", 9),
    ]
    places = [error[len(str(path)) + 1 :].split(":")[0] for error in errors]
    assert places == ["3", "4", "5", "6", "10", "11"]
    assert "--text-field names it; it has: body" in errors[1]


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "one"},\n {"text": "two"}]',
        '{"text": "one"}\n{"text": "two"}\n',
        '[\n"one",\n"two"\n]\n',
    ],
)
def test_files_called_json_hold_a_list_or_lines(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    documents, errors = read(path)
    assert ([document.text for document in documents], errors) == (["one", "two"], [])


def test_a_json_file_of_one_object(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\n  "text": "one"\n}')
    assert [document.text for document in read(path)[0]] == ["one"]
    path.write_text("{\n")
    assert "is not JSON" in read(path)[1][0]


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_csv(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "a.csv"
    rows = ["id,text,other", '1,"a ""quoted"", text",x', '2,"two\nlines",y', "", "3", "4,last"]
    path.write_text("\n".join(rows).replace(",", delimiter) + "\n")
    documents, errors = read(path)
    quoted = 'a "quoted", text'.replace(",", delimiter)
    assert [(document.text, document.id, document.line) for document in documents] == [
        (quoted, "1", 2),
        ("two\nlines", "2", 3),
        ("last", "4", 7),
    ]
    assert errors[0].startswith(f"{path}:6: the row has no column 'text'")


def test_a_quotation_mark_in_tsv_is_a_character_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\n1\t"Quoted, he said\n2\tplain\n3\tit is 5" long\n')
    documents, errors = read(path)
    assert [(document.text, document.id, document.line) for document in documents] == [
        ('"Quoted, he said', "1", 2),
        ("plain", "2", 3),
        ('it is 5" long', "3", 4),
    ]
    assert errors == []


def test_files_that_are_passed_over_are_told(tmp_path: Path) -> None:
    for name in ("a.txt", "b.png", "sub/c.bin", ".d.pdf", "out.jsonl.run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    skipped: list[str] = []
    exclude = [str(tmp_path / "out.jsonl.run")]
    documents, _ = read(tmp_path, on_skip=skipped.append, exclude=exclude)
    assert len(documents) == 1
    assert [os.path.relpath(path, tmp_path) for path in skipped] == ["b.png", "sub/c.bin"]


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"id\tbody\n1\tx\n")
    assert "has no column 'text' (--text-field names it; it has: id, body)" in read(path)[1][0]
    assert [document.text for document in read(path, text_field="body")[0]] == ["x"]
    path.write_bytes(b"text\nfirst\n\xff\n")
    documents, errors = read(path)
    assert [document.text for document in documents] == ["first"]
    assert errors[0].startswith(f"{path}:3: is not UTF-8")
    path.write_text("text\n" + "x" * 300_000)
    assert len(read(path)[0][0].text) == 300_000


def test_a_text_called_jsonl_is_given_up_after_some_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("just text\n" * 1000)
    documents, errors = read(path)
    assert documents == []
    assert len(errors) == 21
    assert "its first 20 records are unusable" in errors[-1]


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
def test_compressed_files_are_read_by_what_is_in_them(tmp_path: Path, ending: str) -> None:
    zstandard = pytest.importorskip("zstandard")
    pack = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": zstandard.ZstdCompressor().compress,
    }[ending]
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(pack(b'{"text": "one"}\n' * 3) + pack(b'{"text": "two"}\n'))
    documents, errors = read(path)
    assert ([document.text for document in documents], errors) == (["one"] * 3 + ["two"], [])


def test_limit_ends_the_stream_and_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n' * 3 + "broken\n")
    assert [len(read(path, limit=number)[0]) for number in (0, 2, 3, 9)] == [0, 2, 3, 3]
    assert read(path, limit=3)[1] == []
    with pytest.raises(UsageError):
        InputOptions(limit=-1)
    with pytest.raises(UsageError):
        InputOptions(lines=True, text_field="x")


@pytest.mark.parametrize("name", ["big.jsonl", "big.csv", "big.txt"])
def test_large_files_are_not_held(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    line = {"big.jsonl": json.dumps({"text": "x" * 900}), "big.csv": "y" * 900}.get(name, "z" * 900)
    with path.open("w") as file:
        file.write("text\n" if name == "big.csv" else "")
        for _ in range(10_000):
            file.write(line + "\n")
    tracemalloc.start()
    count = sum(1 for _ in read_documents([str(path)], InputOptions(lines=name == "big.txt")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 1_000_000


def test_a_file_name_that_is_not_utf8_can_be_written(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.txt"
    try:
        Path(os.fsdecode(path)).write_text("x")
    except OSError:
        pytest.skip("this file system refuses such names")
    (document,) = read(tmp_path)[0]
    assert document.source.encode("utf-8").endswith("/\ufffd.txt".encode())


@given(st.text(st.characters(), max_size=40))
def test_cleaning_keeps_length_and_can_be_encoded(text: str) -> None:
    assert len(clean(text)) == len(text)
    clean(text).encode("utf-8")


@given(st.binary(max_size=200), st.booleans(), st.sampled_from(["txt", "jsonl", "csv", "json"]))
def test_no_bytes_crash_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, lines: bool, ending: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz.{ending}"
    path.write_bytes(data)
    for document in read(path, lines=lines)[0]:
        document.text.encode("utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need rights there")
def test_a_file_beside_the_target_of_a_link_is_another(tmp_path: Path) -> None:
    (tmp_path / "far" / "folder").mkdir(parents=True)
    (tmp_path / "far" / "a.txt").write_text("Far.")
    (tmp_path / "a.txt").write_text("Near.")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "folder")
    documents, _ = read(tmp_path / "a.txt", f"{tmp_path}/link/../a.txt")
    assert [document.text for document in documents] == ["Near.", "Far."]

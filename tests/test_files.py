"""Opening by content, decoding, atomic writing, and outputs that are inputs."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
from pathlib import Path

import pytest
import zstandard

from iepile_cli import encodings, files, writing
from iepile_cli.errors import DataError, UsageError

PACK = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "none": bytes,
}


@pytest.mark.parametrize("form", PACK)
def test_compression_is_recognised_by_content_not_by_name(form: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(PACK[form]("Zoë\n".encode() * 1000))
    assert files.read_text(path) == "Zoë\n" * 1000


@pytest.mark.parametrize("form", [form for form in PACK if form != "none"])
def test_damaged_compression_names_the_file(form: str, tmp_path: Path) -> None:
    path = tmp_path / "cut.txt"
    packed = PACK[form](os.urandom(4000))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"cut\.txt: its compression is damaged"):
        files.read_bytes(path)


@pytest.mark.parametrize("form", [form for form in PACK if form != "none"])
def test_a_bomb_ends_with_the_bound_and_what_lifts_it(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(PACK[form](bytes(3_000_000)))
    with pytest.raises(DataError, match="bomb: holds more than 100,000 bytes"):
        files.read_bytes(path, max_decompressed=100_000)
    assert len(files.read_bytes(path)) == 3_000_000
    monkeypatch.setattr(files, "MAX_DECOMPRESSED", 100_000)
    monkeypatch.setattr(files, "MAX_RATIO", 2)
    with pytest.raises(DataError, match=r"bomb: holds more than 100,000 bytes") as caught:
        files.read_bytes(path)
    assert "IEPILE_MAX_DECOMPRESSED" in caught.value.hint
    for lifted in ("off", "3000000"):
        monkeypatch.setenv("IEPILE_MAX_DECOMPRESSED", lifted)
        assert len(files.read_bytes(path)) == 3_000_000
    monkeypatch.setenv("IEPILE_MAX_DECOMPRESSED", "2999999")
    with pytest.raises(DataError, match=r"bomb: holds more than 2,999,999 bytes"):
        files.read_bytes(path)
    monkeypatch.setenv("IEPILE_MAX_DECOMPRESSED", "20 gigs")
    with pytest.raises(UsageError, match="IEPILE_MAX_DECOMPRESSED is '20 gigs'"):
        files.read_bytes(path)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("He said “no” – twice".encode("cp1252"), "--encoding cp1252"),
        ("昨天北京大学举行了仪式".encode("gb18030"), "--encoding gb18030"),
    ],
)
def test_what_is_not_utf8_names_an_encoding_that_reads_it(data: bytes, hint: str) -> None:
    with pytest.raises(DataError, match="is not UTF-8 at byte") as caught:
        encodings.decode(data)
    assert hint in caught.value.hint


def test_a_symlink_stays_one_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    writing.write_atomic(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_permissions_of_a_replaced_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    writing.write_atomic(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with writing.atomic_write(path) as file:
            file.write(b"half")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writing.write_atomic(pipe, "through")
    assert os.read(reader, 100) == b"through"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)


@pytest.mark.parametrize("suffix", [".gz", ".zst", ""])
def test_written_compressed_by_suffix_with_equal_bytes(suffix: str, tmp_path: Path) -> None:
    first, second = (tmp_path / f"{name}.jsonl{suffix}" for name in "ab")
    for path in (first, second):
        writing.write_atomic(path, "row\n" * 100)
        assert files.read_text(path) == "row\n" * 100
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("kind", ["same", "relative", "symbolic", "hard"])
def test_an_output_that_is_an_input_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.txt"
    source.write_text("text")
    output = tmp_path / "b.txt"
    if kind == "same":
        output = source
    elif kind == "relative":
        monkeypatch.chdir(tmp_path)
        output = Path("a.txt")
    elif kind == "symbolic":
        output.symlink_to(source)
    else:
        output.hardlink_to(source)
    with pytest.raises(UsageError, match="would overwrite what is read from it"):
        writing.refuse_overwriting([output], [source])


def test_devices_standard_streams_and_other_files_are_no_overwriting(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("text")
    outputs = ["/dev/null", "-", None, tmp_path / "new"]
    writing.refuse_overwriting(outputs, ["/dev/null", "-", source])


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()

    def write(fails: bool) -> None:
        with writing.atomic_folder(folder) as partial:
            (partial / "new").touch()
            if fails:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        write(fails=True)
    assert [path.name for path in folder.iterdir()] == ["old"]
    write(fails=False)
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_suffix_leaves_compression_aside() -> None:
    assert files.suffix("a/B.JSONL.gz") == ".jsonl"
    assert files.suffix("a.txt") == ".txt"
    assert files.display_name(None) == files.display_name("-") == "stdin"


def test_lines_may_be_left_when_their_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "wide.txt"
    path.write_text("one\ntwo\n", encoding="utf-16")
    with files.open_input(path) as source:
        lines = encodings.decoded_lines(source.stream)
        assert next(lines) == (1, "one\n")
    lines.close()  # type: ignore[attr-defined]

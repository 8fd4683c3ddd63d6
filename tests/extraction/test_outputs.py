"""Writing results: valid whatever ends a run, nothing lost, resumed where it stopped."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_cli.errors import DataError, UsageError
from iepile_cli.extraction.grounding import Item, Span
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.outputs import FORMATS, RESUMABLE, open_writer
from iepile_cli.extraction.results import Result
from iepile_cli.task import TASKS, SchemaItem

PERSON = SchemaItem("person")


def result(name: str, text: str = "Bob", line: int | None = None, kind: str = "person") -> Result:
    items = (Item(SchemaItem(kind), (("mention", Span(text, 0, len(text), 0.5)),), 0.5),)
    document = Document(name, text, line=line)
    return Result(document, TASKS["NER"], "en", {kind: [text]}, items if text else ())


def interrupted(
    form: str, path: Path, *results: Result, by: BaseException | type[BaseException]
) -> str | None:
    """Write results until an error comes; gives the path where they then are."""
    writer = open_writer(form, str(path))
    try:
        with writer:
            for one in results:
                writer.write(one)
            raise by
    except (KeyboardInterrupt, DataError, OSError):
        return writer.path


def sources(path: Path, form: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if form == "csv":
        return [row["source"] for row in csv.DictReader(io.StringIO(text))]
    if form == "json":
        return [row["source"] for row in json.loads(text)]
    return [json.loads(line)["source"] for line in text.split("\n") if line]


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_result_is_in_the_file(tmp_path: Path, form: str, count: int) -> None:
    path = tmp_path / "out"
    names = [f"{number}.txt" for number in range(count)]
    with open_writer(form, str(path)) as writer:
        for name in names:
            writer.write(result(name))
            if form != "json":
                assert sources(path, form)[-1] == name
    assert sources(path, form) == names
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError("x"), OSError()])
def test_an_interrupted_run_leaves_what_it_did(
    tmp_path: Path, form: str, error: type[BaseException] | BaseException
) -> None:
    path = tmp_path / "out"
    interrupted(form, path, result("a"), result("b"), by=error)
    assert sources(path, form) == ["a", "b"]


def test_a_failed_run_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    for form in FORMATS:
        interrupted(form, tmp_path / "out", by=DataError("x"))
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_a_file_is_replaced_only_by_a_run_that_ends_well(tmp_path: Path, form: str) -> None:
    path = tmp_path / "out"
    for name in ("old", "new"):
        with open_writer(form, str(path)) as writer:
            writer.write(result(name))
            if name == "new":
                assert sources(path, form) == ["old"]
    assert sources(path, form) == ["new"]
    where = interrupted(form, path, result("newer"), by=KeyboardInterrupt)
    assert sources(path, form) == ["new"]
    assert where == f"{path}.part"
    assert sources(Path(where), form) == ["newer"]


@pytest.mark.parametrize("form", RESUMABLE)
@pytest.mark.parametrize("replacing", [False, True])
def test_a_run_is_resumed_where_it_was_interrupted(
    tmp_path: Path, form: str, replacing: bool
) -> None:
    path = tmp_path / "out"
    if replacing:
        with open_writer(form, str(path)) as writer:
            writer.write(result("old"))
    interrupted(form, path, result("a"), result("b", line=2), by=KeyboardInterrupt)
    with open_writer(form, str(path), resume=True) as writer:
        assert writer.resumed == 2
        documents = [Document(name, "", line=line) for name in "abc" for line in (None, 2)]
        todo = [document for document in documents if not writer.done(document)]
        assert [document.key for document in todo] == [
            ("a", "", 2),
            ("b", "", None),
            ("c", "", None),
            ("c", "", 2),
        ]
        writer.write(result("c"))
    assert sources(path, form) == ["a", "b", "c"]
    assert os.listdir(tmp_path) == ["out"]
    with open_writer(form, str(path), resume=True) as writer:
        assert writer.resumed == 3
    assert sources(path, form) == ["a", "b", "c"]


@pytest.mark.parametrize("form", RESUMABLE)
def test_a_crash_at_any_byte_is_resumed(tmp_path: Path, form: str) -> None:
    path = tmp_path / "out"
    with open_writer(form, str(path)) as writer:
        for name in ("a", "b\n", "ü"):
            writer.write(result(name, "北\u2028京"))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with open_writer(form, str(path), resume=True) as writer:
            for name in ("a", "b\n", "ü"):
                if not writer.done(Document(name, "")):
                    writer.write(result(name, "北\u2028京"))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("form", RESUMABLE)
def test_resuming_what_is_not_there_begins(tmp_path: Path, form: str) -> None:
    path = tmp_path / "out"
    with open_writer(form, str(path), resume=True) as writer:
        assert writer.resumed == 0
        writer.write(result("a"))
    assert sources(path, form) == ["a"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("some notes\n", 1),
        ('{"source": "a"}\nnotes\n{"source": "b"}\n', 2),
        ('[\n  {\n    "source": "a"\n  }\n]\n', 2),
        ('{"text": "a"}\n', 1),
    ],
)
def test_a_file_of_something_else_is_not_written_into(
    tmp_path: Path, content: str, line: int
) -> None:
    path = tmp_path / "out"
    path.write_text(content)
    with pytest.raises(DataError, match=f"out:{line}: is no output that can be resumed"):
        open_writer("jsonl", str(path), resume=True)
    assert path.read_text() == content


def test_what_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    for form, target, resume in (
        ("yaml", None, False),
        ("jsonl", None, True),
        ("jsonl", "-", True),
        ("csv", "x", True),
        ("table", "x", True),
        ("jsonl", str(tmp_path), False),
    ):
        with pytest.raises(UsageError):
            open_writer(form, target, resume=resume)
    with pytest.raises(DataError, match="cannot be written"):
        open_writer("jsonl", str(tmp_path / "no" / "out"))


def test_standard_output_is_utf8_and_flushed(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for target in (None, "-"):
        with open_writer("jsonl", target) as writer:
            writer.write(result("a", "北京"))
            assert '"text": "北京"'.encode() in capfdbinary.readouterr().out


def test_a_device_is_written_to_as_it_is() -> None:
    with open_writer("jsonl", "/dev/null") as writer:
        writer.write(result("a"))
    assert os.path.exists("/dev/null")
    assert not os.path.isfile("/dev/null")


def test_a_closed_pipe_is_the_callers_to_handle() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError), open_writer("jsonl", f"/dev/fd/{writing}") as writer:
        writer.write(result("a"))
    os.close(writing)


def test_csv_has_a_row_for_each_mention_and_the_same_columns_for_all_tasks(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    pair = (("subject", Span("Bob", 0, 3, 0.51239)), ("object", Span("Ann", 8, 11, None)))
    asked = SchemaItem("met", subject_type="person", object_type="animal")
    related = Result(
        Document("b.jsonl", "Bob met Ann", "7", 3), TASKS["SPO"], "en", {}, (Item(asked, pair),) * 2
    )
    with open_writer("csv", str(path)) as writer:
        writer.write(result("a.txt"))
        writer.write(result("nothing.txt", ""))
        writer.write(related)
    assert path.read_text().split("\n") == [
        "source,line,id,task,lang,item,type,subject_type,object_type,role,text,start,end,score",
        "a.txt,,,NER,en,1,person,,,,Bob,0,3,0.5",
        "b.jsonl,3,7,SPO,en,1,met,person,animal,subject,Bob,0,3,0.5124",
        "b.jsonl,3,7,SPO,en,1,met,person,animal,object,Ann,8,11,",
        "b.jsonl,3,7,SPO,en,2,met,person,animal,subject,Bob,0,3,0.5124",
        "b.jsonl,3,7,SPO,en,2,met,person,animal,object,Ann,8,11,",
        "",
    ]


@settings(max_examples=100, deadline=None)
@given(
    st.text(min_size=1)
    | st.sampled_from(["=1+1", "+1", "-1", "@x", "\t=1", 'a"b', "a,b", "a\nb", "a\rb", "\0", "\r"])
)
def test_csv_is_safe_and_reads_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.unlink(missing_ok=True)
    with open_writer("csv", str(path)) as writer:
        writer.write(result("a", text))
    rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline="")))
    cell = rows[0]["text"]
    assert len(rows) == 1
    assert cell[0] not in "=+-@\t\r\n"
    assert cell.removeprefix("'") == text if text[0] in "=+-@\t\r\n" else cell == text

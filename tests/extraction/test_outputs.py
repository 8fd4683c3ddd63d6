"""Writing results: valid whatever ends a run, nothing lost, resumed where it stopped."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_cli.errors import DataError, UsageError
from iepile_cli.extraction import outputs
from iepile_cli.extraction.forms import FOLDER, FORMATS, RESUMABLE
from iepile_cli.extraction.grounding import Item, Span
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.outputs import format_for
from iepile_cli.extraction.results import Result
from iepile_cli.extraction.resuming import holds_results
from iepile_cli.task import TASKS, SchemaItem

PERSON = SchemaItem("person")
# The columns of CSV follow from the task.
open_writer = functools.partial(outputs.open_writer, task=TASKS["NER"])


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


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_a_result_that_a_full_disk_has_no_room_for_is_left_out_whole(
    tmp_path: Path, form: str
) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write() -> None:
        with open_writer(form, str(path)) as writer:
            writer.write(result("a"))
            writer.write(result("b"))
            # As on a full disk, the file can then only grow by less than a result.
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
            try:
                writer.write(result("c"))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with pytest.raises(DataError, match=r"^.*/out: cannot be written: "):
        write()
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
        ("jsonl", "x.jsonl.gz", False),
        ("jsonl", str(tmp_path), False),
    ):
        with pytest.raises(UsageError):
            open_writer(form, target, resume=resume)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        open_writer("jsonl", str(tmp_path / "file" / "out"))


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_a_full_disk_is_named_with_the_output(form: str) -> None:
    with (
        pytest.raises(DataError, match="/dev/full: cannot be written: No space left on device"),
        open_writer(form, "/dev/full") as writer,
    ):
        writer.write(result("a"))


def test_a_closed_pipe_is_the_callers_to_handle() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError), open_writer("jsonl", f"/dev/fd/{writing}") as writer:
        writer.write(result("a"))
    os.close(writing)


def test_csv_of_plain_mentions_has_a_row_for_each(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with open_writer("csv", str(path)) as writer:
        writer.write(result("a.txt"))
        writer.write(result("nothing.txt", ""))
        writer.write(result("b.txt", "Ann", line=3))
    assert path.read_text().split("\n") == [
        "source,line,id,task,lang,item,type,text,start,end,score,page",
        "a.txt,,,NER,en,1,person,Bob,0,3,0.5,",
        "b.txt,3,,NER,en,1,person,Ann,0,3,0.5,",
        "",
    ]


def test_csv_of_relations_has_a_row_for_each_relation(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    pair = (("subject", Span("Bob", 0, 3, 0.51239)), ("object", Span("Ann", 8, 11, None)))
    asked = SchemaItem("met", subject_type="person", object_type="animal")
    related = Result(
        Document("b.jsonl", "Bob met Ann", "7", 3),
        TASKS["SPO"],
        "en",
        {},
        (Item(asked, pair, 0.51239), Item(asked, pair)),
    )
    with outputs.open_writer("csv", str(path), task=TASKS["SPO"]) as writer:
        writer.write(related)
    assert path.read_text().split("\n") == [
        "source,line,id,task,lang,item,type,subject_type,object_type,"
        "subject,subject_start,subject_end,object,object_start,object_end,score,page",
        "b.jsonl,3,7,SPO,en,1,met,person,animal,Bob,0,3,Ann,8,11,0.5124,",
        "b.jsonl,3,7,SPO,en,2,met,person,animal,Bob,0,3,Ann,8,11,,",
        "",
    ]


def test_csv_of_events_has_a_row_for_each_argument(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    asked = SchemaItem("attack", ("attacker", "target"))
    roles = (
        ("trigger", Span("hit", 2, 5)),
        ("attacker", Span("A", 0, 1)),
        ("target", Span("B", 6, 7)),
    )
    items = (Item(asked, roles, 0.5), Item(asked, roles[:1]), Item(asked, roles[1:2]))
    with outputs.open_writer("csv", str(path), task=TASKS["EE"]) as writer:
        writer.write(Result(Document("a", "A hit B"), TASKS["EE"], "en", {}, items))
    assert path.read_text().split("\n") == [
        "source,line,id,task,lang,item,type,trigger,trigger_start,trigger_end,"
        "role,text,start,end,score,page",
        "a,,,EE,en,1,attack,hit,2,5,attacker,A,0,1,0.5,",
        "a,,,EE,en,1,attack,hit,2,5,target,B,6,7,0.5,",
        "a,,,EE,en,2,attack,hit,2,5,,,,,,",
        "a,,,EE,en,3,attack,,,,attacker,A,0,1,,",
        "",
    ]


def test_csv_for_excel_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with open_writer("csv", str(path), bom=True) as writer:
        writer.write(result("ü.txt", "Zoë"))
    assert path.read_bytes().startswith("\ufeffsource,".encode())
    with pytest.raises(UsageError, match="--bom is for CSV"):
        open_writer("jsonl", str(path), bom=True)


# ----------------------------------------------------------------- where it goes, and resuming


def test_a_symbolic_link_stays_one_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text("old\n")
    link.symlink_to(real)
    with open_writer("jsonl", str(link)) as writer:
        writer.write(result("a"))
    assert link.is_symlink()
    assert sources(real, "jsonl") == ["a"]


@pytest.mark.parametrize("form", [form for form in FORMATS if form != FOLDER])
def test_an_interrupted_part_is_not_overwritten(tmp_path: Path, form: str) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    interrupted(form, path, result("a"), by=KeyboardInterrupt)
    part = Path(f"{path}.part")
    before = part.read_bytes()
    assert before
    with pytest.raises(
        UsageError, match=r"out\.part holds results of an interrupted run"
    ) as caught:
        open_writer(form, str(path))
    assert ("--resume" in caught.value.hint) == (form in RESUMABLE)
    assert (part.read_bytes(), path.read_text()) == (before, "old")


@pytest.mark.parametrize("target", ["out.pdf", "out.xlsx", "out.txt"])
def test_a_suffix_that_is_no_format_is_refused(target: str) -> None:
    with pytest.raises(UsageError, match=target):
        format_for(target)


def test_the_format_follows_from_the_suffix() -> None:
    named = {"o": "jsonl", "a.b/o": "jsonl", "o.JSON": "json", "o.ndjson": "jsonl", "o.csv": "csv"}
    assert {target: format_for(target) for target in named} == named
    assert format_for("/dev/null") == "jsonl"
    assert format_for("o.json", records=True) == "json"
    with pytest.raises(UsageError, match="csv is no output format"):
        format_for("o.csv", records=True)


MADE = {"schema": ["person"], "task": "NER", "model": "m", "template": "t"}


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("name", sorted(MADE))
def test_resuming_with_something_else_is_refused(
    tmp_path: Path, name: str, replacing: bool
) -> None:
    path = tmp_path / "out.jsonl"
    if replacing:
        path.write_text("old\n")
    writer = open_writer("jsonl", str(path))
    writer.check(**MADE)
    writer.write(result("a"))
    writer.__exit__(KeyboardInterrupt, None, None)
    whole = Path(str(writer.path)).read_bytes()
    with (
        pytest.raises(UsageError, match=f"another {name}: .*, not .*other"),
        open_writer("jsonl", str(path), resume=True) as writer,
    ):
        writer.check(**{**MADE, name: "other"})
    assert Path(str(writer.path)).read_bytes() == whole
    with open_writer("jsonl", str(path), resume=True) as writer:
        writer.check(**MADE)
        writer.write(result("b"))
    assert sources(path, "jsonl") == ["a", "b"]
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "out.jsonl.run"]
    # A file that was completed is not gone on with either.
    with (
        pytest.raises(UsageError, match=f"another {name}"),
        open_writer("jsonl", str(path), resume=True) as writer,
    ):
        writer.check(**{**MADE, name: "other"})


@pytest.mark.parametrize("form", RESUMABLE)
def test_without_a_note_of_the_first_run_its_results_tell_task_and_types(
    tmp_path: Path, form: str
) -> None:
    path = tmp_path / "out"
    with open_writer(form, str(path)) as writer:
        writer.write(result("a"))
    assert os.listdir(tmp_path) == ["out"]
    for made in ({"task": "RE"}, {"types": ["place"]}):
        with (
            pytest.raises(UsageError, match="was written with another"),
            open_writer(form, str(path), resume=True) as writer,
        ):
            writer.check(**made)
    with open_writer(form, str(path), resume=True) as writer:
        writer.check(task="NER", types=["person"])


def test_what_results_look_like(tmp_path: Path) -> None:
    for form in ("json", "jsonl", "csv"):
        path = tmp_path / form
        with open_writer(form, str(path)) as writer:
            writer.write(result("a", "long " * 50_000))
            writer.write(result("b"))
        assert holds_results(str(path))
    (tmp_path / "texts").write_text('{"text": "a"}\n')
    assert not holds_results(str(tmp_path / "texts"))


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


@pytest.mark.skipif(os.name == "nt", reason="files are locked in another way")
@pytest.mark.parametrize("before", ["", "old\n"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_does_not_write_to_the_same_file(
    before: str, resume: bool, tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    if before:
        path.write_text(before)
    with open_writer("jsonl", str(path)) as first:
        first.write(result("a"))
        if resume and not before:
            # Another line would be another error.
            assert sources(path, "jsonl") == ["a"]
        with pytest.raises(UsageError, match=r"being written by another run|interrupted run"):
            open_writer("jsonl", str(path), resume=resume)
        first.write(result("b"))
    assert sources(path, "jsonl") == ["a", "b"]
    with open_writer("jsonl", str(path), resume=True) as again:
        again.write(result("c"))
    assert sources(path, "jsonl") == ["a", "b", "c"]

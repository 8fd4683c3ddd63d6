"""Results in the forms of other programs, each loaded by the program's own reader."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.conversion import read_gold
from iepile_cli.errors import UsageError
from iepile_cli.extraction.grounding import Item, Span
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.outputs import format_for, open_writer
from iepile_cli.extraction.results import Result
from iepile_cli.task import TASKS, SchemaItem

TEXT = "Ann  Lee works\n\nat IBM. 任正非 left Rome."


def span(words: str, score: float | None = 0.75, text: str = TEXT) -> Span:
    at = text.index(words)
    return Span(words, at, at + len(words), score)


def of(task: str, *items: Item, source: str = "a/one.txt", text: str = TEXT) -> Result:
    return Result(Document(source, text), TASKS[task], "en", {}, items)


def item(kind: str, score: float | None = 0.75, /, **roles: Span) -> Item:
    return Item(SchemaItem(kind), tuple(roles.items()), score)


ENTITIES = (
    item("person", mention=span("Ann  Lee")),
    item("given name", mention=span("Ann")),
    item("firm", mention=span("IBM")),
    item("person", mention=span("任正非")),
    item("place", 0.5, mention=span("Rome", 0.5)),
)
NER = of("NER", *ENTITIES)
NOTHING = of("NER", source="b/one.txt", text="=1+1\tnobody")
WORKS = Item(
    SchemaItem("works at", subject_type="person", object_type="firm"),
    (("subject", span("Ann  Lee")), ("object", span("IBM"))),
    0.5,
)
SPO = of("SPO", WORKS)
LEAVING = Item(
    SchemaItem("leave", ("who", "from")),
    (("trigger", span("left")), ("who", span("任正非")), ("from", span("Rome"))),
    0.25,
)
EE = of("EE", LEAVING)
EEA = of("EEA", Item(SchemaItem("leave", ("who",)), (("who", span("任正非")),), 0.25))
KG = of(
    "KG",
    Item(
        SchemaItem("person", ("employer",)),
        (("entity", span("Ann  Lee")), ("employer", span("IBM"))),
    ),
)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes results in a format, and gives the file or folder; ``notes`` are what was said."""

    def write(form: str, results: Iterable[Result], name: str = "out") -> Path:
        results = list(results)
        path = tmp_path / name
        with open_writer(form, str(path), task=results[0].task) as writer:
            for one in results:
                writer.write(one)
        write.notes = list(writer.notes)  # type: ignore[attr-defined]
        return path

    return write


def spans_of(path: Path) -> list[list[tuple[Any, ...]]]:
    """The types and places of every record of a file, as ``convert`` reads it."""
    return [
        sorted((item.gold.type, *item.spans[0]) for item in gold.items)
        for gold in read_gold(path)
        if gold.task is None or gold.task.name == "NER"
    ]


PLACED = sorted((one.item.type, one.roles[0][1].start, one.roles[0][1].end) for one in ENTITIES)


# ---------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_pandas_reads_each_table(written: Any, form: str) -> None:
    pandas = pytest.importorskip("pandas")
    if form == "parquet":
        pytest.importorskip("pyarrow")
    read = {
        "csv": pandas.read_csv,
        "tsv": functools.partial(pandas.read_csv, sep="\t", quoting=3),
        "parquet": pandas.read_parquet,
    }[form]
    table = read(written(form, [NER, NOTHING, of("NER", item("=1", mention=Span("\tx", 0, 2)))]))
    columns = "source line id task lang item type text start end score page"
    assert list(table.columns) == columns.split()
    assert list(table.source) == ["a/one.txt"] * 6
    blank = "Ann  Lee"
    assert list(table.text)[:5] == [blank, "Ann", "IBM", "任正非", "Rome"]
    assert list(table.start)[:2] == [0, 0]
    assert str(table.end.dtype) == "int64"
    assert list(table.score)[:5] == [0.75, 0.75, 0.75, 0.75, 0.5]
    last = table.iloc[5]
    guarded = {"csv": ("'=1", "'\tx"), "tsv": ("'=1", "' x"), "parquet": ("=1", "\tx")}
    assert (last.type, last.text) == guarded[form]


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_a_table_has_the_page_of_each_item(written: Any, form: str) -> None:
    pandas = pytest.importorskip("pandas")
    if form == "parquet":
        pytest.importorskip("pyarrow")
    document = Document("a.pdf", TEXT, pages=(0, TEXT.index("at IBM")))
    result = Result(document, TASKS["NER"], "en", {}, ENTITIES)
    path = written(form, [result])
    read = (
        pandas.read_parquet
        if form == "parquet"
        else functools.partial(pandas.read_csv, sep="\t" if form == "tsv" else ",")
    )
    assert list(read(path).page) == [1, 1, 2, 2, 2]


def test_parquet_holds_its_rows_only_for_a_while(written: Any, monkeypatch: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("iepile_cli.extraction.tables._ROW_GROUP", 4)
    file = parquet.ParquetFile(written("parquet", [EE] * 5))
    assert file.metadata.num_row_groups == 3
    row = file.read().to_pylist()[-1]
    assert (row["trigger"], row["role"], row["text"], row["score"]) == (
        "left",
        "from",
        "Rome",
        0.25,
    )
    assert (row["line"], row["id"]) == (None, "")


def test_a_table_of_nothing_can_be_read(written: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(written("parquet", [NOTHING])).num_rows == 0


# ------------------------------------------------------------------------------- annotation tools


@pytest.mark.parametrize("form", ["doccano", "label-studio", "prodigy", "spacy", "brat"])
def test_entities_are_read_back_from_each_tool(written: Any, form: str) -> None:
    path = written(form, [NER, NOTHING])
    second, first = sorted(spans_of(path), key=len)
    assert [(kind.replace("_", " "), start, end) for kind, start, end in first] == PLACED
    assert second == []
    assert written.notes == []


@pytest.mark.parametrize("form", ["doccano", "label-studio", "prodigy", "brat"])
@pytest.mark.parametrize("result", [SPO, KG], ids=["SPO", "KG"])
def test_relations_and_attributes_are_read_back(written: Any, form: str, result: Result) -> None:
    path = written(form, [result])
    (related,) = (gold for gold in read_gold(path) if gold.task and gold.task.name == "RE")
    ((head, tail),) = (one.spans for one in related.items)
    assert (TEXT[slice(*head)], TEXT[slice(*tail)]) == ("Ann  Lee", "IBM")


def test_label_studio_gets_one_array_with_scores(written: Any) -> None:
    first, second = json.loads(written("label-studio", [NER, NOTHING]).read_text("utf-8"))
    assert first["data"] == {"text": TEXT, "source": "a/one.txt"}
    (prediction,) = first["predictions"]
    for region in prediction["result"]:
        assert {"id", "from_name", "to_name", "type", "value", "score"} == region.keys()
    assert prediction["result"][-1]["score"] == 0.5
    assert second["predictions"] == [{"result": []}]


def test_doccano_gets_the_fields_that_it_documents(written: Any) -> None:
    (line,) = written("doccano", [NER]).read_text("utf-8").splitlines()
    assert json.loads(line).keys() == {"text", "label", "source"}
    (line,) = written("doccano", [SPO], "x").read_text("utf-8").splitlines()
    found = json.loads(line)
    assert found["entities"][0].keys() == {"id", "label", "start_offset", "end_offset"}
    assert found["relations"] == [{"id": 0, "from_id": 0, "to_id": 1, "type": "works at"}]


def test_spacy_loads_the_documents(written: Any) -> None:
    spacy = pytest.importorskip("spacy")
    lines = written("spacy", [NER, NOTHING, SPO]).read_text("utf-8").splitlines()
    assert written.notes == [
        "1 part of the results left out that spacy cannot hold: a relation 'works at'"
    ]
    first, second, _ = (
        spacy.tokens.Doc(spacy.vocab.Vocab()).from_json(json.loads(line)) for line in lines
    )
    assert first.text == TEXT
    assert [(one.label_, one.text) for one in first.ents] == [
        ("person", "Ann  Lee"), ("firm", "IBM"), ("person", "任正非"), ("place", "Rome"),
    ]  # fmt: skip
    # Entities of spaCy do not overlap; span groups do.
    assert ("given name", "Ann") in [(one.label_, one.text) for one in first.spans["sc"]]
    assert (second.text, list(second.ents), list(second.spans)) == (NOTHING.document.text, [], [])


def test_conll_has_a_column_of_tags_and_blank_lines_between_sentences(written: Any) -> None:
    text = written("conll", [NER, NOTHING], "x.conll").read_text("utf-8")
    assert text == (
        "-DOCSTART-\tO\n\nAnn\tB-person\nLee\tI-person\nworks\tO\n\nat\tO\nIBM\tB-firm\n.\tO\n\n"
        "任\tB-person\n正\tI-person\n非\tI-person\nleft\tO\nRome\tB-place\n.\tO\n\n"
        "-DOCSTART-\tO\n\n=\tO\n1\tO\n+\tO\n1\tO\nnobody\tO\n\n"
    )
    assert written.notes == [
        "1 part of the results left out that conll cannot hold: "
        "'given name' within or over another mention"
    ]


def test_brat_is_a_folder_with_settings_in_which_names_differ(written: Any, tmp_path: Path) -> None:
    folder = written("brat", [of("NER", *ENTITIES), of("NER", source="b/ONE.txt"), EE, EEA])
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "annotation.conf",
        *(f"{name}.{end}" for name in ("one", "ONE-2", "one-3", "one-4") for end in ("ann", "txt")),
    }
    assert (folder / "one-3.ann").read_text("utf-8").splitlines()[
        -1
    ] == "E1\tleave:T1 who:T2 from:T3"
    settings = (folder / "annotation.conf").read_text("utf-8")
    assert "given_name\n" in settings
    assert "leave\twho*:<ENTITY>, from*:<ENTITY>\n" in settings
    assert written.notes == [
        "1 part of the results left out that brat cannot hold: an event 'leave' without a trigger"
    ]
    before = sorted(path.read_bytes() for path in folder.iterdir())
    with pytest.raises(UsageError, match="is there already"):
        written("brat", [NER])
    assert sorted(path.read_bytes() for path in folder.iterdir()) == before
    with pytest.raises(UsageError, match="is a folder of files"):
        open_writer("brat", "-")


def test_brat_has_no_mention_over_several_lines(written: Any) -> None:
    text = "New\nYork"
    folder = written("brat", [of("NER", item("place", mention=Span(text, 0, 8)), text=text)])
    assert (folder / "one.ann").read_text() == "T1\tplace 0 3;4 8\tNew York\n"
    assert spans_of(folder) == [[("place", 0, 8)]]


def interrupted(path: Path, results: list[Result]) -> None:
    with open_writer("brat", str(path), task=NER.task) as writer:
        for one in results:
            writer.write(one)
        raise KeyboardInterrupt


def test_an_interrupted_folder_stays(tmp_path: Path) -> None:
    for results in ([], [NER]):
        with pytest.raises(KeyboardInterrupt):
            interrupted(tmp_path / "out", results)
        assert (tmp_path / "out").exists() == bool(results)
    assert (tmp_path / "out" / "annotation.conf").exists()


def test_formats_by_suffix() -> None:
    for name, form in {
        "x.tsv": "tsv", "x.parquet": "parquet", "x.conll": "conll", "x.graphml": "graphml",
        "x.cypher": "cypher", "x.ttl": "turtle",
    }.items():  # fmt: skip
        assert format_for(name) == form
        with pytest.raises(UsageError, match="no output format"):
            format_for(name, records=True)

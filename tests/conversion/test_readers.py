"""Other forms of annotated data into unified records with offsets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.conversion.readers import form_of, open_records
from iepile_cli.conversion.readers.bio import tag_spans
from iepile_cli.errors import DataError, UsageError


def read(path: Path, form: str = "auto", task: str | None = None) -> list[dict[str, Any]]:
    with open_records(path, form, task) as (chunks, _):
        return [
            json.loads(raw) for chunk in chunks for raw in chunk.data.split(b"\n") if raw.strip()
        ]


def problems(path: Path, form: str = "auto") -> list[tuple[int, str]]:
    with open_records(path, form, None) as (chunks, _):
        return [(one.line, one.what) for chunk in chunks for one in chunk.problems]


def entities(record: dict[str, Any]) -> list[tuple[str, str]]:
    for one in record["entity"]:
        assert record["text"][one["start"] : one["end"]] == one["entity"]
    return [(one["entity"], one["entity_type"]) for one in record["entity"]]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O B-P I-P O B-L", [(1, 2, "P"), (4, 4, "L")]),
        ("B-P B-P I-P", [(0, 0, "P"), (1, 2, "P")]),
        ("I-P I-P O I-L", [(0, 1, "P"), (3, 3, "L")]),
        ("I-P I-L B-L", [(0, 0, "P"), (1, 1, "L"), (2, 2, "L")]),
        ("B-P I-P E-P S-L", [(0, 2, "P"), (3, 3, "L")]),
        ("B-P L-P U-L U-L", [(0, 1, "P"), (2, 2, "L"), (3, 3, "L")]),
        ("B-A-B I-A-B", [(0, 1, "A-B")]),
        ("O O", []),
    ],
)
def test_tag_schemes(tags: str, found: list[tuple[int, int, str]]) -> None:
    assert list(tag_spans(tags.split())) == found


def test_conll_columns(tmp_path: Path) -> None:
    path = tmp_path / "eng.conll"
    path.write_text(
        "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\nGerman JJ I-NP B-MISC\n\n"
        "# NN O O\nPeter NNP I-NP B-PER\nBlackburn NNP I-NP I-PER\n"
    )
    first, second = read(path)
    assert first["text"] == "EU rejects German"
    assert entities(first) == [("EU", "ORG"), ("German", "MISC")]
    assert entities(second) == [("Peter Blackburn", "PER")]


def test_columns_that_count_tokens_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "x.iob2"
    path.write_text("# text = In Rome\n1\tIn\tO\t-\t-\n2\tRome\tB-LOC\t-\t-\n\n")
    (record,) = read(path)
    assert entities(record) == [("Rome", "LOC")]


def test_chinese_tokens_are_joined_without_blanks(tmp_path: Path) -> None:
    path = tmp_path / "x.bio"
    path.write_text("北 B-LOC\n京 I-LOC\n有 O\nApple B-ORG\nInc I-ORG\n。 O\n", "utf-8")
    (record,) = read(path)
    assert record["text"] == "北京有Apple Inc。"
    assert entities(record) == [("北京", "LOC"), ("Apple Inc", "ORG")]


def test_emoji_and_hangul_are_parted_by_blanks(tmp_path: Path) -> None:
    path = tmp_path / "x.bio"
    path.write_text("😀 O\nAnn B-PER\n서울 B-LOC\n에서 O\n𝔘 O\n。 O\n", "utf-8")
    (record,) = read(path)
    assert record["text"] == "😀 Ann 서울 에서 𝔘。"
    assert entities(record) == [("Ann", "PER"), ("서울", "LOC")]


def test_broken_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.bio"
    path.write_text("a O\nb B-P\n\nc\n\nd X-P\n\ne O\n")
    assert problems(path) == [(4, "no column 2"), (6, "'X-P' is no tag")]
    assert [record["text"] for record in read(path)] == ["a b", "e"]
    path.write_text("just some text\nwithout tags\n")
    with pytest.raises(DataError, match="no column of tags"):
        read(path)
    path.write_bytes(b"a O\n\xff\xff O\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read(path)


def test_spacy_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    tokens = [{"orth": "In", "ner": "O"}, {"orth": "Rome", "ner": "U-GPE"}]
    documents: list[Any] = [
        {"text": "In Rome", "ents": [{"start": 3, "end": 7, "label": "GPE"}], "tokens": []},
        ["In Rome", {"entities": [[3, 7, "GPE"]]}],
        {"text": "In Rome", "spans": {"sc": [{"start": 3, "end": 7, "label": "GPE"}]}},
        {"id": 0, "paragraphs": [{"raw": "In  Rome", "sentences": [{"tokens": tokens}]}]},
    ]
    for text in (json.dumps(documents), "".join(json.dumps(one) + "\n" for one in documents)):
        path.write_text(text)
        records = read(path, "spacy")
        assert [entities(record) for record in records] == [[("Rome", "GPE")]] * 4
    path.write_text(json.dumps([["In", {"entities": [[0, 7, "GPE"]]}], {"nothing": 1}]))
    assert [line for line, _ in problems(path, "spacy")] == [1, 1]


@pytest.mark.parametrize(
    "document",
    [
        ["In Rome", {"entities": [[3, 7, "GPE"]]}],
        {"id": 0, "paragraphs": [{"raw": "In Rome", "sentences": [{"tokens": [
            {"orth": "In", "ner": "O"}, {"orth": "Rome", "ner": "U-GPE"}]}]}]},
    ],
)  # fmt: skip
def test_spacy_documents_without_a_text_key_are_known(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([document]))
    (record,) = read(path)
    assert entities(record) == [("Rome", "GPE")]
    assert form_of(path) == "spacy"


def test_prodigy_relations(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    head, tail = ({"start": 0, "end": 3, "label": "P"}, {"start": 13, "end": 16, "label": "O"})
    relation = {"head_span": head, "child_span": tail, "label": "works for"}
    path.write_text(
        json.dumps({"text": "Ann works at IBM", "spans": [head, tail], "relations": [relation]})
    )
    (record,) = read(path, "spacy")
    assert record["relation"] == [
        {
            "head": "Ann",
            "head_type": "P",
            "relation": "works for",
            "tail": "IBM",
            "tail_type": "O",
            "head_start": 0,
            "head_end": 3,
            "tail_start": 13,
            "tail_end": 16,
        }
    ]


def test_a_doc_bin_needs_spacy(tmp_path: Path) -> None:
    try:
        import spacy  # noqa: F401
    except ImportError:
        path = tmp_path / "x.spacy"
        path.write_bytes(b"x")
        with pytest.raises(DataError, match="only with spaCy") as caught:
            read(path)
        assert "pip install spacy" in caught.value.hint


def test_brat(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Bob hit Ann in Rome.\n")
    (tmp_path / "a.ann").write_text(
        "T1\tPerson 0 3\tBob\nT2\tAttack 4 7\thit\nT3\tPerson 8 11\tAnn\n"
        "T4\tPlace 15 17;18 19\tRo e\nE1\tAttack:T2 Agent:T1 Victim2:T3\n"
        "R1\tnear Arg1:T1 Arg2:T4\nA1\tNegated E1\n#1\tAnnotatorNotes T1\tnote\n*\tEquiv T1 T3\n"
    )
    (tmp_path / "b.txt").write_text("short")
    (tmp_path / "b.ann").write_text("T1\tPerson 0 99\tBob\n")
    (tmp_path / "c.ann").write_text("")
    assert form_of(tmp_path) == "brat"
    (record,) = read(tmp_path)
    assert entities(record) == [("Bob", "Person"), ("Ann", "Person"), ("Rome", "Place")]
    assert record["relation"][0]["relation"] == "near"
    (event,) = record["event"]
    assert (event["event_trigger"], event["event_type"]) == ("hit", "Attack")
    assert [(one["argument"], one["role"]) for one in event["arguments"]] == [
        ("Bob", "Agent"),
        ("Ann", "Victim"),
    ]
    assert [line for line, _ in problems(tmp_path)] == [2, 3]


def row(task: str, schema: Any, text: str, answer: Any) -> dict[str, str]:
    asked = {"instruction": "x", "schema": schema, "input": text}
    return {
        "task": task,
        "source": "s",
        "instruction": json.dumps(asked),
        "output": json.dumps(answer),
    }


def test_published_rows(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    events = [{"event_type": "hit", "trigger": True, "arguments": ["who"]}]
    given = [{"event_type": "hit", "trigger": ["hit"], "arguments": ["who"]}]
    rows = [
        row("NER", ["person", "place"], "Ann saw Bob", {"person": ["Ann", "Bob"], "place": []}),
        row("NER", ["time"], "Ann saw Bob", {"time": []}),
        row("RE", ["sees"], "Ann saw Bob", {"sees": [{"head": "Ann", "tail": "Bob"}]}),
        row("EE", events, "Ann hit", {"hit": [{"trigger": "hit", "arguments": {"who": "Ann"}}]}),
        row("EEA", given, "Ann hit", {"hit": [{"trigger": "hit", "arguments": {"who": "Ann"}}]}),
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    ner, relation, event, arguments = read(path)
    assert [one["entity"] for one in ner["entity"]] == ["Ann", "Bob"]
    assert relation["relation"] == [{"head": "Ann", "relation": "sees", "tail": "Bob"}]
    assert (
        event["event"]
        == arguments["event"]
        == [
            {
                "event_trigger": "hit",
                "event_type": "hit",
                "arguments": [{"argument": "Ann", "role": "who"}],
            }
        ]
    )
    assert [record["text"] for record in read(path, task="RE")] == ["Ann saw Bob"]


def test_equal_records_do_not_merge(tmp_path: Path, run: Any) -> None:
    path = tmp_path / "x.jsonl"
    entity = [{"entity": "Ann", "entity_type": "person"}]
    path.write_text(f"{json.dumps({'text': 'Ann left', 'entity': entity})}\n" * 2)
    for split in ("train", "test"):
        rows = tmp_path / f"{split}.json"
        schema = ["--schema", "person,place,time", "--split-num", "1", "--split", split]
        assert run("convert", path, "--task", "NER", "-o", rows, *schema).code == 0
        found = read(rows)
        assert [[one["entity"] for one in record["entity"]] for record in found] == [["Ann"]] * 2


def test_instructie_records(tmp_path: Path, run: Any) -> None:
    path = tmp_path / "train.json"
    relation = {"head": "A", "head_type": "T", "relation": "r", "tail": "B", "tail_type": "U"}
    path.write_text(
        json.dumps({"id": 1, "cate": "Event", "input": "A B", "relation": [relation]}) + "\n"
    )
    result = run("convert", path, "--to", "records")
    assert json.loads(result.out) == {
        "text": "A B",
        "id": 1,
        "cate": "Event",
        "relation": [relation],
    }
    result = run("convert", path, "--task", "KG", "--schema", "auto")
    assert json.loads(json.loads(result.out)["output"]) == {"T": {"A": {"r": "B"}}}


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(UsageError, match="--from csv"):
        form_of(Path("x"), "csv")


def test_prodigys_answers_count(tmp_path: Path, run: Any) -> None:
    path = tmp_path / "x.jsonl"
    span = {"start": 0, "end": 3, "label": "P"}
    lines = [
        {"text": "Ann left", "spans": [span], "answer": answer}
        for answer in ("accept", "reject", "ignore")
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    for form in ("spacy", "prodigy"):
        result = run("convert", path, "--to", "records", "--from", form)
        assert result.code == 0
        assert len(result.out.splitlines()) == 1
        assert "2 left out" in result.err
        assert "not accepted by the annotator (2)" in result.err


def test_span_groups_beside_entities_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    person, place = {"start": 0, "end": 3, "label": "P"}, {"start": 7, "end": 11, "label": "L"}
    document = {"text": "Ann in Rome", "ents": [person], "spans": {"sc": [place, person], "e": []}}
    path.write_text(json.dumps(document))
    (record,) = read(path, "spacy")
    assert entities(record) == [("Ann", "P"), ("Rome", "L")]


def test_relations_between_events_and_odd_mentions_in_brat(tmp_path: Path) -> None:
    text = "Bob hit Ann; she\u2028fell."
    (tmp_path / "a.txt").write_text(text, "utf-8")
    (tmp_path / "a.ann").write_text(
        "T1\tPerson 0 3\tBob\nT2\tAttack 4 7\thit\nT3\tFall 13 21\tshe\u2028fell\n"
        "E1\tAttack:T2 Agent:T1\nE2\tFall:T3\nR1\tcauses Arg1:E1 Arg2:E2\n"
        "R2\tnear Arg1:T1 Arg2:T9\nE3\tAttack:T8\n",
        "utf-8",
    )
    (record,) = read(tmp_path)
    assert [one["event_trigger"] for one in record["event"]] == ["hit", "she\u2028fell"]
    (relation,) = record["relation"]
    assert (relation["head"], relation["relation"], relation["tail"]) == (
        "hit",
        "causes",
        "she\u2028fell",
    )
    assert len(problems(tmp_path)) == 2


def test_no_break_spaces_belong_to_tokens(tmp_path: Path) -> None:
    path = tmp_path / "x.bio"
    path.write_text("10\u00a0000 B-NUM\nmen O\n\nyes O\n", "utf-8")
    first, second = read(path)
    assert entities(first) == [("10\u00a0000", "NUM")]
    assert second["text"] == "yes"


def test_comments_do_not_shift_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.bio"
    path.write_text("# id = 1\na O\nb B-P\n\n# id = 2\na O\n# note = x\nc X-P\n")
    assert problems(path) == [(8, "'X-P' is no tag")]


@pytest.mark.parametrize("blank", ["\t", " "])
def test_a_comment_before_a_sentence_may_say_anything(tmp_path: Path, blank: str) -> None:
    path = tmp_path / "x.bio"
    lines = ["# id: 1", "Ann B-PER", "left O", "", "#2", "# of a kind", "# B-SIGN", "a O", "b"]
    path.write_text("\n".join(lines).replace(" B", blank + "B").replace(" O", blank + "O"))
    assert [entities(record) for record in read(path)] == [[("Ann", "PER")]]
    assert problems(path) == [(9, "no column 2")]


def test_labels_with_spaces_in_columns_parted_by_tabs(tmp_path: Path, run: Any) -> None:
    path = tmp_path / "x.bio"
    path.write_text("Ann\tB-first name\nLee\tI-first name\n,\tO\nRome\tB-place of birth\n")
    (record,) = read(path)
    assert entities(record) == [("Ann Lee", "first name"), ("Rome", "place of birth")]
    # Neither task nor schema need be named.
    result = run("convert", path)
    assert result.code == 0, result.err
    assert json.loads(json.loads(result.out)["output"]) == {
        "first name": ["Ann Lee"],
        "place of birth": ["Rome"],
    }

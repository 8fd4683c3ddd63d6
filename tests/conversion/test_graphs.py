"""Annotation as graphs, each read by a reader of its own: networkx, rdflib, a lexer of Cypher."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.conversion.annotation import Annotation, Event, Relation
from iepile_cli.conversion.graphs import GraphFile
from iepile_cli.conversion.readers.spans import LabelledSpan

# Whatever could end a literal or a name, in XML, in Turtle or in Cypher.
HOSTILE = [
    "Ann",
    'x"}) DETACH DELETE (n) //',
    "x'}) DETACH DELETE (n) //",
    "back\\slash",
    "ends with \\",
    "\\u0022}) DETACH DELETE (n) //",
    "\\\\u0022\\uu0027\\u005c",
    "`}) DELETE //",
    "\\u0060]->() DELETE",
    "<b>&amp;]]></b>",
    "a\x00b\x07\x1b[31m\x7f\x85\u2028c\ufffe",
    "\ud800 lone",
    "任正非 \U0001f600 e\u0301",
    "*/ /* -- ; :param x => 1",
    "\u202egnp.exe",
]


def graph_of(texts: list[str], form: str, document: str = "a.txt") -> str:
    """A graph in which each text is an entity, a type, a relation and a role."""
    made = GraphFile(form)
    for number, text in enumerate(texts):
        whole = f"{text} Rome"
        one = LabelledSpan(0, len(text), text)
        two = LabelledSpan(len(whole) - 4, len(whole), "place")
        found = Annotation(
            whole,
            [one, two],
            [Relation(one, text, two, 0.5)],
            [Event(text, one, (LabelledSpan(two.start, two.end, text),), 0.25)],
            {"source": document, "line": number + 1},
            {one: 0.75},
        )
        made.add(found)
    return made.written().decode()


def shown(text: str) -> str:
    """A text as a graph names it."""
    return re.sub(r"\s+", " ", text.encode("utf-8", "replace").decode()).strip()


def test_networkx_reads_graphml(tmp_path: Path) -> None:
    networkx = pytest.importorskip("networkx")
    path = tmp_path / "x.graphml"
    path.write_text(graph_of(HOSTILE, "graphml"), encoding="utf-8")
    graph = networkx.read_graphml(path)
    names = {facts["label"] for _, facts in graph.nodes(data=True) if facts["kind"] == "entity"}
    expected = {re.sub("[\x00-\x08\x0b-\x1f\ufffe]", "\ufffd", shown(text)) for text in HOSTILE}
    assert names == {"Rome", *expected}
    ann = next(
        name
        for name, facts in graph.nodes(data=True)
        if (facts["label"], facts["kind"]) == ("Ann", "entity")
    )
    (edge,) = (facts for _, target, facts in graph.out_edges(ann, data=True))
    assert (edge["label"], edge["count"], edge["score"]) == ("Ann", 1, 0.5)
    assert edge["documents"] == "a.txt:1"
    rome = next(facts for _, facts in graph.nodes(data=True) if facts["label"] == "Rome")
    assert (rome["type"], rome["count"]) == ("place", len(HOSTILE))


def test_rdflib_reads_turtle() -> None:
    rdflib = pytest.importorskip("rdflib")
    graph = rdflib.Graph().parse(data=graph_of(HOSTILE, "turtle"), format="turtle")
    own = rdflib.Namespace("urn:iepile:")
    entities = set(graph.subjects(rdflib.RDF.type, own.Entity))
    names = {str(graph.value(one, rdflib.RDFS.label)) for one in entities}
    assert names == {"Rome", *map(shown, HOSTILE)}
    (ann,) = (one for one in entities if str(graph.value(one, rdflib.RDFS.label)) == "Ann")
    rome = rdflib.URIRef("urn:iepile:entity/place/Rome")
    assert (ann, rdflib.URIRef("urn:iepile:relation/Ann"), rome) in graph
    (statement,) = (
        one
        for one in graph.subjects(rdflib.RDF.subject, ann)
        if (one, rdflib.RDF.object, rome) in graph
    )
    assert float(graph.value(statement, own.score)) == 0.5
    assert graph.value(statement, own.document) == rdflib.URIRef("urn:iepile:document/a.txt%3A1")
    assert len(set(graph.subjects(rdflib.RDF.type, own.Event))) == len(HOSTILE)


_CYPHER = re.compile(
    r"(?P<text>\"(?:[^\"\\]|\\[\"'\\nrtbf])*\")|(?P<name>`(?:[^`]|``)*`)|(?P<word>\w+)"
    r"|(?P<number>-?[\d.]+)|(?P<sign>[^\w\s`\"'\\])|(?P<blank>\s+)"
)


def lexed(script: str) -> Iterator[tuple[str, str]]:
    """The tokens of Cypher; anything that is none is an error."""
    at = 0
    while at < len(script):
        found = _CYPHER.match(script, at)
        assert found, script[at : at + 60]
        if found.lastgroup != "blank":
            yield found.lastgroup or "", found.group()
        at = found.end()


# What the statements are made of, and nothing else.
WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        CREATE CONSTRAINT IF NOT EXISTS FOR REQUIRE IS UNIQUE UNWIND AS ROW MERGE MATCH SET N A B R
        IEPILE_DOCUMENT IEPILE_ENTITY IEPILE_EVENT DOCUMENT ENTITY EVENT
        ID NAME TYPE COUNT SCORE SOURCE TARGET FACTS DOCUMENTS
        """,
    )
)


@pytest.mark.parametrize("early", [False, True], ids=["literals first", "escapes first"])
def test_nothing_in_a_text_ends_a_literal_of_cypher(early: bool) -> None:
    script = graph_of(HOSTILE, "cypher")
    if early:
        # Up to version 4, Neo4j replaces these before all else, even in `M\u0041TCH`.
        script = re.sub(r"\\u+([0-9a-fA-F]{4})", lambda one: chr(int(one[1], 16)), script)
    tokens = list(lexed(script))
    words = {token.upper() for kind, token in tokens if kind == "word"}
    assert {word for word in words if not word.isdigit()} == WORDS
    assert all(re.fullmatch(r"`[\w \-]+`", token) for kind, token in tokens if kind == "name")
    # Two literals with a plus between them are one text.
    joined = re.sub(r'"\s*\+\s*"', "", script)
    literals = [token for kind, token in lexed(joined) if kind == "text"]
    short = {"n": "\n", "r": "\r", "t": "\t"}
    texts = {
        re.sub(r"\\(.)", lambda one: short.get(one[1], one[1]), literal[1:-1])
        for literal in literals
    }
    assert texts >= {re.sub("[\x00-\x1f]", "\ufffd", shown(text)) for text in HOSTILE}


def test_cypher_is_one_statement_for_many_rows_and_the_same_each_time() -> None:
    texts = [f"name {number}" for number in range(1200)]
    script = graph_of(texts, "cypher")
    assert script == graph_of(texts, "cypher")
    # Each text is a type of its own here; the documents are of one.
    assert sum(line.count("MERGE (n:Document") for line in script.splitlines()) == 3


def test_names_add_up_over_documents() -> None:
    networkx = pytest.importorskip("networkx")
    made = GraphFile("graphml")
    for name, text in (("a", "Ann Lee"), ("b", "Ann\nLee"), ("b", "Ann  Lee")):
        spans = [LabelledSpan(0, len(text), "person")]
        made.add(Annotation(text, spans, [], [], {"id": name}, {spans[0]: 0.5}))
    graph = networkx.parse_graphml(made.written().decode())
    counts = {facts["label"]: facts["count"] for _, facts in graph.nodes(data=True)}
    assert counts == {"a": 1, "b": 2, "Ann Lee": 3}
    assert sorted(facts["count"] for *_, facts in graph.edges(data=True)) == [1, 2]


def test_what_is_missing_is_said_with_the_way_out(
    monkeypatch: Any, tmp_path: Path, run: Any
) -> None:

    source = tmp_path / "x.jsonl"
    source.write_text(json.dumps({"text": "Ann", "entity": []}))
    for form, library in (("graphml", "networkx"), ("turtle", "rdflib")):
        monkeypatch.setitem(sys.modules, library, None)
        result = run("convert", source, "--to", form, "-o", tmp_path / "out")
        assert result.code == 2
        assert f"{library} is not installed" in result.err
        assert "[graphs]" in result.err
        assert not (tmp_path / "out").exists()


def test_results_become_a_graph_without_a_model(tmp_path: Path, run: Any) -> None:
    networkx = pytest.importorskip("networkx")
    (tmp_path / "a.txt").write_text("Ann works at IBM.")
    ends = {
        "subject": {"text": "Ann", "start": 0, "end": 3},
        "object": {"text": "IBM", "start": 13, "end": 16},
    }
    item = {"type": "works at", "subject_type": "person", "object_type": "firm", **ends}
    result = {"source": "a.txt", "task": "SPO", "answer": {}, "items": [item]}
    (tmp_path / "results.jsonl").write_text(json.dumps(result) + "\n")
    out = tmp_path / "x.graphml"
    done = run("convert", tmp_path / "results.jsonl", "--to", "graphml", "-o", out)
    assert done.code == 0, done.err
    graph = networkx.read_graphml(out)
    assert sorted(facts["label"] for _, facts in graph.nodes(data=True)) == ["Ann", "IBM", "a.txt"]
    assert sorted(facts["label"] for *_, facts in graph.edges(data=True)) == [
        "mentions", "mentions", "works at",
    ]  # fmt: skip

"""Annotation of many texts as one graph: GraphML, Cypher for Neo4j, RDF in Turtle.

Its nodes are documents, entities (one for each type and name, whatever the number of their
mentions) and events; its edges say which document mentions what, how entities are related, and
what fills the roles of an event. Names are taken as they stand in the text, blanks made one space.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

from iepile_cli.conversion.annotation import UNTYPED, Annotation
from iepile_cli.conversion.readers.spans import LabelledSpan
from iepile_cli.errors import UsageError, install_hint

_MENTIONS = "mentions"
_BASE = "urn:iepile:"
_BLANK = re.compile(r"\s+")
# What XML 1.0 has no way to hold.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Node(NamedTuple):
    """A node: ``document``, ``entity`` or ``event``; its type there, and its name.

    ``document`` and ``number`` tell events apart, which have no name of their own.
    """

    kind: str
    type: str
    name: str
    document: str = ""
    number: int = 0

    @property
    def id(self) -> str:
        """What names it for good: the same in each run."""
        parts = [self.type, self.name, self.document, str(self.number or "")]
        return "/".join([self.kind, *(quote(_clean(part), safe="") for part in parts if part)])


class Edge(NamedTuple):
    """An edge, with the label of a relation or of a role, or ``mentions``."""

    source: Node
    label: str
    target: Node


@dataclass(slots=True)
class Evidence:
    """How often something is found, its best score (0..1), and the documents it is found in."""

    count: int = 0
    score: float | None = None
    documents: dict[str, None] = field(default_factory=dict)

    def add(self, document: str, score: float | None) -> None:
        """Count one more."""
        self.count += 1
        self.documents[document] = None
        if score is not None:
            self.score = max(score, self.score or 0.0)


class Graph:
    """The graph that annotation adds up to; it holds each node and each edge once."""

    def __init__(self) -> None:
        self.nodes: dict[Node, Evidence] = {}
        self.edges: dict[Edge, Evidence] = {}
        self._events: Counter[str] = Counter()

    def add(self, found: Annotation, document: str) -> None:
        """Add the annotation of a document, of which a part may have been added before."""
        page = Node("document", "", document)
        self._node(page, document, None)
        for span in found.spans:
            entity = Node("entity", span.label, _named(found, span))
            self._mention(page, entity, document, found.scores.get(span))
        for relation in found.relations:
            head, tail = (
                Node("entity", one.label, _named(found, one))
                for one in (relation.head, relation.tail)
            )
            self._edge(head, relation.label, tail, document, relation.score)
        labels = found.labels()
        for event in found.events:
            name = event.label if event.trigger is None else _named(found, event.trigger)
            self._events[document] += 1
            node = Node("event", event.label, name, document, self._events[document])
            self._mention(page, node, document, event.score)
            for one in event.arguments:
                label = labels.get(one[:2], UNTYPED)
                filler = Node("entity", label, _named(found, one))
                if one[:2] not in labels:
                    self._mention(page, filler, document, None)
                self._edge(node, one.label, filler, document, event.score)

    def _mention(self, page: Node, node: Node, document: str, score: float | None) -> None:
        self._node(node, document, score)
        self._edge(page, _MENTIONS, node, document, score)

    def _node(self, node: Node, document: str, score: float | None) -> None:
        self.nodes.setdefault(node, Evidence()).add(document, score)

    def _edge(
        self, source: Node, label: str, target: Node, document: str, score: float | None
    ) -> None:
        self.edges.setdefault(Edge(source, label, target), Evidence()).add(document, score)


def _named(found: Annotation, span: LabelledSpan) -> str:
    return _BLANK.sub(" ", found.text[span.start : span.end]).strip()


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


# --------------------------------------------------------------------------------------- GraphML


def graphml(graph: Graph) -> bytes:
    """The graph as GraphML, as Gephi, Cytoscape, yEd and networkx read it.

    Raises ``UsageError`` where networkx is not installed.
    """
    try:
        import networkx
    except ImportError:
        raise _missing("networkx") from None
    made = networkx.MultiDiGraph()
    # What GraphML takes for an identifier allows few characters.
    names = {node: f"n{number}" for number, node in enumerate(graph.nodes)}
    for node, evidence in graph.nodes.items():
        facts = {"kind": node.kind, "type": node.type, "label": node.name, "count": evidence.count}
        made.add_node(names[node], **_for_xml(facts | {"uri": _BASE + node.id}))
    for number, (edge, evidence) in enumerate(graph.edges.items()):
        facts = {"label": edge.label, "count": evidence.count}
        facts |= {} if evidence.score is None else {"score": evidence.score}
        facts |= {"documents": "; ".join(evidence.documents)}
        source, target = names[edge.source], names[edge.target]
        made.add_edge(source, target, key=f"e{number}", **_for_xml(facts))
    written = io.BytesIO()
    networkx.write_graphml_xml(made, written)
    return written.getvalue()


def _for_xml(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _NOT_XML.sub("\ufffd", _clean(value)) if isinstance(value, str) else value
        for key, value in facts.items()
    }


# ---------------------------------------------------------------------------------------- Cypher

# Rows of one statement: enough for speed, few enough for a server's memory.
_ROWS = 500
# In the names of labels and relationship types nothing else is kept: a name cannot be escaped in a
# way that all versions of Neo4j read alike. Properties hold the types as they are.
_NOT_IN_LABELS = re.compile(r"[^\w \-]+|_+")


def cypher(graph: Graph) -> bytes:
    """The graph as Cypher statements for Neo4j, which can be run again and change nothing then.

    Each entity has the label ``Entity`` and that of its type. Texts are literals in quotation marks
    with everything escaped that could end one.
    """
    lines = [
        f"CREATE CONSTRAINT iepile_{kind} IF NOT EXISTS "
        f"FOR (n:{kind.title()}) REQUIRE n.id IS UNIQUE;"
        for kind in ("document", "entity", "event")
    ]
    nodes: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for node, evidence in graph.nodes.items():
        facts = {"id": node.id, "name": node.name, "type": node.type, "count": evidence.count}
        facts |= {} if evidence.score is None else {"score": evidence.score}
        nodes.setdefault((node.kind, node.type), []).append(facts)
    for (kind, type_), rows in nodes.items():
        label = f" SET n:{_label(type_)}" if type_ else ""
        for part in _parts(rows):
            lines.append(
                f"UNWIND {part} AS row MERGE (n:{kind.title()} {{id: row.id}}) SET n += row{label};"
            )
    edges: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for edge, evidence in graph.edges.items():
        facts = {"type": edge.label, "count": evidence.count}
        facts |= {} if evidence.score is None else {"score": evidence.score}
        facts["documents"] = list(evidence.documents)
        row = {"source": edge.source.id, "target": edge.target.id, "facts": facts}
        edges.setdefault((edge.source.kind, edge.label, edge.target.kind), []).append(row)
    for (source, label, target), rows in edges.items():
        for part in _parts(rows):
            lines.append(
                f"UNWIND {part} AS row MATCH (a:{source.title()} {{id: row.source}}) "
                f"MATCH (b:{target.title()} {{id: row.target}}) "
                f"MERGE (a)-[r:{_label(label)} {{type: row.facts.type}}]->(b) SET r += row.facts;"
            )
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _label(name: str) -> str:
    return f"`{_NOT_IN_LABELS.sub('_', name).strip('_ ') or 'other'}`"


def _parts(rows: list[dict[str, Any]]) -> Iterator[str]:
    for start in range(0, len(rows), _ROWS):
        yield _literal(rows[start : start + _ROWS])


def _literal(value: Any) -> str:
    """A value in Cypher."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    r"""A text as a Cypher literal.

    Some versions of Neo4j replace ``\uXXXX`` before they look for the end of a literal, whatever
    stands before it. So no ``u`` follows a backslash: the literal is cut there.
    """
    made: list[str] = []
    for char in _clean(text):
        if char == "u" and made[-1:] == [_ESCAPED["\\"]]:
            made.append('" + "u')
        else:
            made.append(_ESCAPED.get(char, char))
    return f'"{"".join(made)}"'


# Control characters have no short form but these, and a long one begins with \u.
_ESCAPED = dict.fromkeys(map(chr, range(32)), "\ufffd") | {
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\\": "\\\\",
    '"': '\\"',
    "'": "\\'",
}

# ---------------------------------------------------------------------------------------- Turtle


def turtle(graph: Graph) -> bytes:
    """The graph as RDF in Turtle: a triple for each edge, and a statement of how often and where.

    Raises ``UsageError`` where rdflib is not installed.
    """
    try:
        from rdflib import RDF, RDFS, BNode, Literal, Namespace, URIRef
        from rdflib import Graph as Triples
    except ImportError:
        raise _missing("rdflib") from None
    made = Triples()
    own, types, labels = (Namespace(_BASE + name) for name in ("", "type/", "relation/"))
    for prefix, space in (("iepile", own), ("type", types), ("relation", labels)):
        made.bind(prefix, space)

    def named(space: Any, name: str) -> Any:
        return URIRef(space + quote(_clean(name), safe=""))

    for node, evidence in graph.nodes.items():
        subject = URIRef(_BASE + node.id)
        made.add((subject, RDF.type, own[node.kind.title()]))
        if node.type:
            made.add((subject, RDF.type, named(types, node.type)))
            made.add((named(types, node.type), RDFS.label, Literal(_clean(node.type))))
        made.add((subject, RDFS.label, Literal(_clean(node.name))))
        made.add((subject, own["count"], Literal(evidence.count)))
    for number, (edge, evidence) in enumerate(graph.edges.items()):
        mentions = edge.source.kind == "document"
        predicate = own[_MENTIONS] if mentions else named(labels, edge.label)
        source, target = URIRef(_BASE + edge.source.id), URIRef(_BASE + edge.target.id)
        made.add((source, predicate, target))
        made.add((predicate, RDFS.label, Literal(_clean(edge.label))))
        statement = BNode(f"s{number}")
        made.add((statement, RDF.type, RDF.Statement))
        made.add((statement, RDF.subject, source))
        made.add((statement, RDF.predicate, predicate))
        made.add((statement, RDF.object, target))
        made.add((statement, own["count"], Literal(evidence.count)))
        if evidence.score is not None:
            made.add((statement, own["score"], Literal(evidence.score)))
        for document in evidence.documents:
            page = URIRef(_BASE + Node("document", "", document).id)
            made.add((statement, own["document"], page))
    written: bytes = made.serialize(format="turtle", encoding="utf-8")
    return written


def _missing(library: str) -> UsageError:
    return UsageError(f"{library} is not installed", hint=install_hint("graphs"))


GRAPHS: Mapping[str, Callable[[Graph], bytes]] = {
    "graphml": graphml,
    "cypher": cypher,
    "turtle": turtle,
}


class GraphFile:
    """The graph of many texts, to be written in one of ``GRAPHS``.

    Raises ``UsageError`` where the library for it is not installed: before anything is computed.
    """

    def __init__(self, form: str) -> None:
        self._write = GRAPHS[form]
        self._graph = Graph()
        self.written()

    def add(self, found: Annotation) -> None:
        """Add the annotation of a text, which its ``identity`` names."""
        source, line, own = (found.identity.get(key) for key in ("source", "line", "id"))
        name = "document" if source is None else str(source)
        if own is not None:
            name = str(own)
        elif line is not None:
            name = f"{name}:{line}"
        self._graph.add(found, name)

    def written(self) -> bytes:
        """The graph as the form has it."""
        return self._write(self._graph)

"""Text of Word documents and of presentations (Office Open XML, transitional or strict).

Read are paragraphs, tables, text boxes, footnotes and endnotes, of presentations also the notes
and diagrams of each slide. Left out: what was deleted under tracked changes, comments, headers and
footers of pages, charts.
"""

from __future__ import annotations

from typing import Any

from iepile_cli.documents.archive import Archive, attribute, local
from iepile_cli.documents.text import Extracted, Paragraphs, of_pages
from iepile_cli.errors import DataError

# What is not shown, or shown a second time, with all that is in it.
_SKIPPED = frozenset({"Fallback", "moveFrom", "del", "instrText", "sectPr", "pPr", "rPr", "tblPr"})
_NOTES = ("footnotes", "endnotes")
_OF_SLIDE = ("diagramData", "notesSlide")


def docx(data: bytes, encoding: str | None = None) -> Extracted:
    """The text of a Word document; raises ``DataError`` for one that is damaged."""
    archive = Archive(data)
    main = _main_part(archive)
    text = Paragraphs()
    add_text(archive.xml(main), text)
    for kind, part in archive.related(main).values():
        if kind in _NOTES and part in archive:
            add_text(archive.xml(part), text)
    return Extracted(text.text())


def pptx(data: bytes, encoding: str | None = None) -> Extracted:
    """The text of a presentation, slide by slide; raises ``DataError`` for one that is damaged."""
    archive = Archive(data)
    main = _main_part(archive)
    related = archive.related(main)
    slides = []
    for element in archive.xml(main).iter():
        if local(element) == "sldId":
            relation = next((v for k, v in element.attrib.items() if k.endswith("}id")), "")
            slides.append(_slide(archive, related.get(relation, ("", ""))[1]))
    return of_pages(slides)


def _main_part(archive: Archive) -> str:
    found = (part for kind, part in archive.related("").values() if kind == "officeDocument")
    main = next(found, "")
    if not main:
        raise DataError("is damaged: it does not say where its text is")
    return main


def _slide(archive: Archive, part: str) -> str:
    text = Paragraphs()
    add_text(archive.xml(part), text)
    for kind, other in archive.related(part).values():
        if kind in _OF_SLIDE and other in archive:
            add_text(archive.xml(other), text)
    return text.text()


def add_text(root: Any, text: Paragraphs) -> None:
    """Add the text of a part; Word and PowerPoint call their elements alike."""
    from lxml import etree

    walk = etree.iterwalk(root, events=("start", "end"))
    in_cells = 0
    for event, element in walk:
        name = local(element)
        if event == "start":
            if name in _SKIPPED or _is_decoration(element, name):
                walk.skip_subtree()
            elif name == "t":
                text.run(element.text or "")
            elif name in ("tab", "ptab"):
                text.run("\t")
            elif name in ("br", "cr"):
                text.line()
            elif name == "noBreakHyphen":
                text.run("-")
            in_cells += name == "tc"
        elif name == "p":
            text.run(" ") if in_cells else text.paragraph()
        elif name == "tc":
            in_cells -= 1
            text.run(" ") if in_cells else text.cell()
        elif name == "tr" and not in_cells:
            text.line()
        elif name == "tbl" and not in_cells:
            text.paragraph()


def _is_decoration(element: Any, name: str) -> bool:
    """Whether an element is the number or date of a slide, or the line above footnotes."""
    if name == "fld":
        return attribute(element, "type").startswith(("slidenum", "datetime"))
    return name in ("footnote", "endnote") and attribute(element, "type") in (
        "separator",
        "continuationSeparator",
    )

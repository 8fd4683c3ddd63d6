"""Text of OpenDocument files: texts, and presentations slide by slide.

Left out: tracked deletions, comments, headers and footers of pages.
"""

from __future__ import annotations

from typing import Any

from iepile_cli.documents.archive import Archive, attribute, local
from iepile_cli.documents.text import Extracted, Paragraphs, of_pages
from iepile_cli.errors import DataError

_SKIPPED = frozenset(
    {"tracked-changes", "annotation", "automatic-styles", "note-citation", "forms"}
)
_INLINE_SPACES = {"tab": "\t", "line-break": "\n"}


def read(data: bytes, encoding: str | None = None) -> Extracted:
    """The text of a file; raises ``DataError`` for one that is damaged or encrypted."""
    archive = Archive(data)
    if "META-INF/manifest.xml" in archive:
        manifest = archive.xml("META-INF/manifest.xml")
        if any(local(element) == "encryption-data" for element in manifest.iter()):
            raise DataError("is encrypted", hint="save it without a password first")
    root = archive.xml("content.xml")
    slides = [element for element in root.iter() if local(element) == "page"]
    if slides:
        return of_pages([_text(slide) for slide in slides])
    return Extracted(_text(root))


def _text(root: Any) -> str:
    """The text below an element."""
    from lxml import etree

    text = Paragraphs()
    walk = etree.iterwalk(root, events=("start", "end"))
    open_paragraphs = in_cells = 0
    for event, element in walk:
        name = local(element)
        if event == "start":
            if name in _SKIPPED or not name:
                walk.skip_subtree()
                continue
            open_paragraphs += name in ("p", "h")
            in_cells += name == "table-cell"
            if open_paragraphs:
                text.run(_INLINE_SPACES.get(name, ""))
                text.run(" " * int(attribute(element, "c") or 1) if name == "s" else "")
                text.run(element.text or "")
        else:
            if name in ("p", "h"):
                open_paragraphs -= 1
                text.run(" ") if in_cells or open_paragraphs else text.paragraph()
            elif name == "table-cell":
                in_cells -= 1
                text.run(" ") if in_cells else text.cell()
            elif name == "table-row" and not in_cells:
                text.line()
            if open_paragraphs and element is not root:
                text.run(element.tail or "")
    return text.text()

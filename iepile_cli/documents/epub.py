"""Text of EPUB books: their chapters in reading order."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

from iepile_cli.documents.archive import Archive, attribute, local
from iepile_cli.documents.markup import markup, markup_text
from iepile_cli.documents.text import Extracted, not_read, tidy
from iepile_cli.errors import DataError

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_CHAPTERS = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def read(data: bytes, encoding: str | None = None) -> Extracted:
    """The text of a book; raises ``DataError`` for one that is damaged or encrypted."""
    archive = Archive(data)
    chapters = _chapters(archive)
    locked = _encrypted(archive)
    if locked.intersection(chapters):
        raise DataError("is encrypted (DRM)", hint="its publisher may have one without")
    missing = [name for name in chapters if name not in archive]
    parts = [markup_text(markup(archive.bytes(name))[0]) for name in chapters if name in archive]
    return Extracted(tidy("\n\n".join(filter(None, parts))), notes=not_read(missing))


def _chapters(archive: Archive) -> list[str]:
    """The names of the chapters' files, in the order of the spine."""
    roots = [
        attribute(element, "full-path")
        for element in archive.xml(_CONTAINER).iter()
        if local(element) == "rootfile"
    ]
    if not roots:
        raise DataError("is damaged: it names no book")
    package = archive.xml(roots[0])
    folder = posixpath.dirname(roots[0])
    items: dict[str, str] = {}
    for element in package.iter():
        if local(element) == "item" and attribute(element, "media-type") in _CHAPTERS:
            target = posixpath.join(folder, unquote(attribute(element, "href")))
            items[attribute(element, "id")] = posixpath.normpath(target)
    order = [attribute(e, "idref") for e in package.iter() if local(e) == "itemref"]
    return [items[name] for name in order if name in items]


def _encrypted(archive: Archive) -> set[str]:
    if _ENCRYPTION not in archive:
        return set()
    references = archive.xml(_ENCRYPTION).iter()
    return {unquote(attribute(e, "URI")) for e in references if local(e) == "CipherReference"}

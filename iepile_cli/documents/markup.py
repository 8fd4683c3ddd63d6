"""Text of web pages: what is read of them, paragraph by paragraph.

Of a page its main text: the one ``main`` or ``article`` where there is one, else the body, without
navigation, banners, asides, footers, scripts and what is hidden. Of mails and chapters all that is
shown.
"""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from typing import Any

from iepile_cli.documents.text import Extracted, Paragraphs
from iepile_cli.encodings import decode_any
from iepile_cli.errors import DataError


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_NEVER_SHOWN = _names(
    "script style noscript template head svg math iframe object canvas audio video select "
    "datalist textarea button"
)
_AROUND = _names("nav aside footer header dialog menu")
_ROLES_AROUND = _names("navigation banner contentinfo complementary search menu menubar")
_PARAGRAPHS = _names(
    "p div section article main h1 h2 h3 h4 h5 h6 ul ol dl table blockquote pre figure figcaption "
    "address details summary fieldset form hr body header footer nav aside caption"
)
_LINES = _names("br li dt dd tr option legend")
_CELLS = _names("td th")
_HIDDEN = re.compile(r"(display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_CHARSET = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_DECLARED_WITHIN = 2048
_LATIN = ("iso-8859-1", "latin1", "latin-1", "us-ascii", "utf-8")
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(data: bytes, encoding: str | None = None) -> Extracted:
    """The main text of a page; raises ``DataError`` where it does not decode."""
    page, notes = markup(data, encoding)
    return Extracted(markup_text(page, main=True), notes=notes)


def markup(data: bytes, encoding: str | None = None) -> tuple[str, tuple[str, ...]]:
    """Decode a page, with a note where its encoding was guessed; raises ``DataError``.

    The encoding is the one given, else what a byte order mark says, UTF-8, what the page declares,
    or the one that it seems to be in.
    """
    if encoding is None and not data.startswith(_MARKS):
        # Browsers leave these out.
        data = data.replace(b"\0", b"")
    declared = _CHARSET.search(data[:_DECLARED_WITHIN])
    if encoding is None and declared and not data.startswith(_MARKS):
        try:
            # What is declared is not always true: UTF-8 proves itself.
            return data.decode("utf-8"), ()
        except UnicodeDecodeError:
            name = declared.group(1).decode("ascii").lower()
        with suppress(UnicodeError, LookupError):
            # As browsers do: Latin-1 is the part of the encoding of Windows that it shares.
            return data.decode("cp1252" if name in _LATIN else name), ()
    return decode_any(data, encoding)


def markup_text(page: str, *, main: bool = False) -> str:
    """The text of HTML; with ``main`` only what is not around it; raises ``DataError``."""
    from lxml import etree, html

    parser = html.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True)
    try:
        root = html.document_fromstring(page.encode("utf-8", "replace"), parser)
    except etree.ParserError:
        return ""
    # The parser ends there without an exception, and what follows would be lost in silence.
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
        raise DataError("is nested too deeply, or too large, to be read as HTML")
    top = _main(root) if main else root
    text = _text(top, skip_around=main)
    # A page whose main part is filled in by a script has its text elsewhere, if at all.
    return text if text or top is root else _text(root, skip_around=False)


def _main(root: Any) -> Any:
    for path in (".//main", ".//*[@role='main']", ".//article"):
        found = root.findall(path)
        if len(found) == 1:
            return found[0]
    return root


def _text(root: Any, *, skip_around: bool) -> str:
    from lxml import etree

    text = Paragraphs()
    walk = etree.iterwalk(root, events=("start", "end"))
    preformatted = in_cells = 0

    def add(words: str | None) -> None:
        (text.run if preformatted else text.words)(words or "")

    for event, element in walk:
        name = element.tag if isinstance(element.tag, str) else ""
        breaks = name in _PARAGRAPHS or name in _LINES
        if event == "start":
            if _skipped(element, name, skip_around and element is not root):
                walk.skip_subtree()
                continue
            if breaks and not in_cells:
                text.paragraph() if name in _PARAGRAPHS else text.line()
            preformatted += name == "pre"
            in_cells += name in _CELLS
            add(element.text)
            continue
        preformatted -= name == "pre" and not _skipped(element, name, skip_around)
        if name in _CELLS:
            in_cells -= 1
            text.run(" ") if in_cells else text.cell()
        elif breaks and in_cells:
            text.run(" ")
        elif breaks:
            text.paragraph() if name in _PARAGRAPHS else text.line()
        if element is not root:
            add(element.tail)
    return text.text()


def _skipped(element: Any, name: str, skip_around: bool) -> bool:
    if name in _NEVER_SHOWN or not name:
        return True
    shown = element.attrib
    if "hidden" in shown or shown.get("aria-hidden") == "true":
        return True
    if _HIDDEN.search(shown.get("style", "")):
        return True
    if not skip_around:
        return False
    # The header of an article holds its title, that of the page the site's name and menus.
    if name == "header":
        return not any(above.tag in ("article", "main") for above in element.iterancestors())
    return name in _AROUND or shown.get("role") in _ROLES_AROUND

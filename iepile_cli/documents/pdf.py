"""Text of PDF files, page by page, with the lines of a paragraph put together."""

from __future__ import annotations

import re
from typing import Any

from iepile_cli.documents.text import Extracted, not_read, of_pages
from iepile_cli.errors import DataError

# PDFium's sign for a hyphen at the end of a line, and the sign after it.
_HYPHEN = re.compile("[\x02\ufffe](?:\r?\n)?(.?)")
# A line at least this long, in shares of the page's long lines, goes on in the next one.
_FULL = 0.75
_LIST_ITEM = re.compile(
    r"\s*(?:[\u2022\u2023\u25aa\u25cf\u25e6\u2013\u2014*\-]\s|\(?\w{1,3}[.)]\s)"
)
# From here on, scripts are written without spaces between words.
_UNSPACED = "\u2e80"


def read(data: bytes, encoding: str | None = None) -> Extracted:
    """The text of a PDF; raises ``DataError`` for one that is encrypted, damaged or a scan."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise DataError(
                "is encrypted: it opens only with a password",
                hint="save a copy without one, e.g. with qpdf --decrypt",
            ) from None
        raise DataError("is damaged: no PDF reader can open it") from None
    pages: list[str] = []
    empty: list[int] = []
    try:
        for number in range(len(document)):
            text, has_pictures = _page(document, number)
            pages.append(unwrapped(text))
            if has_pictures and not text.strip():
                empty.append(number + 1)
    finally:
        document.close()
    if not any(map(str.strip, pages)):
        what = "its pages are pictures" if empty else "its pages are empty"
        hint = "recognise its text first, e.g. with ocrmypdf" if empty else ""
        raise DataError(f"holds no text: {what}", hint=hint)
    return of_pages(pages, not_read([f"page {number} (a picture)" for number in empty]))


def _page(document: Any, number: int) -> tuple[str, bool]:
    """The text of a page, and whether a page without text has pictures."""
    import pypdfium2
    from pypdfium2 import raw

    try:
        page = document[number]
        shown = page.get_textpage()
        text: str = shown.get_text_bounded()
        pictures = [] if text.strip() else page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE])
        has_pictures = any(True for _ in pictures)
        shown.close()
        page.close()
    except pypdfium2.PdfiumError:
        raise DataError(f"is damaged: page {number + 1} cannot be read") from None
    return text, has_pictures


def unwrapped(page: str) -> str:
    """A page's text with the lines of each paragraph joined, and words that were hyphenated.

    A PDF does not say where paragraphs end. A line that is nearly as long as the page's long ones
    goes on in the next, unless that begins like an item of a list.
    """
    page = _HYPHEN.sub(_without_hyphen, page)
    lines = page.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lengths = sorted(len(line) for line in lines if line.strip())
    if not lengths:
        return ""
    full = _FULL * lengths[min(int(0.9 * len(lengths)), len(lengths) - 1)]
    parts: list[str] = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        parts.append(line.rstrip())
        goes_on = len(line) >= full and following.strip() and not _LIST_ITEM.match(following)
        parts.append(_joint(line, following) if goes_on else "\n")
    return "".join(parts)


def _without_hyphen(found: re.Match[str]) -> str:
    """What follows a hyphen, which belongs to names and numbers (``M-52``, ``Rhône-Alpes``)."""
    following = found.group(1)
    return following if following.islower() else f"-{following}"


def _joint(line: str, following: str) -> str:
    """What stands between two lines of a paragraph: nothing in scripts without spaces."""
    return "" if min(line.rstrip()[-1:], following.lstrip()[:1]) >= _UNSPACED else " "

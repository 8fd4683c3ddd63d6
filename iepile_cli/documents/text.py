"""The text of a document, put together from its paragraphs, table rows and pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate

# What a text cannot use and terminals obey: controls but tab and line feed, and non-characters;
# signs that say where a line may or may not end.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff\ufdd0-\ufdef\ufffe\uffff]"
)
# Spaces of all widths, but that of East Asian writing.
_WIDTHS = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")
_WHITE = re.compile(r"[ \t\n\r\f]+")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[ \t]+(?=\n)")
_BLANK_LINES = re.compile("\n{3,}")


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a document holds.

    ``pages`` are the offsets in ``text`` at which its pages or slides begin, the first one at 0;
    empty where it has none. ``notes`` say what of it was not read, and the encoding that was
    guessed, each without the file's name.
    """

    text: str
    pages: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def tidy(text: str) -> str:
    """The text with line feeds alone as line ends, at most one blank line, and no controls.

    Spaces are of one kind.
    """
    text = _WIDTHS.sub(" ", _CONTROLS.sub("", _LINE_ENDS.sub("\n", text)))
    return _BLANK_LINES.sub("\n\n", _SPACES.sub("", text)).strip("\n")


# So many of the parts that were not read are named.
_NAMED = 8


def not_read(parts: list[str]) -> tuple[str, ...]:
    """The note that names the parts of a document that were not read; none without any."""
    if not parts:
        return ()
    more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return (f"not read: {', '.join(parts[:_NAMED])}{more}",)


def of_pages(pages: list[str], notes: tuple[str, ...] = ()) -> Extracted:
    """The text of a document whose pages are given; a blank line parts them."""
    parts = [f"{page}\n\n" if page else "" for page in map(tidy, pages)]
    starts = list(accumulate(map(len, parts[:-1]), initial=0))
    text = "".join(parts)
    return Extracted(text.removesuffix("\n\n"), tuple(starts), notes)


class Paragraphs:
    """Text that grows by runs, lines, cells and paragraphs, as a walk over a document meets them.

    Nothing is written twice: a paragraph that is empty leaves no blank line.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._line: list[str] = []
        self._gap = ""

    def run(self, text: str) -> None:
        """Add to the line."""
        if text:
            self._line.append(text)

    def words(self, text: str) -> None:
        """Add to the line, with each run of white space as one blank."""
        text = _WHITE.sub(" ", text)
        if text[:1] == " " and (not self._line or self._line[-1][-1:].isspace()):
            text = text[1:]
        self.run(text)

    def line(self) -> None:
        """End the line; the next one follows below it."""
        self._end("\n")

    def paragraph(self) -> None:
        """End the paragraph: a blank line follows."""
        self._end("\n\n")

    def cell(self) -> None:
        """End a cell of a table's row; the next one follows after a tab."""
        if self._line:
            self._line = ["".join(self._line).strip(" \n")]
        self._line.append("\t")

    def text(self) -> str:
        """All that was added, tidied."""
        self.paragraph()
        return tidy("".join(self._parts))

    def _end(self, gap: str) -> None:
        line = "".join(self._line).strip()
        self._line = []
        if line:
            self._parts += [self._gap, line]
            self._gap = gap
        elif len(gap) > len(self._gap) and self._parts:
            self._gap = gap

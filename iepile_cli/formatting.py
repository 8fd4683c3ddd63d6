"""How counts, sizes and tables are written for people."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence

_GAP = 2
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def plural(count: int, noun: str) -> str:
    """A count with its noun: ``1 record``, ``2,000 records``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in seconds as people say it: ``0.8 s``, ``34 s``, ``2 min 10 s``, ``3 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def readable_size(size: int | None) -> str:
    """A number of bytes for people, in decimal units: ``26.5 GB``; ``None`` is not known."""
    if size is None:
        return "size unknown"
    amount, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        # What would be rounded to 1000 belongs to the larger unit.
        if round(amount) < 1000:
            break
        amount, unit = amount / 1000, larger
    digits = 0 if unit == "B" or round(amount, 1) >= 100 else 1
    return f"{amount:.{digits}f} {unit}"


# C0 and C1 controls become pictures or a mark; line feeds stay; what overrides the direction of
# writing, and interlinear and tag characters, become a mark.
_SAFE: dict[int, str] = (
    {code: chr(0x2400 + code) for code in range(0x20)}
    | {code: "\ufffd" for code in (*range(0x7F, 0xA0), *range(0x202A, 0x202F))}
    | {code: "\ufffd" for code in (*range(0x2066, 0x206A), *range(0xFFF9, 0xFFFC))}
    | {code: "\ufffd" for code in (*range(0xD800, 0xE000), *range(0xE0000, 0xE0080))}
    | {ord("\n"): "\n", ord("\t"): " ", ord("\r"): " ", 0x2028: " ", 0x2029: " "}
)


def safe(text: str) -> str:
    """The text without what a terminal would obey; as long as before."""
    return text.translate(_SAFE)


def one_line(text: str) -> str:
    """The text, safe and on one line; as long as before."""
    return safe(text).replace("\n", " ")


class Styled(str):
    """A table cell in a style: bold, dim, red, green or yellow."""

    __slots__ = ("style",)
    style: str

    def __new__(cls, text: str, style: str) -> Styled:
        """Give a text a style."""
        made = super().__new__(cls, text)
        made.style = style
        return made


def _safe_cell(cell: str) -> str:
    return Styled(safe(cell), cell.style) if isinstance(cell, Styled) else safe(cell)


def cell_width(text: str) -> int:
    """The number of columns that a text takes on a terminal; wide characters take two."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most so many columns, broken between words; only a longer word is broken."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            if line and cell_width(line) + 1 + cell_width(word) <= width:
                line = f"{line} {word}"
                continue
            lines += [line] if line else []
            *full, line = _pieces(word, max(2, width))
            lines += full
        lines.append(line)
    return lines


def _pieces(word: str, width: int) -> list[str]:
    pieces = [""]
    for char in word:
        if cell_width(pieces[-1] + char) > width:
            pieces.append("")
        pieces[-1] += char
    return pieces


def table_lines(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    right: Collection[str] = (),
    optional: Sequence[str] = (),
    colour: bool = False,
) -> Iterator[str]:
    """The lines of a table that fits a width (in columns).

    Words are kept whole: where the columns do not fit even when wrapped between words, those of
    ``optional`` are left out, the last first, and then each row becomes a block of its own.
    ``right`` names the columns aligned to the right. Cells are made ``safe``.
    """
    rows = [[_safe_cell(cell) for cell in row] for row in rows]
    for left_out in range(len(optional) + 1):
        dropped = set(optional[len(optional) - left_out :])
        kept = [place for place, name in enumerate(header) if name not in dropped]
        shown = [[row[place] for place in kept] for row in rows]
        names = [header[place] for place in kept]
        widths = _widths([names, *shown], width)
        if widths:
            yield from _columns(names, shown, widths, right, colour)
            return
    for row in rows:
        yield from _block(header, row, width, colour)


def _widths(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The width of each column, or nothing when the table does not fit."""
    columns = list(zip(*rows, strict=True))
    widths = [max(cell_width(line) for cell in col for line in cell.split("\n")) for col in columns]
    least = [max(cell_width(w) for cell in col for w in cell.split() or [""]) for col in columns]
    room = width - _GAP * (len(columns) - 1)
    if sum(least) > room:
        return []
    while sum(widths) > room:
        widest = max(
            (place for place in range(len(widths)) if widths[place] > least[place]),
            key=widths.__getitem__,
        )
        widths[widest] -= 1
    return widths


def _columns(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: Sequence[int],
    right: Collection[str],
    colour: bool,
) -> Iterator[str]:
    titles = [Styled(name, "bold") for name in header]
    for row in [titles, *rows] if any(header) else rows:
        cells = [wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            line = []
            for name, cell, lines, width in zip(header, row, cells, widths, strict=True):
                text = lines[number] if number < len(lines) else ""
                space = " " * (width - cell_width(text))
                shown = paint(text, getattr(cell, "style", ""), colour)
                line.append(space + shown if name in right else shown + space)
            yield (" " * _GAP).join(line).rstrip()


def _block(header: Sequence[str], row: Sequence[str], width: int, colour: bool) -> Iterator[str]:
    for place, (name, cell) in enumerate(zip(header, row, strict=True)):
        if not cell:
            continue
        style = getattr(cell, "style", "" if place else "bold")
        text = cell if not place or not name else f"{name}: {cell}"
        for line in wrap(text, width - 2 * bool(place)):
            yield "  " * bool(place) + paint(line, style, colour)


def paint(text: str, style: str, colour: bool) -> str:
    """A text in a style, by the control sequences of a terminal."""
    if not colour or not style or not text:
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"

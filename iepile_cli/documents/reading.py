"""The text of any file: of documents what they hold, of others the text that they are."""

from __future__ import annotations

from io import BufferedReader

from iepile_cli import files
from iepile_cli.documents.formats import BY_NAME, format_of, is_document
from iepile_cli.documents.text import Extracted
from iepile_cli.encodings import decode_any
from iepile_cli.errors import DataError, install_hint

PLAIN = "text"
# Files larger than this are no single text; in bytes.
MAX_SIZE = 1 << 30
_HEAD = 1024


def read(
    stream: BufferedReader,
    suffix: str = "",
    *,
    kind: str | None = None,
    encoding: str | None = None,
) -> Extracted:
    """The text of an open file; raises ``DataError``, without a path, for one that has none.

    What it is follows from its content and its ``suffix``, unless ``kind`` says it: the name of a
    format, or ``text`` for plain text. ``encoding`` None is UTF-8, what a byte order mark or the
    document says, or else the one that it seems to be in, which is noted.
    """
    head = stream.peek(_HEAD)[:_HEAD]
    data = stream.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise DataError(
            f"is larger than {MAX_SIZE >> 30} GiB", hint="a text a line is read with --lines"
        )
    if not data.strip() or kind == PLAIN or (kind is None and not is_document(suffix, head)):
        return _plain(data, encoding)
    found = BY_NAME[kind] if kind else format_of(data, suffix)
    if found.is_text and found.missing:
        plain = _plain(data, encoding)
        note = (
            f"read as plain text, with its marks: {found.title} is read with "
            f"{' and '.join(found.missing)}; {install_hint('documents')}"
        )
        return Extracted(plain.text, notes=(*plain.notes, note))
    return found.read(data, encoding)


def read_text(path: files.StrPath | None, encoding: str | None = None) -> str:
    """The text of a file, as ``extract`` reads it; raises ``DataError``."""
    suffix = files.suffix(path) if path is not None else ""
    with files.open_input(path) as source:
        try:
            return read(source.stream, suffix, encoding=encoding).text
        except DataError as error:
            raise error.at(files.display_name(path)) from None


def _plain(data: bytes, encoding: str | None) -> Extracted:
    text, notes = decode_any(data, encoding)
    return Extracted(text, notes=notes)

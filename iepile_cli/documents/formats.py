"""The kinds of documents that are read: by which suffix and content, by what, and with what."""

from __future__ import annotations

import importlib
import io
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from iepile_cli.documents.text import Extracted
from iepile_cli.errors import DataError, install_hint

_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PDF = b"%PDF-"
# A file may have some bytes of a download before its PDF begins.
_PDF_WITHIN = 1024


@dataclass(frozen=True)
class Format:
    """A kind of document.

    ``title`` is what messages call it; ``reader`` is ``"module:function"`` of its bytes, which
    gives ``Extracted`` or raises ``DataError`` without a path. ``needs`` are the modules without
    which it cannot be read; ``begins`` is how each file of it begins, and ``member`` a file that
    only archives of this kind hold. ``is_text``: without its library it is read as plain text.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    reader: str
    needs: tuple[str, ...] = ()
    begins: bytes = b""
    member: str = ""
    is_text: bool = False

    @property
    def missing(self) -> list[str]:
        """The modules that it needs and that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]

    def read(self, data: bytes, encoding: str | None = None) -> Extracted:
        """The text of a document of this kind; raises ``DataError`` without a path.

        ``encoding`` is that of text kinds, where they do not say it themselves.
        """
        if missing := self.missing:
            raise DataError(
                f"{self.title} is read with {' and '.join(missing)}, which is not installed",
                hint=install_hint("documents"),
            )
        module, _, function = self.reader.partition(":")
        read: Any = getattr(importlib.import_module(module), function)
        try:
            found: Extracted = read(data, encoding)
        except DataError:
            raise
        # Of hostile or damaged files the libraries raise whatever comes up in them.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"cannot be read as {self.title}: {reason}") from error
        return found


def _row(name: str, title: str, suffixes: str, reader: str, needs: str = "", **more: Any) -> Format:
    target = f"iepile_cli.documents.{reader}"
    return Format(name, title, tuple(suffixes.split()), target, tuple(needs.split()), **more)


FORMATS = (
    _row("pdf", "a PDF", ".pdf", "pdf:read", "pypdfium2", begins=_PDF),
    _row("docx", "a Word document", ".docx .docm", "office:docx", "lxml", member="word/"),
    _row("pptx", "a presentation", ".pptx .pptm", "office:pptx", "lxml", member="ppt/"),
    _row(
        "opendocument",
        "an OpenDocument file",
        ".odt .odp .ott .otp",
        "opendocument:read",
        "lxml",
        member="content.xml",
    ),
    _row("epub", "an EPUB", ".epub", "epub:read", "lxml", member="META-INF/container.xml"),
    _row("rtf", "an RTF document", ".rtf", "rtf:read", "striprtf", begins=b"{\\rtf"),
    _row("msg", "an Outlook message", ".msg", "mail:msg", "oxmsg", begins=_OLE),
    _row("eml", "a mail", ".eml .mht .mhtml", "mail:eml"),
    _row("html", "HTML", ".html .htm .xhtml", "markup:read", "lxml", is_text=True),
    _row("markdown", "Markdown", ".md .markdown", "markdown:read", "markdown_it", is_text=True),
)
_BY_SUFFIX = {suffix: found for found in FORMATS for suffix in found.suffixes}
BY_NAME = {found.name: found for found in FORMATS}
SUFFIXES = frozenset(_BY_SUFFIX)

# Files of other programs, by a name inside them: what they are, and the way out.
_UNREAD_MEMBERS = (
    ("xl/", "is a spreadsheet", "save it as CSV"),
    ("mimetype", "is an OpenDocument file without text", "save it as .odt or CSV"),
)
_UNREAD_STREAMS = (
    ("EncryptedPackage", "is encrypted", "save it without a password first"),
    ("WordDocument", "is a Word document of before 2007", "save it as .docx first"),
    ("PowerPoint Document", "is a presentation of before 2007", "save it as .pptx first"),
    ("Workbook", "is a spreadsheet of before 2007", "save it as CSV first"),
)


def is_document(suffix: str, head: bytes) -> bool:
    """Whether a file is a document, by its suffix ("" for none) or by how its content begins."""
    return suffix in _BY_SUFFIX or _by_content(head, suffix) is not None


def format_of(data: bytes, suffix: str = "") -> Format:
    """What kind of document the bytes are, by content before suffix.

    Raises ``DataError``, without a path, for none that is read.
    """
    named = _BY_SUFFIX.get(suffix)
    if not data.strip():
        raise DataError("is empty: it holds no text")
    found = _by_content(data[:_PDF_WITHIN], suffix)
    if data.startswith(_ZIP):
        return _in_archive(data)
    if data.startswith(_OLE):
        return _in_compound_file(data)
    if found is not None:
        return found
    if named is not None and (named.begins or named.member):
        raise DataError(f"is not {named.title}, whatever its name says: it is damaged or misnamed")
    assert named is not None
    return named


def _by_content(head: bytes, suffix: str) -> Format | None:
    """The kind that the beginning of a file tells; archives and compound files are one of theirs.

    Only for what is called like no text is HTML told by its content.
    """
    if head.startswith(_PDF) or (suffix == ".pdf" and _PDF in head[:_PDF_WITHIN]):
        return BY_NAME["pdf"]
    if head.startswith(_ZIP):
        return BY_NAME["docx"]
    if head.startswith(_OLE):
        return BY_NAME["msg"]
    if head.startswith(BY_NAME["rtf"].begins):
        return BY_NAME["rtf"]
    if suffix == "" or suffix in SUFFIXES - {".md", ".markdown", ".eml"}:
        start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:32].lower()
        if start.startswith((b"<!doctype html", b"<html")):
            return BY_NAME["html"]
    return None


def _in_archive(data: bytes) -> Format:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise DataError(f"is damaged: {error}") from None
    for found in FORMATS:
        if found.member and any(name.startswith(found.member) for name in names):
            if found.name == "opendocument" and _spreadsheet(data):
                continue
            return found
    for member, what, hint in _UNREAD_MEMBERS:
        if any(name.startswith(member) for name in names):
            raise DataError(what, hint=hint)
    raise DataError("is a zip archive, not text", hint="unpack it first")


def _spreadsheet(data: bytes) -> bool:
    return b"opendocument.spreadsheet" in data[:128]


def _in_compound_file(data: bytes) -> Format:
    # Streams are named in UTF-16 in the file's directory.
    if "__substg1.0_".encode("utf-16-le") in data:
        return BY_NAME["msg"]
    for stream, what, hint in _UNREAD_STREAMS:
        if stream.encode("utf-16-le") in data:
            raise DataError(what, hint=hint)
    raise DataError("is a file of an office program, not text", hint="save it as plain text first")

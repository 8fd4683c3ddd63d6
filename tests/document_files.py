"""Small documents of each kind, as their programs write them, and broken and hostile ones."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from email.message import EmailMessage

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_A = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
_P = 'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"'
_R = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
_O = (
    'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
    'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" '
    'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" '
    'xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0"'
)
_TYPES = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def _relations(targets: Mapping[str, tuple[str, str]]) -> str:
    rows = "".join(
        f'<Relationship Id="{name}" Type="{_TYPES}/{kind}" Target="{target}"/>'
        for name, (kind, target) in targets.items()
    )
    return f'<Relationships xmlns="x">{rows}</Relationships>'


def docx(body: str, footnotes: str = "") -> bytes:
    """A Word document; ``body`` is WordprocessingML, see ``paragraph``."""
    return zipped(
        {
            "[Content_Types].xml": "<Types/>",
            "_rels/.rels": _relations({"rId1": ("officeDocument", "word/document.xml")}),
            "word/document.xml": f"<w:document {_W}><w:body>{body}</w:body></w:document>",
            "word/_rels/document.xml.rels": _relations({"rId2": ("footnotes", "footnotes.xml")}),
            "word/footnotes.xml": f"<w:footnotes {_W}>{footnotes}</w:footnotes>",
        }
    )


def paragraph(*runs: str) -> str:
    return "<w:p>" + "".join(f"<w:r><w:t>{run}</w:t></w:r>" for run in runs) + "</w:p>"


def pptx(slides: Sequence[Sequence[str]], notes: str = "") -> bytes:
    """A presentation; the slides are named against their order."""
    count = len(slides)
    ids = "".join(f'<p:sldId id="{n}" r:id="rId{n}"/>' for n in range(count))
    files = {
        "_rels/.rels": _relations({"rId1": ("officeDocument", "ppt/presentation.xml")}),
        "ppt/presentation.xml": f"<p:presentation {_P} {_R}><p:sldIdLst>{ids}</p:sldIdLst>"
        "</p:presentation>",
        "ppt/_rels/presentation.xml.rels": _relations(
            {f"rId{n}": ("slide", f"slides/slide{count - n}.xml") for n in range(count)}
        ),
        "ppt/notes.xml": f"<p:notes {_P} {_A}><a:p><a:r><a:t>{notes}</a:t></a:r></a:p></p:notes>",
    }
    for n, lines in enumerate(slides):
        rows = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in lines)
        rows += '<a:p><a:fld type="slidenum"><a:t>7</a:t></a:fld></a:p>'
        files[f"ppt/slides/slide{count - n}.xml"] = f"<p:sld {_P} {_A}>{rows}</p:sld>"
    files[f"ppt/slides/_rels/slide{count}.xml.rels"] = _relations(
        {"rId1": ("notesSlide", "../notes.xml")}
    )
    return zipped(files)


def odt(body: str) -> bytes:
    content = f"<office:document-content {_O}><office:body><office:text>{body}"
    return zipped(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "content.xml": f"{content}</office:text></office:body></office:document-content>",
        }
    )


def epub(chapters: Sequence[str], **more: str) -> bytes:
    items = "".join(
        f'<item id="c{n}" href="text%20{n}.xhtml" media-type="application/xhtml+xml"/>'
        for n in range(len(chapters))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container><rootfiles><rootfile full-path="O/b.opf"/>'
            "</rootfiles></container>",
            "O/b.opf": f"<package><manifest>{items}</manifest><spine>{spine}</spine></package>",
            **{f"O/text {n}.xhtml": page for n, page in enumerate(chapters)},
            **more,
        }
    )


def pdf(pages: Sequence[Sequence[str]], *, encrypted: bool = False, picture: bool = False) -> bytes:
    """A PDF with lines of Latin text on each page; ``picture``: a page without text has one."""
    objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    kids = []
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
    objects.append(font)
    objects.append(
        b"<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray "
        b"/BitsPerComponent 8 /Length 1 >>\nstream\n\x80\nendstream"
    )
    for lines in pages:
        shown = b"".join(
            b"1 0 0 1 40 %d Tm (%s) Tj\n" % (780 - 14 * n, _escaped(line))
            for n, line in enumerate(lines)
        )
        drawn = b"BT /F1 11 Tf\n" + shown + b"ET" if lines else b""
        if picture and not lines:
            drawn = b"q 500 0 0 700 40 40 cm /I1 Do Q"
        content = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn)
        objects.append(content)
        kids.append(b"%d 0 R" % (len(objects) + 1))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R /Resources "
            b"<< /Font << /F1 3 0 R >> /XObject << /I1 4 0 R >> >> >>" % len(objects)
        )
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    trailer = b""
    if encrypted:
        key = b"<" + b"5a" * 32 + b">"
        objects.append(b"<< /Filter /Standard /V 1 /R 2 /P -4 /O " + key + b" /U " + key + b" >>")
        trailer = b" /Encrypt %d 0 R /ID [<00> <00>]" % len(objects)
    out = bytearray(b"%PDF-1.4\n")
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R%s >>\n" % (len(objects) + 1, trailer)
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def _escaped(line: str) -> bytes:
    data = line.encode("cp1252")
    return data.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


def eml(body: str, *, page: str = "", attached: str = "", **headers: str) -> bytes:
    message = EmailMessage()
    for name, value in headers.items():
        message[name] = value
    message.set_content(body)
    if page:
        message.add_alternative(page, subtype="html")
    if attached:
        message.add_attachment(b"x", maintype="image", subtype="png", filename=attached)
    return message.as_bytes()


def msg(**texts: str) -> bytes:
    """An Outlook message with ``subject``, ``sender``, ``address`` and ``body``."""
    ids = {"subject": 0x0037, "sender": 0x0C1A, "address": 0x0C1F, "body": 0x1000}
    streams = {
        f"__substg1.0_{ids[name]:04X}001F": text.encode("utf-16-le") for name, text in texts.items()
    }
    entries = b"".join(
        struct.pack("<HHIII", 0x001F, ids[name], 6, len(text.encode("utf-16-le")) + 2, 0)
        for name, text in texts.items()
    )
    return compound_file({"__properties_version1.0": bytes(32) + entries, **streams})


def compound_file(streams: Mapping[str, bytes]) -> bytes:
    """A compound file (OLE2) of small streams in its root."""
    mini, chains, starts = b"", [], []
    for content in streams.values():
        starts.append(len(mini) // 64)
        count = max(1, -(-len(content) // 64))
        chains += [*range(len(chains) + 1, len(chains) + count), 0xFFFFFFFE]
        mini += content.ljust(64 * count, b"\0")
    entries = [_entry("Root Entry", 5, 0, len(mini), child=1)]
    for number, (name, content) in enumerate(streams.items(), 1):
        following = number + 1 if number < len(streams) else 0xFFFFFFFF
        entries.append(_entry(name, 2, starts[number - 1], len(content), right=following))
    sectors: list[bytes] = []
    fat: list[int] = []

    def add(data: bytes) -> int:
        first, count = len(sectors), -(-len(data) // 512)
        for n in range(count):
            sectors.append(data[512 * n : 512 * (n + 1)].ljust(512, b"\0"))
            fat.append(first + n + 1 if n + 1 < count else 0xFFFFFFFE)
        return first

    mini_start = add(mini)
    entries[0] = _entry("Root Entry", 5, mini_start, len(mini), child=1)
    directory = add(b"".join(entries))
    mini_fat = add(struct.pack(f"<{len(chains)}I", *chains).ljust(512, b"\xff"))
    fat_at = len(sectors)
    fat.append(0xFFFFFFFD)
    assert len(fat) <= 128
    sectors.append(struct.pack(f"<{len(fat)}I", *fat).ljust(512, b"\xff"))
    header = struct.pack(
        "<8s16xHHHHH6xIIIIIIIII",
        *(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 0x3E, 3, 0xFFFE, 9, 6),
        *(0, 1, directory, 0, 4096, mini_fat, 1, 0xFFFFFFFE, 0),
    )
    header += struct.pack("<109I", fat_at, *([0xFFFFFFFF] * 108))
    return header.ljust(512, b"\0") + b"".join(sectors)


def _entry(
    name: str, kind: int, start: int, size: int, *, right: int = 0xFFFFFFFF, child: int = 0xFFFFFFFF
) -> bytes:
    encoded = (name + "\0").encode("utf-16-le")
    return struct.pack(
        "<64sHBBIII16x4x16xIII",
        *(encoded, len(encoded), kind, 1, 0xFFFFFFFF, right, child, start, size, 0),
    )

"""What is read of each kind of document, and what is said of those that cannot be read."""

from __future__ import annotations

import io
import re
import typing
from pathlib import Path

import document_files as make
import pytest

from iepile_cli.conversion.readers.results import SourceTexts
from iepile_cli.documents import FORMATS, Extracted, read, read_text
from iepile_cli.documents.archive import MAX_XML
from iepile_cli.errors import DataError
from iepile_cli.extraction.inputs import Document, Kind, read_documents


def read_bytes(data: bytes, suffix: str = "", **options: typing.Any) -> Extracted:
    return read(io.BufferedReader(io.BytesIO(data)), suffix, **options)  # type: ignore[type-var]


def needs(*modules: str) -> None:
    for module in modules:
        pytest.importorskip(module)


WORD = (
    make.paragraph("Ada ", "Keller", " leads.")
    + "<w:tbl><w:tr><w:tc>"
    + make.paragraph("Name")
    + "</w:tc><w:tc>"
    + make.paragraph("Tomás")
    + "</w:tc></w:tr></w:tbl>"
    + "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:ins><w:r><w:t>kept</w:t></w:r>"
    "</w:ins><w:r><w:tab/><w:t>tab</w:t><w:br/><w:t>line</w:t></w:r></w:p>"
    "<w:sdt><w:sdtContent>" + make.paragraph("In a control") + "</w:sdtContent></w:sdt>"
)


def test_a_word_document_gives_paragraphs_tables_insertions_and_notes() -> None:
    needs("lxml")
    note = '<w:footnote w:type="separator"><w:p/></w:footnote><w:footnote>'
    found = read_bytes(make.docx(WORD, note + make.paragraph("A note.") + "</w:footnote>"), ".docx")
    assert found.text == (
        "Ada Keller leads.\n\nName\tTomás\n\nkept\ttab\nline\n\nIn a control\n\nA note."
    )


def test_a_presentation_gives_its_slides_in_their_order_with_notes() -> None:
    needs("lxml")
    slides = [["Title", "Ada Keller"], ["Lisbon"], []]
    found = read_bytes(make.pptx(slides, notes="Say hello"), ".pptx")
    assert found.text == "Title\n\nAda Keller\n\nSay hello\n\nLisbon"
    assert [found.text[start:][:6] for start in found.pages] == ["Title\n", "Lisbon", ""]


def test_an_opendocument_text() -> None:
    needs("lxml")
    body = (
        "<text:h>Head</text:h><text:p>Ada<text:s/><text:span>Keller</text:span> in"
        "<text:tab/>Lisbon<office:annotation><text:p>no</text:p></office:annotation>!</text:p>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>"
        "<table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></table:table>"
    )
    assert read_bytes(make.odt(body), ".odt").text == "Head\n\nAda Keller in\tLisbon!\n\na\tb"


def test_a_book_gives_its_chapters_in_reading_order() -> None:
    needs("lxml")
    pages = ["<html><body><h1>One</h1><p>Ada</p></body></html>", "<html><body>Two</body></html>"]
    assert read_bytes(make.epub(pages), ".epub").text == "One\n\nAda\n\nTwo"


def test_rtf() -> None:
    needs("striprtf")
    data = rb"{\rtf1\ansi\ansicpg1252{\fonttbl\f0 Arial;}\f0 L\'e9a \b Keller\b0\par \u20013?\par}"
    assert read_bytes(data, ".rtf").text == "Léa Keller\n中"


PAGE = """<!doctype html><html><head><title>Site</title><script>alert("Eve")</script></head><body>
<nav><a href="/">Menu</a></nav><header>Banner</header>
<main><article><header><h1>Turbines</h1></header>
<p>L&eacute;a   Lef&egrave;vre &amp; <b>Ada</b>
Keller<br>in Lisbon.</p><ul><li>one</li><li>two</li></ul>
<table><tr><th>Name</th><td><p>Ada</p></td></tr></table><pre>a
  b</pre><p hidden>secret</p><p style="display: none">hidden</p></article></main>
<footer>Imprint</footer></body></html>"""


def test_a_page_gives_its_main_text_with_entities_decoded() -> None:
    needs("lxml")
    assert read_bytes(PAGE.encode(), ".html").text == (
        "Turbines\n\nLéa Lefèvre & Ada Keller\nin Lisbon.\n\none\ntwo\n\nName\tAda\n\na\n  b"
    )


def test_white_space_of_pages_is_that_of_browsers() -> None:
    needs("lxml")
    page = "<p>Ada <b> Kel\u00adler</b> ,\n 10\u202f000\u00a0km\u200b <i>north</i> </p>\u3000李"
    assert read_bytes(page.encode(), ".html").text == "Ada Keller , 10 000 km north\n\n李"


def test_a_page_without_a_main_part_and_one_that_a_script_fills() -> None:
    needs("lxml")
    assert read_bytes(b"<p>Ada<div>Tom</div>", ".html").text == "Ada\n\nTom"
    filled = b"<html><body><div>Ada</div><main></main></body></html>"
    assert read_bytes(filled, ".html").text == "Ada"


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ('<meta charset="iso-8859-1"><p>Léa “x”'.encode("cp1252"), ""),
        ('<meta charset="iso-8859-1"><p>Léa “x”'.encode(), ""),
        ("<p>Léa “x”".encode("utf-16"), ""),
        ("<p>Léa “x” est à Besançon, où François était très étonné".encode("cp1252"), "cp1252"),
    ],
)
def test_a_pages_encoding_is_what_it_is_not_what_it_says(data: bytes, note: str) -> None:
    needs("lxml")
    found = read_bytes(data, ".html")
    assert found.text.startswith("Léa “x”")
    assert [note in said for said in found.notes] == ([True] if note else [])


def test_markdown_gives_what_its_page_shows() -> None:
    needs("markdown_it")
    source = (
        "# *Ada* Keller\n\nShe **moved** to\n[Lisbon](x.md) &amp; `Porto`.\n\n- one\n- two\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx = 1\ny\n```\n\n"
        "<b>Bold</b><!-- no -->\n\n![pic](p)"
    )
    assert read_bytes(source.encode(), ".md").text == (
        "Ada Keller\n\nShe moved to Lisbon & Porto.\n\none\ntwo\n\na\tb\n1\t2\n\nx = 1\ny\n\n"
        "Bold\n\npic"
    )


def test_a_mail_gives_its_head_and_its_plain_body() -> None:
    data = make.eml(
        "Dear Léa,\n\nsee you.\n",
        page="<p>HTML</p>",
        attached="map.png",
        Subject="Café in Köln",
        From="Ada Keller <ada@example.org>",
        To="Léa <lea@example.org>",
    )
    found = read_bytes(data, ".eml")
    assert found.text == (
        "Subject: Café in Köln\nFrom: Ada Keller <ada@example.org>\nTo: Léa <lea@example.org>\n\n"
        "Dear Léa,\n\nsee you."
    )
    assert found.notes == ("not read: attachment map.png",)


def test_a_mail_of_html_alone_and_one_in_an_unknown_charset() -> None:
    needs("lxml")
    head = b"Subject: x\nContent-Type: text/html; charset=utf-8\n\n"
    assert read_bytes(head + "<p>Léa<p>Tom".encode(), ".eml").text == "Subject: x\n\nLéa\n\nTom"
    odd = b"Subject: x\nContent-Type: text/plain; charset=klingon\n\nAda"
    assert read_bytes(odd, ".eml").text == "Subject: x\n\nAda"


def test_an_outlook_message() -> None:
    needs("oxmsg")
    data = make.msg(subject="Plan", sender="Ada", address="ada@example.org", body="Dear 李,\r\nyes")
    assert read_bytes(data, ".msg").text == (
        'Subject: Plan\nFrom: "Ada" <ada@example.org>\n\nDear 李,\nyes'
    )


PARAGRAPH = [
    "Ada Keller, the chief engineer of Northwind Turbines, moved from the port of",
    "Hamburg to Lisbon.",
    "She works there.",
]


def test_a_pdf_gives_pages_with_the_lines_of_paragraphs_joined() -> None:
    needs("pypdfium2")
    found = read_bytes(make.pdf([PARAGRAPH, [], ["Second (page) Léa"]]), ".pdf")
    first = " ".join(PARAGRAPH[:2])
    assert found.text == f"{first}\nShe works there.\n\nSecond (page) Léa"
    assert [found.text[start:][:6] for start in found.pages] == ["Ada Ke", "Second", "Second"]
    document = Document("a.pdf", found.text, pages=found.pages)
    assert [document.page(at) for at in (0, len(first), found.text.index("Léa"))] == [1, 1, 3]


def test_what_content_says_comes_before_the_suffix(tmp_path: Path) -> None:
    needs("pypdfium2", "lxml")
    assert read_bytes(make.pdf([["Ada"]]), ".txt").text == "Ada"
    assert read_bytes(make.docx(make.paragraph("Ada")), ".pdf").text == "Ada"
    assert read_bytes(PAGE.encode(), ".pdf").text.startswith("Turbines")
    assert read_bytes(PAGE.encode()).text.startswith("Turbines")
    # What is called text is text.
    assert read_bytes(PAGE.encode(), ".txt").text == PAGE
    assert read_bytes(PAGE.encode(), ".html", kind="text").text == PAGE
    assert read_bytes(b"*Ada*", kind="markdown").text == "Ada"


def bomb() -> bytes:
    """A Word document of a few kilobytes that unpacks to more than is read."""
    body = b"<w:document><w:t>" + b"A" * (MAX_XML + 1) + b"</w:t></w:document>"
    relations = (
        '<Relationships><Relationship Id="r" Type="x/officeDocument" Target="word/document.xml"/>'
        "</Relationships>"
    )
    return make.zipped({"_rels/.rels": relations, "word/document.xml": body})


LAUGHS = (
    '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY x SYSTEM "file:///etc/passwd">]>'
)


@pytest.mark.parametrize(
    ("data", "suffix", "module", "message"),
    [
        (make.pdf([["a"]], encrypted=True), ".pdf", "pypdfium2", "encrypted.*password"),
        (make.pdf([[], []], picture=True), ".pdf", "pypdfium2", "pages are pictures.*ocrmypdf"),
        (make.pdf([[]]), ".pdf", "pypdfium2", "holds no text: its pages are empty"),
        (b"%PDF-1.7 cut off", ".pdf", "pypdfium2", "is damaged"),
        (b"just words", ".pdf", "pypdfium2", "is not a PDF, whatever its name says"),
        (make.docx(WORD)[:-40], ".docx", "lxml", "is damaged"),
        (make.docx("<w:p>"), ".docx", "lxml", "is damaged: word/document.xml"),
        (make.zipped({"word/x": "x"}), ".docx", "lxml", "does not say where its text is"),
        (make.zipped({"a.txt": "x"}), "", "lxml", "is a zip archive.*unpack"),
        (make.zipped({"xl/workbook.xml": "x"}), ".xlsx", "lxml", "is a spreadsheet.*CSV"),
        (make.compound_file({"EncryptedPackage": b"x"}), ".docx", "lxml", "is encrypted"),
        (make.compound_file({"WordDocument": b"x"}), ".doc", "oxmsg", "before 2007.*docx"),
        (make.compound_file({"__substg1.0_00": b"x"}), ".msg", "oxmsg", "is damaged"),
        (make.epub([]), ".epub", "lxml", ""),
        (b"no mail at all", ".eml", "email", "is not a mail"),
        (b"", ".pdf", "email", ""),
    ],
)
def test_what_cannot_be_read_says_why_in_one_line(
    tmp_path: Path, data: bytes, suffix: str, module: str, message: str
) -> None:
    pytest.importorskip(module)
    path, good = tmp_path / f"bad{suffix}", tmp_path / "good.txt"
    path.write_bytes(data)
    good.write_text("good")
    errors: list[str] = []
    documents = list(
        read_documents(
            [str(path), str(good)], on_error=lambda error: errors.append(f"{error} ({error.hint})")
        )
    )
    assert [document.text for document in documents] == ["good"]
    assert len(errors) == 1
    assert "\n" not in errors[0]
    assert re.search(f"^{re.escape(str(path))}: .*{message or 'is empty'}", errors[0])


def test_a_bomb_is_not_unpacked() -> None:
    needs("lxml")
    data = bomb()
    assert len(data) < 1 << 20
    with pytest.raises(DataError, match="more than 128 MiB"):
        read_bytes(data, ".docx")


def test_entities_are_not_expanded_and_files_not_fetched() -> None:
    needs("lxml")
    body = "<w:p><w:r><w:t>Ada &c; &x;</w:t></w:r></w:p>"
    data = make.zipped(
        {
            "_rels/.rels": '<R><R Id="r" Type="x/officeDocument" Target="word/d.xml"/></R>',
            "word/d.xml": f'{LAUGHS}<d xmlns:w="w">{body}</d>',
        }
    )
    text = read_bytes(data, ".docx").text
    assert text.startswith("Ada")
    assert len(text) < 50
    assert "root:" not in text


def test_deep_and_broken_pages_are_read() -> None:
    needs("lxml")
    deep = b"<div>" * 2000 + b"Ada" + b"<script>Eve" + b"\0</p></b>" * 5
    assert read_bytes(deep, ".html").text == "Ada"
    with pytest.raises(DataError, match="nested too deeply"):
        read_bytes(b"<div>" * 5000 + b"Ada", ".html")


def test_text_of_documents_holds_nothing_that_a_terminal_obeys() -> None:
    needs("lxml")
    found = read_bytes("<p>A\x1b[31mda\x07\u2028Keller\x00</p>".encode(), ".html")
    assert found.text == "A[31mda\nKeller"


def test_without_the_extra_each_kind_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iepile_cli.documents.formats.find_spec", lambda name: None)
    with pytest.raises(DataError, match="a PDF is read with pypdfium2, which is not") as error:
        read_bytes(make.pdf([["Ada"]]), ".pdf")
    assert "[documents]" in error.value.hint
    found = read_bytes(b"<p>L&egrave;a", ".html")
    assert (found.text, "lxml" in found.notes[0]) == ("<p>L&egrave;a", True)


def test_the_kinds_that_can_be_named_are_those_of_the_table() -> None:
    assert set(typing.get_args(Kind)) == {"text", *(one.name for one in FORMATS)}


def test_a_folder_of_documents_is_read(tmp_path: Path) -> None:
    needs("lxml", "pypdfium2")
    for name, data in {
        "a.pdf": make.pdf([["Ada"]]),
        "b.docx": make.docx(make.paragraph("Tom")),
        "c.html": b"<p>Eve",
        "d.png": b"\x89PNG",
        "e.txt": b"Bob",
    }.items():
        (tmp_path / name).write_bytes(data)
    skipped: list[str] = []
    documents = list(read_documents([str(tmp_path)], on_skip=skipped.append))
    assert [document.text for document in documents] == ["Ada", "Tom", "Eve", "Bob"]
    assert [Path(path).name for path in skipped] == ["d.png"]
    assert read_text(tmp_path / "b.docx") == "Tom"


def test_texts_of_results_are_read_as_extract_reads_them(tmp_path: Path) -> None:
    needs("lxml")
    (tmp_path / "a.docx").write_bytes(make.docx(make.paragraph("Ada")))
    rows = "text\nLéa Lefèvre à Besançon était très étonnée\n"
    (tmp_path / "b.csv").write_bytes(rows.encode("cp1252"))
    texts = SourceTexts(tmp_path)
    assert texts.of({"source": "a.docx"}) == "Ada"
    assert texts.of({"source": "b.csv", "line": 2}) == rows.split("\n")[1]

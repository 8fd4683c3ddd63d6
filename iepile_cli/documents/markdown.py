"""Text of Markdown: what a reader of the finished page would see, without the marks."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

from iepile_cli.documents.text import Extracted, Paragraphs
from iepile_cli.encodings import decode_any

_TAG = re.compile(r"<!--.*?-->|<[^<>]*>", re.DOTALL)
_CLOSES_PARAGRAPH = frozenset(
    {"paragraph_close", "heading_close", "table_close", "hr"}
    | {"bullet_list_close", "ordered_list_close"}
)


def read(data: bytes, encoding: str | None = None) -> Extracted:
    """The text of a Markdown file; raises ``DataError`` where it does not decode."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    text = Paragraphs()
    source, notes = decode_any(data, encoding)
    for token in parser.parse(source):
        if token.type == "inline":
            _add_inline(token.children or [], text)
        elif token.type in ("fence", "code_block"):
            for line in token.content.splitlines():
                text.run(line)
                text.line()
            text.paragraph()
        elif token.type == "html_block":
            text.run(_without_tags(token.content))
            text.paragraph()
        elif token.type in ("th_close", "td_close"):
            text.cell()
        elif token.type == "tr_close" or (token.type == "paragraph_close" and token.hidden):
            text.line()
        elif token.type in _CLOSES_PARAGRAPH:
            text.paragraph()
    return Extracted(text.text(), notes=notes)


def _add_inline(tokens: Iterable[Any], text: Paragraphs) -> None:
    for token in tokens:
        if token.type in ("text", "code_inline"):
            text.run(token.content)
        elif token.type == "softbreak":
            text.run(" ")
        elif token.type == "hardbreak":
            text.line()
        elif token.type == "html_inline":
            text.run(_without_tags(token.content))
        elif token.type == "image":
            _add_inline(token.children or [], text)


def _without_tags(markup: str) -> str:
    return html.unescape(_TAG.sub("", markup)).strip("\n")

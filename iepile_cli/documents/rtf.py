"""Text of RTF documents."""

from __future__ import annotations

from iepile_cli.documents.text import Extracted, tidy
from iepile_cli.errors import DataError


def read(data: bytes, encoding: str | None = None) -> Extracted:
    """The text of a document; raises ``DataError`` for one that is damaged."""
    from striprtf.striprtf import rtf_to_text

    try:
        # RTF is ASCII that names all other characters; a stray byte is one of Windows'.
        text: str = rtf_to_text(data.decode("cp1252", "replace"), errors="replace")
    except (ValueError, LookupError, IndexError) as error:
        raise DataError(f"is damaged: {error}") from None
    return Extracted(tidy(text))

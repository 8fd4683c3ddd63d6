"""The texts that were read, written to a folder: what the offsets of results count in.

A text's file has the path of its source below the folder, with ``.txt`` after it. What would lead
out of the folder, or is no name on every system, is written as ``%`` and two hexadecimal digits,
as in addresses, so no two sources have one file. Of a source that holds several texts, ``%`` and
the number follow: ``posts.jsonl%line12.txt``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from iepile_cli.errors import UsageError
from iepile_cli.extraction.inputs import Document
from iepile_cli.files import STDIN, display_name
from iepile_cli.writing import atomic_write

_SUFFIX = ".txt"
# What stays in a name as it is, besides letters and digits of any script.
_SAFE = " !#$&'()+,-.;=@[]^_`{}~"
# Longer names are cut, with a hash of the whole, in bytes; systems allow 255.
_LONGEST = 200
_DEVICES = {"con", "prn", "aux", "nul"} | {f"{n}{k}" for n in ("com", "lpt") for k in range(10)}


class SavedTexts:
    """A folder of texts; raises ``UsageError`` for one in which inputs are."""

    def __init__(self, folder: str, inputs: Sequence[str]) -> None:
        self.folder = folder
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise UsageError(f"--save-text {display_name(folder)} is no folder")
        real = os.path.realpath(folder)
        for path in inputs:
            inside = (os.path.realpath(path) + os.sep).startswith(real.rstrip(os.sep) + os.sep)
            if path != STDIN and os.path.lexists(path) and inside:
                raise UsageError(
                    f"{display_name(path)} is read, and is in --save-text {display_name(folder)}",
                    hint="name a folder of its own for the texts",
                )

    def saving(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents, each once its text is written; raises ``DataError`` where it cannot be."""
        for document in documents:
            path = Path(self.folder, *text_name(document).split("/"))
            with atomic_write(path) as file:
                file.write(document.text.encode())
            yield document


def text_name(document: Document) -> str:
    """The name of a document's text below the folder, parted by ``/``."""
    parts = document.source.replace(os.sep, "/").split("/")
    number = f"%line{document.line}" if document.line is not None else ""
    *folders, name = [_safe(part) for part in parts if part != "."] or ["%2E"]
    return "/".join([*folders, _short(name, number + _SUFFIX)])


def _safe(part: str) -> str:
    """A part of a path as a name that is allowed everywhere and leads nowhere else."""
    if part == "":
        # The root, or a doubled separator.
        return "%2F"
    if part == ".." or part.split(".")[0].lower() in _DEVICES:
        return "".join(f"%{ord(c):02X}" for c in part[:2]) + quote_name(part[2:])
    return _short(quote_name(part), "")


def quote_name(part: str) -> str:
    """The part with what some systems do not allow in names written as in addresses."""
    kept = "".join(c if c.isalnum() or c in _SAFE else quote(c, safe="") for c in part)
    # Names that end in a dot or a space are other names on some systems.
    last = kept[-1:]
    return kept[:-1] + f"%{ord(last):02X}" if last in (".", " ") and last else kept


def _short(name: str, ending: str) -> str:
    if len((name + ending).encode()) <= _LONGEST:
        return name + ending
    digest = hashlib.sha256((name + ending).encode()).hexdigest()[:16]
    return name.encode()[: _LONGEST - 40].decode("utf-8", "ignore") + "%" + digest + ending[-20:]

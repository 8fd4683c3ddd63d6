"""Forms that annotated data comes in, each read into unified records.

``open_records`` gives the records of a file or folder as chunks, whatever their form:

* ``iepile``: unified records, published IEPile rows, InstructIE records; told apart by what a
  record has;
* ``bio``: columns of tokens and tags; ``spacy``: JSON spans or a ``DocBin``; ``brat``: standoff.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from iepile_cli.conversion.inputs import Chunk, json_chunks, numbered_chunks, open_input
from iepile_cli.conversion.readers.bio import read_bio
from iepile_cli.conversion.readers.brat import brat_documents, read_brat
from iepile_cli.conversion.readers.published import is_published, read_published
from iepile_cli.conversion.readers.spacy import read_doc_bin, read_spacy
from iepile_cli.errors import UsageError

FORMS = ("auto", "iepile", "bio", "spacy", "brat")

_BY_SUFFIX = {
    ".bio": "bio",
    ".iob": "bio",
    ".iob2": "bio",
    ".conll": "bio",
    ".bioes": "bio",
    ".spacy": "spacy",
    ".ann": "brat",
}

Opened: TypeAlias = tuple[Iterator[Chunk], int]


def form_of(path: Path | None, form: str = "auto") -> str:
    """The form of a file: as named, or by its suffix. Raises ``UsageError``."""
    if form not in FORMS:
        raise UsageError(f"--from {form} is not known", hint=f"one of {', '.join(FORMS)}")
    if form != "auto" or path is None:
        return "iepile" if form == "auto" else form
    if path.is_dir():
        return "brat" if any(path.rglob("*.ann")) else "iepile"
    suffixes = [suffix for suffix in path.suffixes if suffix not in (".gz", ".zst")]
    return _BY_SUFFIX.get(suffixes[-1].lower(), "iepile") if suffixes else "iepile"


@contextmanager
def open_records(path: Path | None, form: str, task_name: str | None) -> Iterator[Opened]:
    """The records of a file (None: stdin) as chunks, and the file's size for progress.

    ``task_name`` picks the rows of one task out of published files. Raises ``DataError`` for what
    cannot be opened.
    """
    form = form_of(path, form)
    name = path if path is not None else "stdin"
    if form == "brat":
        documents = brat_documents(path)
        yield numbered_chunks(read_brat(documents), lambda: 0), 0
        return
    if form == "spacy" and path is not None and path.suffix == ".spacy":
        yield numbered_chunks(read_doc_bin(path), lambda: 0), 0
        return
    with open_input(path) as source:
        if form == "bio":
            yield numbered_chunks(read_bio(source, name), source.tell), source.size
            return
        chunks = json_chunks(source, name)
        if form == "spacy":
            yield numbered_chunks(read_spacy(chunks), source.tell), source.size
            return
        first = next(chunks, None)
        if first is not None and is_published(first):
            rows = read_published(_with(first, chunks), task_name)
            yield numbered_chunks(rows, source.tell), source.size
        else:
            yield _with(first, chunks), source.size


def _with(first: Chunk | None, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    if first is not None:
        yield first
    yield from chunks

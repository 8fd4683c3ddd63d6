"""Blocks of documents that are answered together, and the parts of a run that are made of them.

What a model answers depends, in its last digits, on what is computed in the same batch. So a run
is cut into blocks at places that follow from the documents alone, and each block is answered by
itself. A part of a run (``--shard``, a shard on a cluster) consists of whole blocks: its answers
are those of the whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from iepile_cli.errors import IEPileError, OnError
from iepile_cli.extraction.inputs import Document
from iepile_cli.shards import Shard

# A block ends after so many documents, or so many characters: enough to keep every backend busy,
# and few enough that some hundred long documents can be shared by as many machines.
BLOCK_DOCUMENTS = 256
BLOCK_CHARACTERS = 1 << 16

# Gives the documents of a file.
ReadFile: TypeAlias = Callable[[str, OnError], Iterable[Document]]


def in_blocks(documents: Iterable[Document], first: int = 1) -> Iterator[Document]:
    """The documents with the numbers of their blocks, which begin with ``first``."""
    number, count, size = first, 0, 0
    for document in documents:
        if count == BLOCK_DOCUMENTS or size >= BLOCK_CHARACTERS:
            number, count, size = number + 1, 0, 0
        count, size = count + 1, size + len(document.text)
        yield replace(document, block=number)


@dataclass(frozen=True, slots=True)
class Piece:
    """Documents of one file: ``count`` of them after the first ``skip``.

    ``to_end`` says that the file is read to its end, where more may be wrong.
    """

    path: str
    skip: int
    count: int
    to_end: bool


@dataclass(frozen=True)
class Inventory:
    """How many documents each file of a run has, and where its blocks begin.

    ``blocks`` holds the number of the document, counted from 0, that each block begins with.
    ``cut`` says that the last file is not read to its end, as ``--limit`` ends the run in it.
    """

    files: tuple[tuple[str, int], ...]
    blocks: tuple[int, ...]
    cut: bool = False

    @property
    def total(self) -> int:
        """All documents."""
        return sum(count for _, count in self.files)

    def pieces(self, shard: Shard) -> tuple[list[Piece], int]:
        """What a part of the run reads, and the number of its first block."""
        first, end = shard.bounds(len(self.blocks))
        starts = (*self.blocks, self.total)
        start, stop = starts[first], starts[end]
        pieces, at = [], 0
        for number, (path, count) in enumerate(self.files):
            begin, finish = max(start - at, 0), min(stop - at, count)
            # A file without a document is read for its error, by the part that it comes in.
            alone = not count and (start <= at < stop or (shard.last and at == stop))
            if begin < finish or alone:
                whole = not (self.cut and number == len(self.files) - 1)
                to_end = finish == count and whole
                pieces.append(Piece(path, begin, max(finish - begin, 0), to_end))
            at += count
        return pieces, first + 1


def take_inventory(
    paths: Iterable[str], read_file: ReadFile, limit: int | None = None
) -> Inventory:
    """Read all files through once, up to ``limit`` documents; what is wrong in them is passed over.

    Holds a number for each file and each block.
    """
    files: list[tuple[str, int]] = []
    blocks: list[int] = []
    total = block = 0

    def counted() -> Iterator[Document]:
        nonlocal total
        for path in paths:
            if total == limit:
                return
            files.append((path, 0))
            for document in read_file(path, lambda error: None):
                files[-1] = (path, files[-1][1] + 1)
                total += 1
                yield document
                if total == limit:
                    return

    for document in in_blocks(counted()):
        if document.block != block:
            block = document.block
            blocks.append(total - 1)
    return Inventory(tuple(files), tuple(blocks), cut=limit is not None and total == limit)


def read_pieces(
    pieces: Sequence[Piece], read_file: ReadFile, on_error: OnError
) -> Iterator[Document]:
    """The documents of pieces; what is wrong between them is reported with the document after it.

    So that of several parts that read one file, one reports it.
    """
    for piece in pieces:
        seen = 0

        def failed(error: IEPileError, piece: Piece = piece) -> None:
            # Called while the next document is looked for: `seen` is that of this very moment.
            if piece.skip <= seen < piece.skip + piece.count or (  # noqa: B023
                piece.to_end and seen >= piece.skip  # noqa: B023
            ):
                on_error(error)

        if not piece.count and not piece.to_end:
            continue
        for document in read_file(piece.path, failed):
            seen += 1
            if seen > piece.skip:
                yield document
            if seen == piece.skip + piece.count and not piece.to_end:
                break

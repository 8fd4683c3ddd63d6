"""Which of the teacher's answers become training data, and which texts are held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.resuming import result_key
from iepile_cli.writing import atomic_write

# What an answer that was not taken as the model gave it says of itself.
_DOUBTFUL = ("truncated", "ungrounded", "problems")


@dataclass
class Selection:
    """How many texts there were, and what became of them."""

    texts: int = 0
    certain: int = 0
    doubtful: int = 0
    held_out: int = 0
    unanswered: int = 0
    items: int = 0

    def as_json(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def is_certain(result: Mapping[str, Any], certainty: float) -> bool:
    """Whether an answer is whole and each of its items scores enough; no score is enough."""
    if any(result.get(name) for name in _DOUBTFUL):
        return False
    scores = (item.get("score") for item in result["items"])
    return all(score is None or score >= certainty for score in scores)


def is_held_out(text: str, share: float, seed: int) -> bool:
    """Whether a text is held out: drawn by the text itself, so that equal ones stay together."""
    digest = hashlib.blake2b(f"{seed} {text}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def select(
    documents: Iterable[Document],
    results: Path,
    certain: Path,
    held_out: Path,
    *,
    certainty: float,
    share: float,
    seed: int,
) -> Selection:
    """Divide results, each with its text, into training texts and held-out texts.

    ``documents`` are those that the results are of, in their order. Held out are all answers to a
    text, doubtful ones too: what both are compared on is not the easy part.
    """
    counts = Selection()
    with atomic_write(certain) as training, atomic_write(held_out) as aside:
        for document, result in _joined(documents, results):
            counts.texts += 1
            if result is None:
                counts.unanswered += 1
                continue
            line = json.dumps({**result, "text": document.text}, ensure_ascii=False)
            data = line.encode("utf-8", "replace") + b"\n"
            if is_held_out(document.text, share, seed):
                counts.held_out += 1
                aside.write(data)
            elif is_certain(result, certainty):
                counts.certain += 1
                counts.items += len(result["items"])
                training.write(data)
            else:
                counts.doubtful += 1
    return counts


def _joined(
    documents: Iterable[Document], results: Path
) -> Iterator[tuple[Document, dict[str, Any] | None]]:
    """Each document with its result, None where it has none; results may be in any order."""
    places: dict[Any, int] = {}
    with open(results, "rb") as file:
        place = 0
        for line in file:
            places[result_key(line)] = place
            place += len(line)
        for document in documents:
            found = places.get(document.key)
            if found is not None:
                file.seek(found)
            yield document, None if found is None else json.loads(file.readline())

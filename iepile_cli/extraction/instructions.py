"""Records of instructions: read from JSON Lines, written back with their answers, resumed.

Goes in: the output of ``convert``, or any record with an ``instruction``. Comes out: the record
with all its keys in their order and ``output`` set, one a line.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from iepile_cli.errors import DataError, IEPileError
from iepile_cli.extraction import encodings, files, records, resuming
from iepile_cli.extraction.files import OnError
from iepile_cli.extraction.outputs import Writer, destination

if TYPE_CHECKING:
    from iepile_cli.extraction.predicting import Prediction

# Which record, and the how-maniest that is the same: corpora do have the same line twice.
Key: TypeAlias = tuple[int, int]

# A file whose first records are all unusable is given up: it is something else.
_HOPELESS = 20
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_IDENTITY = ("id", "task", "source", "instruction")


@dataclass(frozen=True, slots=True)
class InstructionRecord:
    """A record with an ``instruction``, and where it stands (``line`` from 1)."""

    source: str
    line: int
    fields: dict[str, Any]
    instruction: str
    key: Key


def read_instructions(path: str, on_error: OnError) -> Iterator[InstructionRecord]:
    """The records of a JSON Lines file (``-`` for standard input), packed or not.

    A line that cannot be used goes to ``on_error`` and the rest goes on.
    """
    name = files.shown(path)
    numbering = Numbering()
    good = bad = 0
    try:
        with files.opened(path) as stream:
            whole = path != files.STDIN and files.suffix(path) == ".json"
            for line, value in records.objects(encodings.lines(stream), whole=whole):
                found = _record(name, line, value, numbering)
                if isinstance(found, InstructionRecord):
                    good += 1
                    yield found
                    continue
                bad += 1
                on_error(found)
                if not good and bad == _HOPELESS:
                    raise DataError(f"its first {_HOPELESS} records are unusable: left")
    except DataError as error:
        placed = error.path or name
        on_error(DataError(error.reason, path=placed, line=error.line, hint=error.hint))
        return
    if not good and not bad:
        on_error(DataError("is empty: it holds no record", path=name))


def _record(
    name: str, line: int, value: Any, numbering: Numbering
) -> InstructionRecord | IEPileError:
    if isinstance(value, DataError):
        return DataError(value.reason, path=name, line=line, hint=value.hint)
    instruction = value.get("instruction") if isinstance(value, dict) else None
    if not isinstance(instruction, str):
        return DataError(
            "has no 'instruction'", path=name, line=line, hint="records of convert have one"
        )
    return InstructionRecord(name, line, value, instruction, numbering(value))


class Numbering:
    """Gives each record a key that stays the same from run to run, whatever its line."""

    def __init__(self) -> None:
        self._seen: Counter[int] = Counter()

    def __call__(self, fields: dict[str, Any]) -> Key:
        """The key of the next record."""
        identity = json.dumps([fields.get(name) for name in _IDENTITY], ensure_ascii=True)
        digest = hashlib.blake2b(identity.encode("ascii"), digest_size=8).digest()
        which = int.from_bytes(digest, "big")
        self._seen[which] += 1
        return which, self._seen[which]


class PredictionLines:
    """The output of predictions: one record a line."""

    def begin(self, *, resumed: bool) -> bytes:
        """Nothing."""
        return b""

    def result(self, result: Prediction) -> bytes:
        """The record with its output, and a line end."""
        return prediction_line(result) + b"\n"

    def end(self) -> bytes:
        """Nothing."""
        return b""


def prediction_line(prediction: Prediction) -> bytes:
    """A record with ``output``, and counts of what was left out where there are any."""
    shown = dict(prediction.record.fields)
    for name in ("truncated", "ungrounded", "problems"):
        shown.pop(name, None)
    shown["output"] = prediction.output
    if prediction.truncated:
        shown["truncated"] = True
    for name in ("ungrounded", "problems"):
        if count := getattr(prediction, name):
            shown[name] = count
    text = json.dumps(shown, ensure_ascii=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text).encode("utf-8")


def open_predictions(
    target: str | None = None, *, resume: bool = False
) -> Writer[Prediction, InstructionRecord]:
    """A writer of predictions to a file, or to standard output for None and ``-``.

    With ``resume``, the records that the file (or its ``.part``) holds stay, a half last one is
    taken off, and ``writer.done`` names them. Raises as ``open_writer`` does.
    """
    target = destination(target, resume=resume)
    return Writer(PredictionLines(), target, resume=resume, read=_written)


def _written(path: str) -> tuple[set[Key], int]:
    return resuming.read(path, _key_reader())


def _key_reader() -> Callable[[bytes], Key | None]:
    numbering = Numbering()

    def key(line: bytes) -> Key | None:
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict) or not isinstance(fields.get("output"), str):
            return None
        return numbering(fields)

    return key

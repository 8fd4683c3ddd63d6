"""Training lines, and their encoded examples on disk: made once, in parallel, memory-mapped.

A line is ``{"task", "source", "instruction", "output"}`` as ``iepile convert --split train``
writes it, and may have ``input`` (put below the instruction), ``system`` and ``history`` (earlier
turns as pairs of question and answer), as upstream's loader takes them.

Encoded examples are in a folder of numpy arrays: all token ids (16 bits where they fit), where
each example starts, how many of its tokens are prompt, which example of the files it is and a hash
of its text. The folder's name is a hash of the data and of all that shapes the encoding.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import pickle
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.errors import DataError, NoSuchFile
from iepile_cli.files import open_input
from iepile_cli.formatting import plural
from iepile_cli.parallel import WorkerPool
from iepile_cli.training.encoding import IGNORED, Encoded, Encoder, Example
from iepile_cli.writing import atomic_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Bump when the encoding of the same data changes.
_FORM = 5
_CHUNK = 500
# Fewer chunks than this are encoded in this process; starting others would take longer.
_SERIAL = 8
# Labels that are not simply the tokens after a prompt: several turns.
_IRREGULAR = -1


# ----------------------------------------------------------------------------------------- lines


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a JSON Lines file, compressed or not, in order.

    Lines whose question or answer is empty are left out: they teach nothing. Raises ``DataError``
    that names file and line.
    """
    import orjson

    if not path.exists():
        raise NoSuchFile(path, hint="make training data with: iepile convert --split train")
    # Lines are read one by one, however much a compressed file holds.
    with open_input(path) as source:
        for number, line in enumerate(source.stream, 1):
            if not line.strip():
                continue
            try:
                record = orjson.loads(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            except orjson.JSONDecodeError as error:
                raise _not_json(line, error, path, number) from None
            example = _example(record, path, number)
            if example:
                yield example


def check_examples(files: Iterable[str]) -> None:
    """Raise ``DataError`` for a file that is not there or not JSON, or when none has an example.

    No more than the first example of each is read: what is wrong at once is said at once. A pipe
    is refused: data is read more than once.
    """
    paths = [Path(file) for file in files]
    for path in paths:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise DataError("can be read only once, and training data is read again", path=path)
    found = [next(read_examples(path), None) for path in paths]
    if paths and not any(found):
        raise DataError("no example in it", path=paths[0])


def _not_json(line: bytes, error: Exception, path: Path, number: int) -> DataError:
    if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return DataError("is in UTF-16", path=path, hint="convert it to UTF-8")
    if b"\0" in line:
        return DataError("is not a text file", path=path, line=number)
    return DataError(f"not JSON: {error}", path=path, line=number)


def _example(record: Any, path: Path, line: int) -> Example | None:
    if not isinstance(record, dict):
        raise DataError("a line is not an object", path=path, line=line)
    if "output" not in record and "label" in record:
        raise DataError(
            "a test line, which has no answer to learn from",
            path=path,
            line=line,
            hint="convert with --split train",
        )
    question, answer = _text(record, "instruction"), _text(record, "output")
    if question is None or answer is None:
        missing = "instruction" if question is None else "output"
        raise DataError(
            f"no {missing!r} in it", path=path, line=line, hint="convert with --split train"
        )
    if not question or not answer:
        return None
    below = _text(record, "input")
    return Example(
        question=f"{question}\n{below}" if below else question,
        answer=answer,
        system=_text(record, "system"),
        history=_history(record.get("history"), path, line),
        task=_text(record, "task") or "",
        source=_text(record, "source") or "",
    )


def _text(record: dict[str, Any], key: str) -> str | None:
    value = record.get(key)
    return value if isinstance(value, str) else None


def _history(given: Any, path: Path, line: int) -> tuple[tuple[str, str], ...]:
    if not given:
        return ()
    try:
        turns = tuple((question, answer) for question, answer in given)
    except (TypeError, ValueError):
        turns = ((None, None),)
    if not all(isinstance(text, str) for turn in turns for text in turn):
        raise DataError("'history' is not a list of text pairs", path=path, line=line)
    return turns


def digest(paths: Sequence[Path]) -> str:
    """A hash (hex) of the contents of files, by which what was made of them is found again."""
    total = hashlib.sha256()
    for path in paths:
        if not path.exists():
            # The same line as when it is read.
            next(read_examples(path), None)
        with open_input(path) as source:
            while chunk := source.stream.read(1 << 20):
                total.update(chunk)
        total.update(b"\x00")
    return total.hexdigest()


# -------------------------------------------------------------------------------- encoded examples


@dataclass(frozen=True)
class Report:
    """How long the encoded examples are, in tokens, and what was split or left out.

    ``split`` counts lines that were split into passages, ``left_out`` those that were not used.
    """

    examples: int
    tokens: int
    answer_tokens: int
    longest: int
    median: int
    split: int
    left_out: int

    @property
    def answers(self) -> float:
        """The share of all tokens that are answers'."""
        return self.answer_tokens / max(1, self.tokens)

    def lines(self) -> list[str]:
        """The report for people."""
        share = f"{100 * self.answers:.0f} % of them answers"
        shown = [
            f"{plural(self.examples, 'example')}, {plural(self.tokens, 'token')}, {share}",
            f"longest {self.longest}, median {self.median}",
        ]
        if self.split:
            shown.append(
                f"too long: {plural(self.split, 'line')}, split into passages, each with "
                "the part of the answer that it holds (a larger --max-length keeps all)"
            )
        if self.left_out:
            shown.append(f"left out: {plural(self.left_out, 'line')} that --max-length cannot hold")
        return shown


class EncodedDataset:
    """The encoded examples of a folder; ``dataset[i]`` gives ids and labels of example i.

    ``chosen`` are rows of the folder, in order; None for all. ``lengths[i]`` counts the tokens of
    example i, ``numbers[i]`` is its line's place among the examples of the files, from 0.
    """

    def __init__(self, folder: Path, chosen: NDArray[np.int64] | None = None) -> None:
        import numpy as np

        self.folder = folder
        self._ids: NDArray[Any] = np.load(folder / "ids.npy", mmap_mode="r")
        with np.load(folder / "index.npz") as index:
            self._index: dict[str, NDArray[Any]] = dict(index)
        every: NDArray[np.int64] = np.arange(len(self._index["prompts"]))
        self.rows: NDArray[np.int64] = every if chosen is None else chosen
        self.lengths: NDArray[np.int64] = np.diff(self._index["starts"])[self.rows]
        self.numbers: NDArray[np.int64] = self._index["numbers"][self.rows]
        self.report = Report(**json.loads((folder / "report.json").read_text(encoding="utf-8")))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        start, end = self._index["starts"][row : row + 2]
        ids = self._ids[start:end].astype("int64")
        prompt = int(self._index["prompts"][row])
        if prompt == _IRREGULAR:
            return {"input_ids": ids, "labels": self._index[f"labels{row}"].astype("int64")}
        labels = ids.copy()
        labels[:prompt] = IGNORED
        return {"input_ids": ids, "labels": labels}

    def split(self, held_out: int, seed: int) -> tuple[EncodedDataset, EncodedDataset]:
        """Examples to train on and at most ``held_out`` others, drawn by the seed, in order.

        Examples about the same text stay together.
        """
        import numpy as np

        by_text: dict[int, list[int]] = {}
        for row in self.rows:
            by_text.setdefault(int(self._index["groups"][row]), []).append(int(row))
        groups = list(by_text.values())
        random.Random(seed).shuffle(groups)
        out: list[int] = []
        for group in groups:
            if len(out) + len(group) <= held_out:
                out += group
        kept = np.setdiff1d(self.rows, out)
        return (
            EncodedDataset(self.folder, kept),
            EncodedDataset(self.folder, np.asarray(sorted(out), dtype=np.int64)),
        )


def dataset_key(paths: Sequence[Path], encoder: Encoder, tokenizer_hash: str) -> str:
    """The name of the folder of some files' examples: a hash of all that shapes it."""
    shape = {
        "form": _FORM,
        "data": digest(paths),
        "tokenizer": tokenizer_hash,
        "template": encoder.template.hash(),
        "limits": asdict(encoder.limits),
        "system": encoder.system,
        "learns_prompt": encoder.learns_prompt,
    }
    text = json.dumps(shape, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def encode_dataset(
    cache: Path,
    key: str,
    paths: Sequence[Path],
    encoder: Encoder,
    *,
    workers: int = 0,
    factory: Callable[[], Encoder] | None = None,
    on_example: Callable[[], None] | None = None,
) -> EncodedDataset:
    """The encoded examples of some files, from the cache or made now.

    ``workers`` 0 takes all cores for a large file. ``factory`` makes the same encoder in another
    process (it is pickled); without it all is done in this one. Raises ``DataError`` when no
    example can be used.
    """
    from filelock import FileLock

    folder = cache / key
    if (folder / "report.json").is_file():
        return EncodedDataset(folder)
    cache.mkdir(parents=True, exist_ok=True)
    # Of several processes of a run the first one makes it and the others wait.
    with FileLock(cache / f".{key}.lock"):
        if not (folder / "report.json").is_file():
            examples = itertools.chain.from_iterable(map(read_examples, paths))
            with atomic_folder(folder) as partial:
                encoded = _encode_all(examples, encoder, workers, factory)
                _write(partial, _counted(encoded, on_example), paths)
    return EncodedDataset(folder)


def _counted(
    encoded: Iterable[list[Encoded]], on_example: Callable[[], None] | None
) -> Iterator[list[Encoded]]:
    for one in encoded:
        if on_example:
            on_example()
        yield one


def _encode_all(
    examples: Iterable[Example],
    encoder: Encoder,
    workers: int,
    factory: Callable[[], Encoder] | None,
) -> Iterator[list[Encoded]]:
    stream = iter(examples)
    chunks = iter(lambda: list(itertools.islice(stream, _CHUNK)), [])
    if factory is None:
        yield from itertools.chain.from_iterable(map(encoder.many, chunks))
        return
    with WorkerPool(workers or None) as pool:
        encode = functools.partial(_encode_chunk, pickle.dumps(factory))
        for encoded in pool.map(encode, chunks, serial=_SERIAL):
            yield from encoded


@functools.lru_cache(maxsize=1)
def _encoder_here(factory: bytes) -> Encoder:
    encoder: Encoder = pickle.loads(factory)()
    return encoder


def _encode_chunk(factory: bytes, examples: list[Example]) -> list[list[Encoded]]:
    return _encoder_here(factory).many(examples)


def _write(folder: Path, encoded: Iterable[list[Encoded]], paths: Sequence[Path]) -> None:
    import numpy as np

    starts, prompts = array("q", [0]), array("i")
    numbers, groups = array("q"), array("I")
    index: dict[str, Any] = {}
    split = left_out = answer_tokens = largest = 0
    with (folder / "ids.raw").open("wb") as file:
        for number, parts in enumerate(encoded):
            split += len(parts) > 1
            left_out += not parts
            for one in parts:
                if one.turns is not None:
                    index[f"labels{len(prompts)}"] = np.asarray(one.turns, dtype=np.int32)
                ids = array("I", one.ids)
                largest = max(largest, max(ids))
                answer_tokens += len(ids) - (one.turns.count(IGNORED) if one.turns else one.prompt)
                ids.tofile(file)
                starts.append(starts[-1] + len(ids))
                prompts.append(_IRREGULAR if one.turns else one.prompt)
                numbers.append(number)
                groups.append(one.group)
    if len(starts) == 1:
        reason = "no example fits in --max-length" if left_out else "no example in it"
        raise DataError(reason, path=paths[0])
    _write_ids(folder, starts[-1], largest)
    index |= {"starts": np.asarray(starts, np.int64), "prompts": np.asarray(prompts, np.int32)}
    index |= {"numbers": np.asarray(numbers, np.int64), "groups": np.asarray(groups, np.uint32)}
    np.savez(folder / "index.npz", **index)
    lengths = np.diff(starts)
    report = Report(
        examples=len(lengths),
        tokens=int(lengths.sum()),
        answer_tokens=answer_tokens,
        longest=int(lengths.max()),
        median=int(np.median(lengths)),
        split=split,
        left_out=left_out,
    )
    (folder / "report.json").write_text(json.dumps(asdict(report)), encoding="utf-8")


def _write_ids(folder: Path, count: int, largest: int) -> None:
    """Put numpy's header before raw numbers, so that they can be mapped, in 16 bits if they fit."""
    import numpy as np

    raw = np.memmap(folder / "ids.raw", dtype=np.uint32, mode="r", shape=(count,))
    kind = np.uint16 if largest < 1 << 16 else np.uint32
    ids = np.lib.format.open_memmap(folder / "ids.npy", mode="w+", dtype=kind, shape=(count,))
    for at in range(0, count, 1 << 24):
        ids[at : at + (1 << 24)] = raw[at : at + (1 << 24)]
    ids.flush()
    del raw, ids
    (folder / "ids.raw").unlink()

"""Encoded examples on disk: made once, in parallel, memory-mapped, found again by content.

A store is four numpy arrays in one folder: all token ids, all labels (32 bits each), where each
example starts, and which example of the files it is (some are left out). Its name is a hash of
the data and of all that shapes the encoding.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from iepile_cli.errors import DataError
from iepile_cli.training.encoding import Encoded, Encoder
from iepile_cli.training.examples import Example, digest, read_examples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Bump when the encoding of the same data changes.
_FORM = 3
# Fewer examples than this are encoded here; starting other processes would take longer.
_WORTH_WORKERS = 4000
_CHUNK = 500


@dataclass(frozen=True)
class Report:
    """How long the examples are, in tokens, and what could not be used whole.

    ``padding`` is the share of a padded batch of eight that would be padding.
    """

    examples: int
    tokens: int
    answer_tokens: int
    longest: int
    median: int
    cut: int
    left_out: int
    padding: float

    def lines(self) -> list[str]:
        """The report for people."""
        share = 100 * self.answer_tokens / max(1, self.tokens)
        said = [
            f"{self.examples:,} examples, {self.tokens:,} tokens, {share:.0f} % of them answers",
            f"longest {self.longest}, median {self.median}; "
            f"padding would waste {100 * self.padding:.0f} %",
        ]
        if self.cut:
            said.append(
                f"{self.cut:,} examples are too long: the end of their text is cut, their answer "
                "is kept whole (a larger --max-length keeps all)"
            )
        if self.left_out:
            said.append(f"{self.left_out:,} examples are left out: they do not fit in --max-length")
        return said


class Store:
    """The encoded examples of a folder; ``store[i]`` gives ids and labels of example i.

    ``numbers[i]`` is its place among all examples of the files, counted from 0.
    """

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self.folder = folder
        self.starts: NDArray[np.int64] = np.load(folder / "starts.npy")
        self.numbers: NDArray[np.int64] = np.load(folder / "numbers.npy")
        self._ids: NDArray[np.int32] = np.load(folder / "ids.npy", mmap_mode="r")
        self._labels: NDArray[np.int32] = np.load(folder / "labels.npy", mmap_mode="r")
        facts = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        self.report = Report(**facts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start, end = self.starts[index % len(self)], self.starts[index % len(self) + 1]
        return {"input_ids": self._ids[start:end], "labels": self._labels[start:end]}

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [int(length) for length in self.starts[1:] - self.starts[:-1]]


class Opener(NamedTuple):
    """How another process makes the same encoder: a function of this module's kind and its say.

    ``build(*arguments)`` must be importable and its arguments picklable.
    """

    build: Callable[..., Encoder]
    arguments: tuple[Any, ...]


def store_key(paths: Sequence[Path], encoder: Encoder, tokenizer_hash: str) -> str:
    """The name of the store of some files: a hash of all that shapes it."""
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


def make_store(
    cache: Path,
    key: str,
    paths: Sequence[Path],
    encoder: Encoder,
    *,
    workers: int = 0,
    opener: Opener | None = None,
    on_example: Callable[[], None] | None = None,
) -> Store:
    """The encoded examples of some files, from the cache or made now.

    ``workers`` 0 takes all cores for a large file; without ``opener`` all is done here. Raises
    ``DataError`` when no example can be used.
    """
    from filelock import FileLock

    folder = cache / key
    if (folder / "report.json").is_file():
        return Store(folder)
    cache.mkdir(parents=True, exist_ok=True)
    # Of several processes of a run the first one makes it and the others wait.
    with FileLock(cache / f".{key}.lock"):
        if (folder / "report.json").is_file():
            return Store(folder)
        partial = Path(tempfile.mkdtemp(prefix=f".{key[:8]}-", dir=cache))
        try:
            examples = itertools.chain.from_iterable(map(read_examples, paths))
            encoded = _encode_all(examples, encoder, workers or cores(), opener)
            _write(partial, _counted(encoded, on_example), paths)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Store(folder)


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _counted(
    encoded: Iterable[Encoded], on_example: Callable[[], None] | None
) -> Iterator[Encoded]:
    for one in encoded:
        if on_example:
            on_example()
        yield one


def _encode_all(
    examples: Iterable[Example], encoder: Encoder, workers: int, opener: Opener | None
) -> Iterator[Encoded]:
    stream = iter(examples)
    first = list(itertools.islice(stream, _WORTH_WORKERS))
    if workers < 2 or opener is None or len(first) < _WORTH_WORKERS:
        yield from map(encoder, itertools.chain(first, stream))
        return
    import multiprocessing
    from collections import deque

    whole = itertools.chain(first, stream)
    chunks = iter(lambda: list(itertools.islice(whole, _CHUNK)), [])
    # A fork of a process with threads (tokenizers, torch) can hang.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start_worker, (opener,)) as pool:
        # Pool.imap would read the whole file ahead of its workers.
        ahead: deque[Any] = deque()
        for chunk in chunks:
            ahead.append(pool.apply_async(_encode_chunk, (chunk,)))
            if len(ahead) > 2 * workers:
                yield from ahead.popleft().get()
        while ahead:
            yield from ahead.popleft().get()


_worker: dict[str, Encoder] = {}


def _start_worker(opener: Opener) -> None:
    _worker["encoder"] = opener.build(*opener.arguments)


def _encode_chunk(examples: list[Example]) -> list[Encoded]:
    return [_worker["encoder"](example) for example in examples]


def _write(folder: Path, encoded: Iterable[Encoded], paths: Sequence[Path]) -> None:
    import numpy as np

    starts, numbers, cut, left_out, answer_tokens = [0], [], 0, 0, 0
    with (folder / "ids.raw").open("wb") as ids, (folder / "labels.raw").open("wb") as labels:
        for number, one in enumerate(encoded):
            if not one.fits:
                left_out += 1
                continue
            cut += one.cut
            row = np.asarray(one.labels, dtype=np.int32)
            answer_tokens += int((row >= 0).sum())
            np.asarray(one.ids, dtype=np.int32).tofile(ids)
            row.tofile(labels)
            starts.append(starts[-1] + len(one.ids))
            numbers.append(number)
    if len(starts) == 1:
        reason = "no example fits in --max-length" if left_out else "no example in it"
        raise DataError(reason, path=paths[0])
    for name in ("ids", "labels"):
        _as_npy(folder, name, starts[-1])
    np.save(folder / "starts.npy", np.asarray(starts, dtype=np.int64))
    np.save(folder / "numbers.npy", np.asarray(numbers, dtype=np.int64))
    report = _report(np.diff(starts), answer_tokens, cut, left_out)
    (folder / "report.json").write_text(json.dumps(asdict(report)), encoding="utf-8")


def _as_npy(folder: Path, name: str, count: int) -> None:
    """Put numpy's header before raw numbers, so that they can be mapped."""
    import numpy as np

    raw = np.memmap(folder / f"{name}.raw", dtype=np.int32, mode="r", shape=(count,))
    np.save(folder / f"{name}.npy", raw)
    del raw
    (folder / f"{name}.raw").unlink()


def _report(lengths: NDArray[np.int64], answers: int, cut: int, left_out: int) -> Report:
    import numpy as np

    total = int(lengths.sum())
    batches = [lengths[at : at + 8] for at in range(0, len(lengths), 8)]
    padded = sum(int(batch.max()) * len(batch) for batch in batches)
    return Report(
        examples=len(lengths),
        tokens=total,
        answer_tokens=answers,
        longest=int(lengths.max()),
        median=int(np.median(lengths)),
        cut=cut,
        left_out=left_out,
        padding=1 - total / padded,
    )

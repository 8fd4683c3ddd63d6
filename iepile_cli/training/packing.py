"""Batches: which examples make one, and their tokens packed into one row.

Nothing is padded, and each example attends to itself alone. Positions start anew with each example,
and attention is computed example by example, so that the result is the same as for each example in
a batch of its own. Logits are computed only where an answer's token is to be said.

In a causal model the states of a common beginning (system prompt, instruction, schema) are the same
for all examples that have it. In a row only the first of them has it; each later one is laid out
from where it differs on, and its tokens attend to what the others before it already hold. Nothing
is learnt in what is left out, so loss and gradients are those of whole examples; only LoRA's
dropout is drawn once for a shared token, not once for each example.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from iepile_cli.training.encoding import IGNORED

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

# A shorter beginning costs more in a call with a mask than it saves.
LEAST_SHARED = 8
# A window holds so many batches of each process; examples are sorted by length within it.
_WINDOW = 64


def arrange(
    ids: Sequence[NDArray[np.integer[Any]]], limits: Sequence[int]
) -> list[tuple[int, int]]:
    """The order of examples in a row, each with how many tokens it shares with the one before it.

    ``ids`` are token ids, one array an example; of example i at most the first ``limits[i]``
    tokens may be left to another one. Sorted by their tokens, neighbours share the most.
    """
    import numpy as np

    # Big-endian bytes sort as the numbers do.
    keys = [np.asarray(one).astype(">u4").tobytes() for one in ids]
    order = sorted(range(len(ids)), key=keys.__getitem__)
    found = [(order[0], 0)] if order else []
    for before, one in itertools.pairwise(order):
        most = min(limits[one], len(ids[before]), len(ids[one]) - 1)
        differing = np.flatnonzero(ids[before][:most] != ids[one][:most])
        shared = int(differing[0]) if len(differing) else most
        found.append((one, shared if shared >= LEAST_SHARED else 0))
    return found


class Segments(NamedTuple):
    """A row for one variable-length attention call: where queries and keys of each example begin.

    ``queries`` and ``keys`` of shape (examples + 1,) are cumulative lengths (int32), ``key_index``
    the row's positions that are the keys, example by example; None when they are the row itself.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    longest_query: int
    longest_key: int
    key_index: torch.Tensor | None


@dataclass
class Layout:
    """Where each example of a row finds its tokens.

    ``own[i]`` is how many tokens of example i are in the row, ``shared[i]`` how many it begins
    with that are those of example i - 1. ``chains[i]`` lists, in the order of their positions,
    ``(j, count)``: the first ``count`` of the own tokens of example j. Its last entry is
    ``(i, own[i])``.
    """

    own: list[int]
    shared: list[int]
    chains: list[tuple[tuple[int, int], ...]] = field(init=False)
    _masks: dict[tuple[Any, ...], torch.Tensor] = field(default_factory=dict)
    _segments: dict[Any, Segments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chains = []
        before: tuple[tuple[int, int], ...] = ()
        for example, (own, shared) in enumerate(zip(self.own, self.shared, strict=True)):
            before = (*_first(before, shared), (example, own))
            self.chains.append(before)

    def mask(self, example: int, window: int | None, device: Any) -> torch.Tensor | None:
        """Which positions an example's own tokens attend to, (own, shared + own); True: attends.

        None where that is every position up to their own and nothing is shared. ``window`` bounds
        how many positions back a token sees, itself counted.
        """
        import torch

        own, shared = self.own[example], self.shared[example]
        if window is None or window >= own + shared:
            if not shared:
                return None
            window = own + shared
        key = (own, shared, window, device)
        if key not in self._masks:
            at = torch.arange(shared + own, device=device)
            back = at[shared:, None] - at[None, :]
            self._masks[key] = (back >= 0) & (back < window)
        return self._masks[key]

    def segments(self, device: Any) -> Segments:
        """The row for one variable-length call on a device; copied there once a batch."""
        import numpy as np
        import torch

        if device not in self._segments:
            starts = [0, *itertools.accumulate(self.own)]
            lengths = [own + shared for own, shared in zip(self.own, self.shared, strict=True)]
            index = None
            if any(self.shared):
                pieces = [
                    np.arange(starts[at], starts[at] + count)
                    for chain in self.chains
                    for at, count in chain
                ]
                index = torch.from_numpy(np.concatenate(pieces)).to(device, non_blocking=True)
            ends = [0, *itertools.accumulate(lengths)]
            self._segments[device] = Segments(
                torch.tensor(starts, dtype=torch.int32).to(device, non_blocking=True),
                torch.tensor(ends, dtype=torch.int32).to(device, non_blocking=True),
                max(self.own),
                max(lengths),
                index,
            )
        return self._segments[device]


def _first(chain: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """The first ``length`` tokens of a chain."""
    kept = []
    for example, count in chain:
        if length <= 0:
            break
        kept.append((example, min(count, length)))
        length -= count
    return kept


# -------------------------------------------------------------------------------------- collators


@dataclass(frozen=True)
class PackedCollator:
    """Packs examples end to end into one row of shape (1, total length).

    ``labels`` and ``shift_labels`` of shape (1, n) are the tokens to be said at the n positions
    ``logits_to_keep``. ``tokens`` counts the tokens of the whole examples, shared or not. With
    ``shares`` the row is for ``packed_attention``, which takes ``layout``; without, it is for
    transformers' flash-attention, which takes ``cu_seq_lens_q`` and so on.
    """

    shares: bool = True

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of one row."""
        import numpy as np

        ids = [np.asarray(example["input_ids"]) for example in examples]
        labels = [np.asarray(example["labels"]) for example in examples]
        # What is said at a position is learnt at the one before it; the first one nowhere.
        learnt = [np.flatnonzero(one[1:] != IGNORED) for one in labels]
        order = [(at, 0) for at in range(len(ids))]
        if self.shares:
            # The states that logits are taken from stay with their example.
            limits = [
                int(at[0]) if len(at) else len(one) for at, one in zip(learnt, ids, strict=True)
            ]
            order = arrange(ids, limits)
        row, positions, targets, kept = [], [], [], []
        own, start = [], 0
        for at, shared in order:
            length = len(ids[at])
            row.append(ids[at][shared:])
            positions.append(np.arange(shared, length))
            targets.append(labels[at][learnt[at] + 1])
            kept.append(learnt[at] - shared + start)
            own.append(length - shared)
            start += length - shared
        layout = Layout(own, [shared for _, shared in order])
        wanted = _joined(targets)[None]
        return {
            "input_ids": _joined(row)[None],
            "position_ids": _joined(positions)[None],
            "logits_to_keep": _joined(kept),
            "labels": wanted,
            "shift_labels": wanted,
            "tokens": sum(map(len, ids)),
            **({"layout": layout} if self.shares else _for_flash(layout)),
        }


def _joined(arrays: Sequence[Any]) -> torch.Tensor:
    """Arrays of numbers one after the other."""
    import numpy as np
    import torch

    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))


def _for_flash(layout: Layout) -> dict[str, Any]:
    """Where examples begin and end, as transformers' flash-attention takes it."""
    segments = layout.segments("cpu")
    return {
        "cu_seq_lens_q": segments.queries,
        "cu_seq_lens_k": segments.keys,
        "max_length_q": segments.longest_query,
        "max_length_k": segments.longest_key,
    }


@dataclass(frozen=True)
class PaddedCollator:
    """An ordinary batch, padded on the right to a multiple of 8.

    ``shifts`` gives ``shift_labels``, one place before the ids; without, ``labels`` stand at
    their ids' own places, for models that know nothing else.
    """

    pad: int = 0
    shifts: bool = True

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of as many rows as examples."""
        import numpy as np
        import torch

        longest = max(len(example["input_ids"]) for example in examples)
        width = -(-longest // 8) * 8
        ids = np.full((len(examples), width), self.pad, dtype=np.int64)
        labels = np.full((len(examples), width), IGNORED, dtype=np.int64)
        mask = np.zeros((len(examples), width), dtype=np.int64)
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            ids[row, :length] = example["input_ids"]
            labels[row, :length] = example["labels"]
            mask[row, :length] = 1
        batch = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "tokens": int(mask.sum()),
        }
        if not self.shifts:
            return {**batch, "labels": torch.from_numpy(labels)}
        shifted = np.full_like(labels, IGNORED)
        shifted[:, :-1] = labels[:, 1:]
        wanted = torch.from_numpy(shifted)
        return {**batch, "labels": wanted, "shift_labels": wanted}


# --------------------------------------------------------------------------------------- batches


class BatchSampler:
    """The batches of one process, as lists of indices, in an order drawn for each epoch.

    ``lengths`` are the examples' tokens. Batches have ``examples`` examples, or, where that is 0,
    examples of about the same length with at most ``tokens`` tokens in all. Every process gets as
    many batches, in each round of about the same size, and every example is seen once an epoch
    (again only where there are fewer examples than processes). Batches by tokens are made once and
    keep their examples; batches by number are drawn anew each epoch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        examples: int = 0,
        tokens: int = 0,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._lengths, self._examples, self._tokens = lengths, examples, tokens
        self._seed, self._rank, self._processes = seed, rank, processes
        self._epoch = 0
        self._by_tokens = [] if examples else self._rounds_by_tokens()

    def set_epoch(self, epoch: int) -> None:
        """Take the order of that epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        if self._examples:
            return -(-len(self._lengths) // (self._examples * self._processes))
        return len(self._by_tokens)

    def __iter__(self) -> Iterator[list[int]]:
        rounds = self._rounds_by_number() if self._examples else self._by_tokens
        order = list(range(len(rounds)))
        if not self._examples:
            self._draw().shuffle(order)
        return (rounds[at][self._rank] for at in order)

    def _draw(self) -> random.Random:
        return random.Random(f"{self._seed} {self._epoch}")

    def _rounds_by_number(self) -> list[list[list[int]]]:
        order = list(range(len(self._lengths)))
        self._draw().shuffle(order)
        together = self._examples * self._processes
        return [
            self._shared_out(order[at : at + together]) for at in range(0, len(order), together)
        ]

    def _shared_out(self, examples: list[int]) -> list[list[int]]:
        """One batch for each process, of sizes that differ by one at most."""
        if len(examples) == self._examples * self._processes:
            step = self._examples
            return [examples[at : at + step] for at in range(0, len(examples), step)]
        while len(examples) < self._processes:
            examples = (examples * 2)[: self._processes]
        return [examples[rank :: self._processes] for rank in range(self._processes)]

    def _rounds_by_tokens(self) -> list[list[list[int]]]:
        order = list(range(len(self._lengths)))
        random.Random(self._seed).shuffle(order)
        mean = max(1, sum(map(int, self._lengths)) // max(1, len(order)))
        window = max(1, _WINDOW * self._processes * max(1, self._tokens // mean))
        batches: list[list[int]] = []
        for at in range(0, len(order), window):
            batches += self._packed(sorted(order[at : at + window], key=self._length))
        rounds = [
            batches[at : at + self._processes] for at in range(0, len(batches), self._processes)
        ]
        if rounds and len(rounds[-1]) < self._processes:
            rounds[-1] = self._shared_out([one for batch in rounds[-1] for one in batch])
        return rounds

    def _packed(self, order: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        filled = 0
        for one in order:
            length = self._length(one)
            if batch and filled + length > self._tokens:
                yield batch
                batch, filled = [], 0
            batch.append(one)
            filled += length
        if batch:
            yield batch

    def _length(self, one: int) -> int:
        return int(self._lengths[one])

"""Examples that begin alike: what they share is computed once in a row.

In a causal model the states of a common beginning are the same for all examples that have it. In
a row only the first of them has it; each later one is laid out from where it differs on, and its
tokens attend to what the others before it already hold. Nothing is learnt in what is left out, so
loss and gradients are those of whole examples; only noise (LoRA's dropout, NEFTune) is drawn once
for a shared token, not once for each example.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

# A shorter beginning costs more in a call with a mask than it saves.
LEAST_SHARED = 8


def arranged(
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

    def __post_init__(self) -> None:
        self.chains = []
        before: tuple[tuple[int, int], ...] = ()
        for example, (own, shared) in enumerate(zip(self.own, self.shared, strict=True)):
            before = (*_cut(before, shared), (example, own))
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


def _cut(chain: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """The first ``length`` tokens of a chain."""
    kept = []
    for example, count in chain:
        if length <= 0:
            break
        kept.append((example, min(count, length)))
        length -= count
    return kept

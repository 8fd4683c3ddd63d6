"""Constrained greedy decoding of a batch with a transformers model.

Every row of a batch has its own constraint. Tokens are put into the key-value cache left-padded,
and the attention mask says, for each row, which places of the cache hold its tokens: rows of
different lengths go together, forced tokens go in with the next step instead of one by one, and
what a constraint takes back is masked out. What all prompts of a batch begin with is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from iepile_cli.backends.constraint import Constraint, Unconstrained, choose
from iepile_cli.backends.protocol import Answer
from iepile_cli.backends.scheduler import WORTH_SHARING, Job, common_prefix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

# Prompts go in by so many tokens at a time, all rows together.
_CHUNK = 4096


@dataclass
class _Row:
    """One answer being written: its tokens, and where in the cache those computed are."""

    number: int
    job: Job
    constraint: Constraint | Unconstrained
    tokens: list[int]
    places: list[int]
    computed: int = 0

    @property
    def pending(self) -> int:
        return len(self.tokens) - len(self.places)


@dataclass
class Decoder:
    """Decodes batches with one model; keeps the last common beginning for the next batch.

    ``step_cost`` is what a step costs besides its tokens, in tokens: it says how many of a row's
    forced tokens a step takes along while the other rows have only padding to put beside them.
    """

    model: Any
    device: Any
    step_cost: float
    _prefix: list[int] = field(default_factory=list)
    _prefix_layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        import inspect

        base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        known = inspect.signature(base.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        # Since 5.24 transformers calls it `cache`, and warns of the older name.
        self._cache = "cache" if "cache" in known else "past_key_values"

    def decode(self, jobs: Sequence[Job], finished: Callable[[int, Answer], None]) -> None:
        """Answer jobs; ``finished`` is told of each, by its number, as soon as it is done."""
        import torch

        with torch.inference_mode():
            _Batch(self, jobs, finished).run()

    def forget(self) -> None:
        """Give back the memory of the common beginning."""
        self._prefix, self._prefix_layers = [], []

    def shared(self, prefix: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of a beginning, layer by layer, for one row."""
        import torch

        known = common_prefix(self._prefix, prefix)
        layers = [(k[:, :, :known], v[:, :, :known]) for k, v in self._prefix_layers]
        if known < len(prefix):
            cache = filled(layers if known else [], 1)
            for start in range(known, len(prefix), _CHUNK):
                ids = torch.tensor([prefix[start : start + _CHUNK]], device=self.device)
                self.forward(ids, None, None, cache)
            layers = [(layer.keys, layer.values) for layer in cache.layers]
        self._prefix, self._prefix_layers = list(prefix), layers
        return layers

    def forward(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Any
    ) -> Tensor:
        """One pass of the model; gives the logits of each row's last place."""
        given: dict[str, Any] = {}
        if mask is not None:
            given = {"attention_mask": mask, "position_ids": positions}
        given = {self._cache: cache, "use_cache": True, **given, **self._last_only}
        result = self.model(input_ids=ids, **given)
        logits: Tensor = result.logits[:, -1]
        return logits


class _Batch:
    def __init__(
        self, decoder: Decoder, jobs: Sequence[Job], finished: Callable[[int, Answer], None]
    ) -> None:
        import numpy as np

        self.decoder, self.finished = decoder, finished
        first, *others = (job.prompt for job in jobs)
        # At least one token of each must be left to compute, for its logits.
        lengths = [common_prefix(first, other) for other in others]
        prefix = min([*lengths, *(len(job.prompt) - 1 for job in jobs)])
        prefix = prefix if prefix >= WORTH_SHARING else 0
        self.rows = [
            _Row(number, job, job.start(), list(job.prompt), list(range(prefix)))
            for number, job in enumerate(jobs)
        ]
        shared = decoder.shared(jobs[0].prompt[:prefix]) if prefix else []
        self.cache = filled(shared, len(jobs))
        self.held: NDArray[np.bool_] = np.ones((len(jobs), prefix), dtype=bool)

    def run(self) -> None:
        self.drop_finished()
        for row in self.rows:
            row.tokens += row.constraint.tokens
        while self.rows:
            logits = self.step(self.width())
            ready = [n for n, row in enumerate(self.rows) if not row.pending]
            if ready:
                self.choose(ready, logits)
                self.drop_finished()

    def width(self) -> int:
        """How many places a step fills: as many as make most progress for what they cost."""
        pending = sorted({row.pending for row in self.rows})
        limit = max(1, _CHUNK // len(self.rows))

        def worth(width: int) -> float:
            progress = sum(min(row.pending, width) for row in self.rows)
            return progress / (self.decoder.step_cost + len(self.rows) * width)

        return max((min(width, limit) for width in pending), key=worth)

    def step(self, width: int) -> Tensor:
        """Compute the next ``width`` places of the cache, left-padded."""
        import numpy as np
        import torch

        count, before = self.held.shape
        ids = np.zeros((count, width), dtype=np.int64)
        positions = np.zeros((count, width), dtype=np.int64)
        fresh = np.zeros((count, width), dtype=bool)
        for n, row in enumerate(self.rows):
            at = len(row.places)
            fed = row.tokens[at : at + width]
            pad = width - len(fed)
            ids[n, pad:], fresh[n, pad:] = fed, True
            positions[n, pad:] = range(at, at + len(fed))
            row.places += range(before + pad, before + width)
            row.computed += len(fed)
        self.held = np.concatenate([self.held, fresh], axis=1)
        device = self.decoder.device
        return self.decoder.forward(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(self.held.astype(np.int64)).to(device),
            torch.from_numpy(positions).to(device),
            self.cache,
        )

    def choose(self, ready: Sequence[int], logits: Tensor) -> None:
        """Let each row whose tokens are all computed take its next one."""
        rows = [self.rows[n] for n in ready]
        chosen = choices(logits, ready, [row.constraint for row in rows])
        for n, row, (token, probability) in zip(ready, rows, chosen, strict=True):
            row.constraint.accept(token, probability)
            kept = len(row.job.prompt) + row.constraint.kept
            self.held[n, row.places[kept:]] = False
            del row.places[kept:]
            row.tokens = row.job.prompt + row.constraint.tokens

    def drop_finished(self) -> None:
        """Give the answers that are done, and take their rows out of the batch."""
        import torch

        for row in self.rows:
            if row.constraint.done:
                answer = row.constraint.answer(len(row.job.prompt))
                self.finished(row.number, replace(answer, computed_tokens=row.computed))
        left = [n for n, row in enumerate(self.rows) if not row.constraint.done]
        if left and len(left) < len(self.rows):
            # On the CPU they select from every layer, on whichever GPU it is.
            self.cache.batch_select_indices(torch.tensor(left))
            self.held = self.held[left]
        self.rows = [self.rows[n] for n in left]


def choices(
    logits: Tensor, rows: Sequence[int], constraints: Sequence[Constraint | Unconstrained]
) -> list[tuple[int, float]]:
    """The token that each row takes, and its probability among those allowed.

    Only the scores of allowed tokens leave the device.
    """
    import numpy as np
    import torch

    limit = logits.shape[-1]
    allowed = [constraint.allowed() for constraint in constraints]
    sets = [None if ids is None else ids[ids < limit] for ids in allowed]
    widest = max((len(ids) for ids in sets if ids is not None), default=1)
    index = np.zeros((len(rows), widest), dtype=np.int64)
    for n, ids in enumerate(sets):
        if ids is not None:
            index[n, : len(ids)] = ids
    chosen = logits[list(rows)]
    scores = chosen.gather(1, torch.from_numpy(index).to(logits.device)).float().cpu().numpy()
    return [
        choose(chosen[n].float().cpu().numpy() if ids is None else scores[n, : len(ids)], ids)
        for n, ids in enumerate(sets)
    ]


def filled(layers: Sequence[tuple[Tensor, Tensor]], rows: int) -> Any:
    """A cache whose rows all hold the given keys and values of one row."""
    from transformers import DynamicCache

    # Without the model's settings no layer forgets what a sliding window has passed: places of
    # the cache are not positions here.
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
    return cache

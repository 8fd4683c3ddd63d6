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
from iepile_cli.backends.transformers_loading import is_out_of_memory
from iepile_cli.errors import ModelError, first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

# Prompts go in by so many tokens at a time, all rows together.
_CHUNK = 4096
# Compiled steps are this wide at most, and a power of two: one graph for each width.
_COMPILED_WIDTH = 8
# A cache of fixed size grows by this many places at a time.
_GROWTH = 256


@dataclass
class _Row:
    """One answer being written: its tokens, and where in the cache those computed are.

    ``at`` is its row of the cache.
    """

    number: int
    at: int
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
    With ``compiled`` the steps of answers are compiled: the cache then has a fixed size, and rows
    that are finished stay in it, because every other size would be compiled again.
    """

    model: Any
    device: Any
    step_cost: float
    compiled: bool = False
    _prefix: list[int] = field(default_factory=list)
    _prefix_layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    rows: int = 0
    places: int = 0
    """Rows and places of the cache of a compiled decoder; 0 otherwise."""
    _fixed: Any = None

    def __post_init__(self) -> None:
        import inspect

        base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        known = inspect.signature(base.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        # Since 5.24 transformers calls it `cache`, and warns of the older name.
        self._cache = "cache" if "cache" in known else "past_key_values"
        self._step: Any = _compiled(self.model, self.device) if self.compiled else None

    def decode(self, jobs: Sequence[Job], finished: Callable[[int, Answer], None]) -> None:
        """Answer jobs; ``finished`` is told of each, by its number, as soon as it is done."""
        import torch

        with torch.inference_mode():
            _Batch(self, jobs, finished).run()

    def forget(self) -> None:
        """Give back the memory of the common beginning."""
        self._prefix, self._prefix_layers = [], []
        self._fixed, self.rows, self.places = None, 0, 0

    def cache(self, layers: Sequence[tuple[Tensor, Tensor]], rows: int, places: int) -> Any:
        """A cache whose rows all hold the given keys and values, of one row or of as many.

        A compiled decoder has one, with at least so many rows and places, and uses it again.
        """
        if not self.compiled:
            return filled(layers, rows)
        if rows > self.rows or places > self.places:
            self.rows, self.places = max(rows, self.rows), -(-places // _GROWTH) * _GROWTH
            self._fixed = _fixed(self.places)
        else:
            self._fixed.reset()
        return filled(layers, self.rows, self._fixed)

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
        # The first step makes the fixed cache's layers, outside of what is compiled.
        small = ids.shape[1] <= _COMPILED_WIDTH and len(cache.layers) > 0
        step = self._compiled_step if small and cache is self._fixed else self.model
        logits: Tensor = step(input_ids=ids, **given).logits[:, -1]
        return logits

    def _compiled_step(self, **given: Any) -> Any:
        try:
            return self._step(**given)
        # What compilers and their callers raise are RuntimeErrors, each of its own class.
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            cause = getattr(error, "inner_exception", error)
            raise ModelError(
                f"torch.compile failed: {first_line(cause)}", hint="leave out --compile"
            ) from None


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
            _Row(number, number, job, job.start(), list(job.prompt), list(range(prefix)))
            for number, job in enumerate(jobs)
        ]
        shared = decoder.shared(jobs[0].prompt[:prefix]) if prefix else []
        # Few answers need the whole of their budget.
        places = max(len(job.prompt) + job.budget // 2 for job in jobs)
        self.cache = decoder.cache(shared, len(jobs), places)
        rows = max(len(jobs), decoder.rows)
        self.held: NDArray[np.bool_] = np.ones((rows, prefix), dtype=bool)

    def run(self) -> None:
        self.drop_finished()
        for row in self.rows:
            row.tokens += row.constraint.tokens
        while self.rows:
            logits = self.step(self.width())
            ready = [row for row in self.rows if not row.pending]
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

        width = max((min(width, limit) for width in pending), key=worth)
        if self.decoder.compiled and width <= _COMPILED_WIDTH:
            return 1 << (width - 1).bit_length()
        return width

    def step(self, width: int) -> Tensor:
        """Compute the next ``width`` places of the cache, left-padded."""
        import numpy as np
        import torch

        count, before = self.held.shape
        if self.decoder.compiled and before + width > self.decoder.places:
            held = [(x.keys[:, :, :before], x.values[:, :, :before]) for x in self.cache.layers]
            self.cache = self.decoder.cache(held, count, before + width)
        ids = np.zeros((count, width), dtype=np.int64)
        positions = np.zeros((count, width), dtype=np.int64)
        fresh = np.zeros((count, width), dtype=bool)
        for row in self.rows:
            done = len(row.places)
            fed = row.tokens[done : done + width]
            pad = width - len(fed)
            ids[row.at, pad:], fresh[row.at, pad:] = fed, True
            positions[row.at, pad:] = range(done, done + len(fed))
            row.places += range(before + pad, before + width)
            row.computed += len(fed)
        self.held = np.concatenate([self.held, fresh], axis=1)
        unused = max(0, self.decoder.places - self.held.shape[1])
        mask = np.pad(self.held.astype(np.int64), ((0, 0), (0, unused)))
        device = self.decoder.device
        return self.decoder.forward(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(mask).to(device),
            torch.from_numpy(positions).to(device),
            self.cache,
        )

    def choose(self, ready: Sequence[_Row], logits: Tensor) -> None:
        """Let each row whose tokens are all computed take its next one."""
        chosen = choices(logits, [row.at for row in ready], [row.constraint for row in ready])
        for row, (token, probability) in zip(ready, chosen, strict=True):
            row.constraint.accept(token, probability)
            kept = len(row.job.prompt) + row.constraint.kept
            self.held[row.at, row.places[kept:]] = False
            del row.places[kept:]
            row.tokens = row.job.prompt + row.constraint.tokens

    def drop_finished(self) -> None:
        """Give the answers that are done, and take their rows out of the batch."""
        import torch

        for row in self.rows:
            if row.constraint.done:
                answer = row.constraint.answer(len(row.job.prompt))
                self.finished(row.number, replace(answer, computed_tokens=row.computed))
        left = [row for row in self.rows if not row.constraint.done]
        if left and len(left) < len(self.rows) and not self.decoder.compiled:
            at = [row.at for row in left]
            # On the CPU they select from every layer, on whichever GPU it is.
            self.cache.batch_select_indices(torch.tensor(at))
            self.held = self.held[at]
            for n, row in enumerate(left):
                row.at = n
        self.rows = left


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


def filled(layers: Sequence[tuple[Tensor, Tensor]], rows: int, cache: Any = None) -> Any:
    """A cache whose rows all hold the given keys and values of one row, or of as many."""
    from transformers import DynamicCache

    # Without the model's settings no layer forgets what a sliding window has passed: places of
    # the cache are not positions here.
    cache = DynamicCache() if cache is None else cache
    for number, (keys, values) in enumerate(layers):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
    return cache


def _fixed(places: int) -> Any:
    """A cache whose layers all have so many places; the layers come with their first values."""
    from functools import partial

    from transformers import Cache, StaticLayer

    return Cache(layer_class_to_replicate=partial(StaticLayer, max_cache_len=places))


def _compiled(model: Any, device: Any) -> Any:
    """A model whose calls are compiled: on CUDA as graphs that are recorded once."""
    import torch

    return torch.compile(model, mode="reduce-overhead" if device.type == "cuda" else None)

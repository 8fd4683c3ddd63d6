"""Many answers at once: sequences that start, decode and end independently in one batch.

New requests take over what a sequence before them has computed of a common prompt (the
instruction and the schema), forced tokens go in with the next step instead of one by one, and
answers come out in the order of their requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iepile_cli.backends import Answer
from iepile_cli.backends.constrain import Constraint, Unconstrained, choose
from iepile_cli.backends.llamacpp_context import BATCH, Context, Feed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A shorter common beginning is not worth waiting for.
_WORTH = 16
# Finished sequences that are kept for their prompts, and how much of each.
SPARE = 4
_SPARE_LENGTH = 512
# How many times the parallel answers may be finished and waiting for an earlier one.
_AHEAD = 4


@dataclass(frozen=True)
class Job:
    """A request as token ids, with a way to start the constraint of its answer."""

    prompt: list[int]
    budget: int
    start: Callable[[], Constraint | Unconstrained]


class _Sequence:
    """One sequence of the cache: what is in it, and the answer being written to it, if any."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tokens: list[int] = []
        """The prompt and what is answered so far; the first ``past`` of them are computed."""
        self.past = 0
        self.job: Job | None = None
        self.order = -1
        self.constraint: Constraint | Unconstrained | None = None

    @property
    def reserved(self) -> int:
        """Tokens of the cache that this sequence may come to need."""
        return len(self.job.prompt) + self.job.budget if self.job else len(self.tokens)


def run(
    context: Context, jobs: Iterable[Job], parallel: int, meter: Callable[[int], None] | None = None
) -> Iterator[Answer]:
    """Answer jobs, in order, ``parallel`` at a time; ``meter`` is told of computed tokens."""
    # A run before this one may have been left in the middle.
    context.clear()
    yield from _Scheduler(context, parallel, meter).run(iter(jobs))


class _Scheduler:
    def __init__(
        self, context: Context, parallel: int, meter: Callable[[int], None] | None
    ) -> None:
        self.context, self.parallel, self.meter = context, parallel, meter
        self.sequences = [_Sequence(number) for number in range(parallel + SPARE)]
        self.waiting: Job | None = None
        self.started = 0
        self.given = 0
        self.finished: dict[int, Answer] = {}

    def run(self, jobs: Iterator[Job]) -> Iterator[Answer]:
        while True:
            self.fill(jobs)
            active = [sequence for sequence in self.sequences if sequence.job]
            if active:
                self.step(active)
            while self.given in self.finished:
                answer = self.finished.pop(self.given)
                self.given += 1
                yield answer
            if not active and self.waiting is None:
                return

    # -------------------------------------------------------------------------------- starting

    def fill(self, jobs: Iterator[Job]) -> None:
        """Start as many jobs as there is room for."""
        while True:
            if self.waiting is None:
                self.waiting = next(jobs, None)
            if self.waiting is None or not self.begin(self.waiting):
                return
            self.waiting = None

    def begin(self, job: Job) -> bool:
        """Start a job if a sequence and the cache have room and nothing is worth waiting for."""
        active = sum(1 for sequence in self.sequences if sequence.job)
        ahead = self.started - self.given
        if active >= self.parallel or ahead >= _AHEAD * self.parallel:
            return False
        donor, shared, later = self.donor(job.prompt)
        if later >= shared + _WORTH:
            return False
        if not self.make_room(len(job.prompt) + job.budget, spare_last=donor):
            return False
        target = next(s for s in self.sequences if not s.job and not s.tokens)
        if donor is not None and donor.tokens:
            self.context.share(donor.number, target.number, shared)
            target.past = shared
        target.job, target.order, target.constraint = job, self.started, job.start()
        target.tokens = job.prompt + target.constraint.tokens
        self.started += 1
        return True

    def donor(self, prompt: list[int]) -> tuple[_Sequence | None, int, int]:
        """The sequence with the longest computed common beginning, its length, and the length
        that a sequence still at its prompt is going to have."""
        best: _Sequence | None = None
        shared = later = 0
        for sequence in self.sequences:
            common = _common(sequence.tokens, prompt)
            # At least one token must be left to compute, for its logits.
            common = min(common, len(prompt) - 1)
            if min(common, sequence.past) > shared:
                best, shared = sequence, min(common, sequence.past)
            if sequence.job:
                later = max(later, common)
        return best, shared, later

    def make_room(self, need: int, spare_last: _Sequence | None) -> bool:
        """Drop kept prompts until ``need`` tokens fit; False when they cannot for now."""
        while sum(sequence.reserved for sequence in self.sequences) + need > self.context.size:
            spare = [s for s in self.sequences if not s.job and s.tokens]
            if not spare:
                return False
            spare.sort(key=lambda s: (s is spare_last, -len(s.tokens)))
            self.context.trim(spare[0].number, 0)
            spare[0].tokens, spare[0].past = [], 0
        return True

    # -------------------------------------------------------------------------------- decoding

    def step(self, active: list[_Sequence]) -> None:
        """Compute the next tokens of all sequences, short ones first, and choose what follows."""
        feeds, fed, room = [], [], BATCH
        for sequence in sorted(active, key=lambda s: (len(s.tokens) - s.past, s.order)):
            pending = sequence.tokens[sequence.past : sequence.past + room]
            if not pending:
                break
            whole = sequence.past + len(pending) == len(sequence.tokens)
            feeds.append(Feed(sequence.number, sequence.past, pending, whole))
            fed.append(sequence)
            room -= len(pending)
        logits = iter(self.context.decode(feeds))
        if self.meter:
            self.meter(BATCH - room)
        for sequence, feed in zip(fed, feeds, strict=True):
            sequence.past += len(feed.tokens)
            if feed.logits:
                self.choose(sequence, next(logits))

    def choose(self, sequence: _Sequence, logits: NDArray[np.float32]) -> None:
        constraint, job = sequence.constraint, sequence.job
        assert constraint is not None
        assert job is not None
        if not constraint.done:
            ids = constraint.allowed()
            scores = logits if ids is None else logits[ids]
            token, probability = choose(scores, ids, constraint)
            constraint.accept(token, probability)
            kept = len(job.prompt) + constraint.kept
            if sequence.past > kept:
                self.context.trim(sequence.number, kept)
                sequence.past = kept
            sequence.tokens = job.prompt + constraint.tokens
        if constraint.done:
            self.finished[sequence.order] = constraint.answer(len(job.prompt))
            self.retire(sequence, len(job.prompt))

    def retire(self, sequence: _Sequence, prompt_length: int) -> None:
        """Free a sequence; its prompt is kept as a donor if no other one begins like it."""
        sequence.job, sequence.constraint = None, None
        others = [other for other in self.sequences if other is not sequence]
        length = min(prompt_length, sequence.past, _SPARE_LENGTH)
        tokens = sequence.tokens[:length]
        spare = sum(1 for other in others if not other.job and other.tokens)
        if spare >= SPARE or any(_common(other.tokens, tokens) >= _WORTH for other in others):
            length = 0
        self.context.trim(sequence.number, length)
        sequence.tokens, sequence.past = tokens[:length], length


def _common(left: list[int], right: list[int]) -> int:
    """How many tokens two lists have in common at their beginnings."""
    length = min(len(left), len(right))
    if left[:length] == right[:length]:
        return length
    return next(n for n in range(length) if left[n] != right[n])

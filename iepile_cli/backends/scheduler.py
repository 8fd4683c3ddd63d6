"""Many answers at once: sequences that start, decode and end independently in one batch.

New requests take over what a sequence before them has computed of a common prompt (the
instruction and the schema), forced tokens go in with the next step instead of one by one, and
answers come out in the order of their requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from iepile_cli.backends.constraint import Constraint, Unconstrained, choose
from iepile_cli.backends.protocol import Answer, ConstrainingTokenizer, Request
from iepile_cli.errors import ModelError
from iepile_cli.templates import encode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from iepile_cli.backends.llamacpp import Context

# Sequences that llama.cpp can tell apart.
MOST_SEQUENCES = 256
# A shorter common beginning is not worth waiting for, or computing apart.
WORTH_SHARING = 16
# Finished sequences that are kept for their prompts, and how much of each.
_SPARE = 4
_SPARE_LENGTH = 512
# Tokens of an answer that are reserved before they are there.
_HEADROOM = 96
# How many times the parallel answers may be finished and waiting for an earlier one.
_AHEAD = 4


class Feed(NamedTuple):
    """Tokens to add to a sequence from a position on, and whether to give logits for the last."""

    sequence: int
    position: int
    tokens: Sequence[int]
    logits: bool


@dataclass(frozen=True)
class Job:
    """A request as token ids, with a way to start the constraint of its answer."""

    prompt: list[int]
    budget: int
    start: Callable[[], Constraint | Unconstrained]

    @classmethod
    def of(
        cls,
        request: Request,
        tokenizer: ConstrainingTokenizer,
        context: int,
        ends: frozenset[int],
    ) -> Job:
        """The job of a request; ``ends`` are the tokens that end an answer without a grammar.

        Raises ``ModelError`` for a prompt that leaves no room for its answer.
        """
        prompt = encode(request.prompt, tokenizer)
        budget = min(request.max_tokens, context - len(prompt))
        if budget <= 0:
            raise ModelError(
                f"a prompt of {len(prompt)} tokens leaves no room for an answer in a context of "
                f"{context}",
                hint="ask for fewer types at once (--split-num) or give a larger --context",
            )
        vocabulary = tokenizer.constraining
        if request.grammar is None:
            words = {word: tokenizer.control(word) for word in request.prompt.stop}
            stops = ends | {token for token in words.values() if token is not None}
            texts = tuple(word for word, token in words.items() if token is None)
            return cls(prompt, budget, partial(Unconstrained, vocabulary, budget, stops, texts))
        start = partial(Constraint, vocabulary, request.grammar, budget, request.empties)
        return cls(prompt, budget, start)


class _Sequence:
    """One sequence of the cache: what is in it, and the answer being written to it, if any."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tokens: list[int] = []
        """The prompt and what is answered so far; the first ``past`` of them are computed."""
        self.past = 0
        self.computed = 0
        """Tokens computed for the answer, without those that were shared."""
        self.job: Job | None = None
        self.order = -1
        self.constraint: Constraint | Unconstrained | None = None

    @property
    def expected(self) -> int:
        """Tokens of the cache that this sequence has, or is about to need.

        Few answers use their budget up; one that needs more room takes it from younger ones.
        """
        if self.job is None:
            return len(self.tokens)
        longest = len(self.job.prompt) + self.job.budget
        return min(longest, len(self.tokens) + _HEADROOM)


def sequences(parallel: int) -> int:
    """The sequences of a context: beyond those that run, some hold prompts for others to share."""
    return min(parallel + _SPARE, MOST_SEQUENCES)


def run(context: Context, jobs: Iterable[Job], parallel: int) -> Iterator[Answer]:
    """Answer jobs, in order, ``parallel`` at a time."""
    # A run before this one may have been left in the middle.
    context.clear()
    yield from _Scheduler(context, parallel).run(iter(jobs))


class _Scheduler:
    def __init__(self, context: Context, parallel: int) -> None:
        self.context, self.parallel = context, parallel
        self.sequences = [_Sequence(number) for number in range(sequences(parallel))]
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
        if later >= shared + WORTH_SHARING:
            return False
        need = len(job.prompt) + min(job.budget, _HEADROOM)
        if not self.make_room(need, spare_last=donor):
            return False
        target = next(s for s in self.sequences if not s.job and not s.tokens)
        if donor is not None and donor.tokens:
            self.context.share(donor.number, target.number, shared)
            target.past = shared
        target.job, target.order, target.constraint = job, self.started, job.start()
        target.tokens, target.computed = job.prompt + target.constraint.tokens, 0
        self.started += 1
        return True

    def donor(self, prompt: list[int]) -> tuple[_Sequence | None, int, int]:
        """The sequence with the longest computed common beginning, its length, and the length
        that a sequence still at its prompt is going to have."""
        best: _Sequence | None = None
        shared = later = 0
        for sequence in self.sequences:
            common = common_prefix(sequence.tokens, prompt)
            # At least one token must be left to compute, for its logits.
            common = min(common, len(prompt) - 1)
            if min(common, sequence.past) > shared:
                best, shared = sequence, min(common, sequence.past)
            if sequence.job:
                later = max(later, common)
        return best, shared, later

    def make_room(self, need: int, spare_last: _Sequence | None = None) -> bool:
        """Drop kept prompts until ``need`` tokens fit; False when they cannot for now."""
        while sum(sequence.expected for sequence in self.sequences) + need > self.context.size:
            spare = [s for s in self.sequences if not s.job and s.tokens]
            if not spare:
                return False
            self.drop(min(spare, key=lambda s: (s is spare_last, -len(s.tokens))))
        return True

    def drop(self, sequence: _Sequence) -> None:
        """Forget a kept prompt."""
        self.empty(sequence)
        sequence.tokens = []

    def empty(self, sequence: _Sequence) -> None:
        """Take what is computed of a sequence out of the cache."""
        self.context.trim(sequence.number, 0)
        sequence.past = 0

    # -------------------------------------------------------------------------------- decoding

    def step(self, active: list[_Sequence]) -> None:
        """Compute the next tokens of all sequences, short ones first, and choose what follows."""
        feeds: list[Feed] = []
        fed: list[_Sequence] = []
        room = self.context.batch
        oldest = min(active, key=lambda s: s.order)
        for sequence in sorted(active, key=lambda s: (len(s.tokens) - s.past, s.order)):
            pending = sequence.tokens[sequence.past : sequence.past + room]
            if not pending:
                break
            taken = sum(len(feed.tokens) for feed in feeds)
            if not self.holds(sequence, taken, [*fed, sequence], evict=sequence is oldest):
                continue
            whole = sequence.past + len(pending) == len(sequence.tokens)
            feeds.append(Feed(sequence.number, sequence.past, pending, whole))
            fed.append(sequence)
            room -= len(pending)
        logits = iter(self.context.decode(feeds))
        for sequence, feed in zip(fed, feeds, strict=True):
            sequence.past += len(feed.tokens)
            sequence.computed += len(feed.tokens)
            if feed.logits:
                self.choose(sequence, next(logits))

    def holds(
        self, sequence: _Sequence, taken: int, fed: Sequence[_Sequence], *, evict: bool
    ) -> bool:
        """Whether the cache holds the rest of a sequence besides ``taken`` tokens of others.

        Kept prompts make way, and with ``evict`` the youngest of those that are not in ``fed``:
        these are computed again when there is room.
        """
        need = taken + len(sequence.tokens) - sequence.past
        while sum(other.past for other in self.sequences) + need > self.context.size:
            spare = [s for s in self.sequences if not s.job and s.tokens]
            younger = [s for s in self.sequences if s.job and s.past and s not in fed]
            if spare:
                self.drop(spare[0])
            elif evict and younger:
                self.empty(max(younger, key=lambda s: s.order))
            else:
                return False
        return True

    def choose(self, sequence: _Sequence, logits: NDArray[np.float32]) -> None:
        constraint, job = sequence.constraint, sequence.job
        assert constraint is not None
        assert job is not None
        if not constraint.done:
            ids = constraint.allowed()
            scores = logits if ids is None else logits[ids]
            token, probability = choose(scores, ids)
            constraint.accept(token, probability)
            kept = len(job.prompt) + constraint.kept
            if sequence.past > kept:
                self.context.trim(sequence.number, kept)
                sequence.past = kept
            sequence.tokens = job.prompt + constraint.tokens
        if constraint.done:
            answer = constraint.answer(len(job.prompt))
            self.finished[sequence.order] = replace(answer, computed_tokens=sequence.computed)
            self.retire(sequence, len(job.prompt))

    def retire(self, sequence: _Sequence, prompt_length: int) -> None:
        """Free a sequence; its prompt is kept as a donor if no other one begins like it."""
        sequence.job, sequence.constraint = None, None
        others = [other for other in self.sequences if other is not sequence]
        length = min(prompt_length, sequence.past, _SPARE_LENGTH)
        tokens = sequence.tokens[:length]
        spare = sum(1 for other in others if not other.job and other.tokens)
        if spare >= _SPARE or any(
            common_prefix(other.tokens, tokens) >= WORTH_SHARING for other in others
        ):
            length = 0
        self.context.trim(sequence.number, length)
        sequence.tokens, sequence.past = tokens[:length], length


def common_prefix(left: list[int], right: list[int]) -> int:
    """How many tokens two lists have in common at their beginnings."""
    length = min(len(left), len(right))
    if left[:length] == right[:length]:
        return length
    return next(n for n in range(length) if left[n] != right[n])

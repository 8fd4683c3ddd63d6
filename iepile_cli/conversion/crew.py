"""Worker processes that work through chunks in order, a few ahead and no more."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TypeVar

from iepile_cli.conversion.exchange import Exchange, Place, at_place
from iepile_cli.errors import IEPileError, UsageError

_In = TypeVar("_In")
_Out = TypeVar("_Out")

# Starting a process takes longer than converting a megabyte: so much is done without one.
_ALONE = 4


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ignore_interrupts() -> None:
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Crew:
    """A number of worker processes, started when there is enough to do for more than one.

    ``ahead`` chunks are under way at once, which bounds the memory. Leaving the ``with`` block
    stops the processes.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"--workers {workers} is not a number of processes")
        self.workers = workers or min(processors(), 8)
        self.ahead = self.workers + 2
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """Make every ``map`` that is under way, in whichever thread, end with an interruption."""
        self._stopped = True

    def _checked(self, chunks: Iterable[_In]) -> Iterator[_In]:
        for chunk in chunks:
            if self._stopped:
                raise KeyboardInterrupt
            yield chunk

    def map(
        self, work: Callable[[_In], _Out], chunks: Iterable[_In], *, at_once: bool = False
    ) -> Iterator[_Out]:
        """``work`` done on each chunk, in order. ``at_once`` gives even the first one away.

        Raises ``IEPileError`` when a process dies.
        """
        rest = self._checked(chunks)
        first = [] if at_once else list(itertools.islice(rest, _ALONE))
        if self.workers == 1 or (not at_once and len(first) < _ALONE):
            for chunk in itertools.chain(first, rest):
                yield work(chunk)
            return
        ahead = self.ahead if not at_once else 3
        with Exchange(ahead) as exchange:
            yield from self._shared(work, itertools.chain(first, rest), exchange)

    def _shared(
        self, work: Callable[[_In], _Out], chunks: Iterable[_In], exchange: Exchange
    ) -> Iterator[_Out]:
        under_way: deque[tuple[Future[tuple[_Out, int]], Place | None]] = deque()

        def oldest() -> _Out:
            future, place = under_way.popleft()
            result, length = future.result()
            exchange.fetch(place, result, length)
            return result

        try:
            for number, chunk in enumerate(chunks):
                # A slot is free again once its result has been taken out of it.
                place = exchange.put(number, chunk)
                under_way.append((self._started().submit(at_place, work, chunk, place), place))
                if len(under_way) >= exchange.slots:
                    yield oldest()
            while under_way:
                yield oldest()
        except BrokenProcessPool:
            raise IEPileError(
                "a worker process died", hint="perhaps for want of memory; try --workers 1"
            ) from None
        finally:
            for future, _ in under_way:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                # "spawn" works on every platform and alongside threads.
                self._pool = ProcessPoolExecutor(
                    self.workers,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_ignore_interrupts,
                )
            return self._pool

"""Jobs in several processes, where the machine has them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from multiprocessing.pool import Pool

Result = TypeVar("Result")


def in_processes(
    work: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], meanwhile: Callable[[], None]
) -> Iterator[Result]:
    """``work`` done on every job, in several processes if that helps; results in the jobs' order.

    ``meanwhile`` is called once while the processes work.
    """
    workers = min(cores(), len(jobs))
    if workers < 2:
        yield from (work(*job) for job in jobs)
        return
    with _pool(workers) as pool:
        waiting = [pool.apply_async(work, job) for job in jobs]
        meanwhile()
        for result in waiting:
            yield result.get()


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pool(size: int) -> Pool:
    import multiprocessing

    # Forking is fast, and safe as long as there is one thread.
    forks = sys.platform == "linux" and threading.active_count() == 1
    context: BaseContext = multiprocessing.get_context("fork" if forks else "spawn")
    return context.Pool(size, initializer=_ignore_interrupt)


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the parent, which ends its workers."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

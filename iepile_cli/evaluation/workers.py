"""Jobs in several processes, where the machine has them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from iepile_cli.errors import IEPileError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.queues import SimpleQueue

Result = TypeVar("Result")
Job = tuple[Any, ...]


def in_processes(
    work: Callable[..., Result], jobs: Sequence[Job], meanwhile: Callable[[], None]
) -> Iterator[Result]:
    """``work`` done on every job, in several processes if that helps; results in the jobs' order.

    ``meanwhile`` is called once while the processes work. Raises what ``work`` raises, and
    ``IEPileError`` when a process is killed.
    """
    workers = min(cores(), len(jobs))
    if workers < 2:
        yield from (work(*job) for job in jobs)
        return
    # A pool of the standard library takes a tenth of a second for its three threads, and waits
    # for ever for a process that was killed.
    context = _context()
    left: SimpleQueue[int] = context.SimpleQueue()
    for number in [*range(len(jobs)), *([-1] * workers)]:
        left.put(number)
    processes = []
    pipes: list[Connection] = []
    try:
        for _ in range(workers):
            pipe, end = context.Pipe(duplex=False)
            pipes.append(pipe)
            forked = pipes if context.get_start_method() == "fork" else ()
            process = context.Process(
                target=_work_off, args=(work, jobs, left, end, forked), daemon=True
            )
            process.start()
            processes.append(process)
            end.close()
        meanwhile()
        yield from _in_order(pipes, len(jobs))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _in_order(pipes: list[Connection], jobs: int) -> Iterator[Any]:
    from multiprocessing.connection import wait

    early: dict[int, Any] = {}
    for number in range(jobs):
        while number not in early:
            if not pipes:
                raise IEPileError("a process was killed", hint="is there enough memory?")
            ready: Any = wait(pipes)
            for pipe in ready:
                try:
                    done, result, error = pipe.recv()
                except EOFError:
                    pipes.remove(pipe)
                    continue
                if error is not None:
                    raise error
                early[done] = result
        yield early.pop(number)


def _work_off(
    work: Callable[..., Any],
    jobs: Sequence[Job],
    left: SimpleQueue[int],
    end: Connection,
    forked: Sequence[Connection],
) -> None:
    """Do jobs until none is left: the life of a process."""
    import signal

    # Ctrl-C is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The parent is to be the only one that reads: so a worker whose parent is gone ends too.
    for pipe in forked:
        pipe.close()
    while (number := left.get()) >= 0:
        try:
            end.send((number, work(*jobs[number]), None))
        except BrokenPipeError:
            return
        except Exception as error:
            end.send((number, None, error))


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _context() -> Any:
    import multiprocessing

    # Forking is fast, and safe as long as there is one thread.
    forks = sys.platform == "linux" and threading.active_count() == 1
    return multiprocessing.get_context("fork" if forks else "spawn")

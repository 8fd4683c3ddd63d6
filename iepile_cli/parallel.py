"""Processors and worker processes: how many there are, and work done on them in order.

The only home of both in the package.
"""

from __future__ import annotations

import functools
import itertools
import math
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from iepile_cli.errors import IEPileError, UsageError

_In = TypeVar("_In")
_Out = TypeVar("_Out")

MAX_WORKERS = 8
# Starting a process takes longer than working through a few chunks.
_WITHOUT_WORKERS = 4
# Memory that a worker shares with its parent, for what one result holds in ``PickleBuffer``: what
# goes through a pipe is copied six times.
_SHARED = 1 << 23
_Result = tuple[bytes, list[int]]


@functools.cache
def processors() -> int:
    """How many logical processors this process may use: affinity, within the cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, math.ceil(min(count, _cgroup_quota())))


@functools.cache
def physical_cores() -> int:
    """How many physical cores this process may use: two threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        # Elsewhere affinity is rare, and two hardware threads of a core the rule where there are.
        import psutil

        return min(processors(), psutil.cpu_count(logical=False) or processors())
    siblings = set()
    for number in os.sched_getaffinity(0):
        topology = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        try:
            siblings.add(topology.read_text(encoding="ascii").strip())
        except OSError:
            siblings.add(str(number))
    return max(1, min(len(siblings), processors()))


def set_torch_threads(threads: int = 0, *, processes: int = 1) -> None:
    """Set how many threads torch computes with: as given, else the cores shared by ``processes``.

    Threads that wait busily for each other take many times as long as soon as something else runs
    on the machine: they sleep instead, unless the user's own settings of OpenMP say otherwise.
    OpenMP reads that when torch is first imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    import torch

    if threads or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads or max(1, physical_cores() // processes))


def _cgroup_quota() -> float:
    """Processors that the control group may use, counted in time; infinite without a limit."""
    quota = math.inf
    for folder in _cgroup_folders():
        try:
            allowed, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            if allowed != "max":
                quota = min(quota, int(allowed) / int(period))
        except (OSError, ValueError):
            continue
    return quota


def _cgroup_folders() -> Iterator[Path]:
    """The control groups of this process, from its own to the root (version 2)."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    inner = root / own.lstrip("/")
    yield inner
    yield from (folder for folder in inner.parents if folder.is_relative_to(root))


class WorkerPool:
    """Worker processes that work through chunks in order, a few ahead and no more.

    They are started when there is enough to do for more than one; ``workers + 2`` chunks are under
    way at once, which bounds the memory. Leaving the ``with`` block stops them. Raises
    ``UsageError`` for a number below 1.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"--workers {workers} is not a number of processes")
        self.workers = workers or min(processors(), MAX_WORKERS)
        self.ahead = self.workers + 2
        self._pool: ProcessPoolExecutor | None = None
        self._shared: list[mmap.mmap] = []
        self._free: list[int] = []
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """End every ``map`` that is under way, in whichever thread, with ``KeyboardInterrupt``."""
        self._stopped = True

    def map(
        self,
        function: Callable[[_In], _Out],
        chunks: Iterable[_In],
        *,
        serial: int = _WITHOUT_WORKERS,
        ahead: int | None = None,
    ) -> Iterator[_Out]:
        """``function`` of each chunk, in order, lazily.

        Fewer than ``serial`` chunks are done in this process. At most ``ahead`` chunks are under
        way at once. A view that a result holds in place of a ``PickleBuffer`` is good until the
        next result is asked for. Raises what ``function`` raises, and ``IEPileError`` when a
        process dies.
        """
        rest = self._until_stopped(chunks)
        first = list(itertools.islice(rest, serial))
        everything = itertools.chain(first, rest)
        if self.workers == 1 or len(first) < serial:
            return map(function, everything)
        return self._distribute(function, everything, ahead or self.ahead)

    def _until_stopped(self, chunks: Iterable[_In]) -> Iterator[_In]:
        for chunk in chunks:
            if self._stopped:
                raise KeyboardInterrupt
            yield chunk

    def _distribute(
        self, function: Callable[[_In], _Out], chunks: Iterable[_In], ahead: int
    ) -> Iterator[_Out]:
        under_way: deque[tuple[Future[_Result], int]] = deque()
        try:
            for chunk in chunks:
                # The first one starts the processes: an interrupt in the middle of a fork is lost.
                with _interrupts_held():
                    pool = self._started()
                    place = self._free.pop() if self._free else -1
                    under_way.append((pool.submit(_result, function, chunk, place), place))
                if len(under_way) >= ahead:
                    yield from self._taken(*under_way.popleft())
            while under_way:
                yield from self._taken(*under_way.popleft())
        except BrokenProcessPool:
            raise IEPileError(
                "a worker process died", hint="perhaps for want of memory; try --workers 1"
            ) from None
        finally:
            for future, _ in under_way:
                future.cancel()

    def _taken(self, future: Future[_Result], place: int) -> Iterator[Any]:
        """A result; its place is free when the next one is asked for."""
        pickled, sizes = future.result()
        ends = list(itertools.accumulate(sizes))
        views = [
            memoryview(self._shared[place])[end - size : end]
            for size, end in zip(sizes, ends, strict=True)
        ]
        yield pickle.loads(pickled, buffers=views)
        if place >= 0:
            self._free.append(place)

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                method = _start_method()
                if method == "fork":
                    self._shared = [mmap.mmap(-1, _SHARED) for _ in range(self.ahead + 1)]
                    self._free = list(range(len(self._shared)))
                self._pool = ProcessPoolExecutor(
                    self.workers,
                    mp_context=multiprocessing.get_context(method),
                    initializer=_prepare_worker,
                    initargs=(self._shared,),
                )
            return self._pool


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C waiting until the block ends, where the platform can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_method() -> str:
    """Forking is fast, and safe as long as there is one thread; spawning works everywhere."""
    return "fork" if sys.platform == "linux" and threading.active_count() == 1 else "spawn"


# In a worker: the memory that it shares with its parent, if any.
_memory: list[mmap.mmap] = []


def _result(function: Callable[[_In], _Out], chunk: _In, place: int) -> _Result:
    """``function`` of a chunk, pickled, and the sizes of what was put in shared memory."""
    sizes: list[int] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        start = sum(sizes)
        if place < 0 or start + view.nbytes > _SHARED:
            return True
        _memory[place][start : start + view.nbytes] = cast(bytes, view)
        sizes.append(view.nbytes)
        return False

    return pickle.dumps(function(chunk), protocol=5, buffer_callback=stays), sizes


def _prepare_worker(shared: list[mmap.mmap]) -> None:
    """Leave it to the parent what Ctrl-C, SIGTERM and the end of the terminal mean; end with it."""
    _memory[:] = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that is killed tells nobody, and its workers would wait for more for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

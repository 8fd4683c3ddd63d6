"""Shards on a Ray cluster: a pool of actors works through them, Ray Data keeps it alive.

The only module that knows Ray. Ray restarts actors that die and puts their shards to others; what
a shard's work raises ends the run.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, TypeAlias

from iepile_cli.errors import IEPileError, ModelError, install_hint

LOCAL = "local"
# What a worker is asked for: a shard's number and whatever its work needs to know.
Task: TypeAlias = tuple[int, Any]
# What a worker does with a shard; gives counts by name.
Work: TypeAlias = Callable[[int, Any], Mapping[str, float]]


@dataclass(frozen=True)
class Outcome:
    """What became of a shard: counts by name, or why the run cannot go on."""

    number: int
    counts: Mapping[str, float]
    error: IEPileError | None = None


@dataclass(frozen=True)
class Pool:
    """How many workers there are at most (0: no limit) and what each takes of a node."""

    replicas: int = 0
    processors: float = 1
    gpus: float = 0.0


class _Actor:
    """A worker on the cluster; ``make`` (pickled) gives what does the work, at the first shard."""

    def __init__(self, make: bytes) -> None:
        self._make = make
        self._work: Work | None = None

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, list[bytes]]:
        outcomes = [self._one(bytes(row)) for row in rows["task"]]
        return {"outcome": [pickle.dumps(one) for one in outcomes]}

    def _one(self, row: bytes) -> Outcome:
        number, about = pickle.loads(row)
        try:
            if self._work is None:
                # Here and not when the actor starts: Ray would start it again and again.
                self._work = pickle.loads(self._make)()
            return Outcome(number, self._work(number, about))
        except IEPileError as error:
            return Outcome(number, {}, error)


def run_shards(
    make: Callable[[], Work],
    tasks: Sequence[Task],
    pool: Pool,
) -> Iterator[Outcome]:
    """Work through shards on the connected cluster; gives outcomes as they come.

    ``make`` is pickled and called once in each worker; what it gives is called with the number of
    a shard and what its task says, and may be called again for a shard whose worker died. Raises
    ``ModelError`` when Ray gives up.
    """
    import ray
    from ray.data import ActorPoolStrategy

    first = pool.replicas and min(pool.replicas, len(tasks))
    strategy = ActorPoolStrategy(
        min_size=1,
        max_size=first or len(tasks),
        initial_size=first or 1,
        # One more than an actor works on: that some wait is what makes Ray start more actors.
        max_tasks_in_flight_per_actor=2,
    )
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_args=(pickle.dumps(make),),
        batch_size=None,
        compute=strategy,
        num_cpus=pool.processors,
        num_gpus=pool.gpus or None,
    )
    try:
        for row in outcomes.iter_rows():
            yield pickle.loads(row["outcome"])
    except ray.exceptions.RayError as error:
        raise ModelError(f"the cluster gave up: {_last_line(error)}") from error


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


@contextmanager
def connected(address: str, *, verbose: bool = False) -> Iterator[None]:
    """A connection to a cluster, or a cluster of this machine's own for ``local``.

    Ray writes nothing but errors, to stderr, and reports to nobody: what it would print goes to
    stderr with ``verbose``, and nowhere without. Standard output is redirected meanwhile. Raises
    ``ModelError`` without Ray or a cluster.
    """
    ray = _library()
    level = logging.INFO if verbose else logging.ERROR
    more = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address, log_to_driver=verbose, logging_level=level, **more)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise ModelError(
            f"no Ray cluster at {address}: {_last_line(error)}",
            hint="`ray start --head` starts one; --ray local needs none",
        ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = False
    with ExitStack() as stack:
        # Of workers that die, Ray tells on standard output, whatever its logging level is.
        elsewhere = sys.stderr if verbose else stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(redirect_stdout(elsewhere))
        stack.callback(ray.shutdown)
        yield


def _library() -> Any:
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),
        # A replica that asks for no GPU sees none.
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1"),
        ("RAY_AIR_NEW_OUTPUT", "0"),
        # Ray Data would write its own log to the terminal.
        ("RAY_DATA_LOG_LEVEL", "ERROR"),
        ("RAY_BACKEND_LOG_LEVEL", "fatal"),
    ):
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise ModelError(
            "a run on a cluster needs Ray, which is not installed", hint=install_hint("ray")
        ) from None
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray

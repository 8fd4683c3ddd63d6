"""``--nproc``: the same command in several processes of this machine, started as torchrun does.

The first process speaks for all. What the others say is kept aside and shown only when one of
them ends the run and the first has not said why.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from iepile_cli.errors import IEPileError
from iepile_cli.training.base import training_library
from iepile_cli.training.failing import LostProcess
from iepile_cli.training.options import TrainOptions, as_toml, flag

INTERRUPTED = 130
# A step may be long; the processes finish it and write a checkpoint before they end.
_PATIENCE = "600"
# Held against an adapter's own settings, so they must stay the user's own words.
_ASKED = ("lora_r", "lora_alpha", "target_modules")


class WorkersFailed(IEPileError):
    """A process of the run ended it; the first process has not said why."""


def launch(options: TrainOptions, *, given: Iterable[str] = (), quiet: bool = False) -> int:
    """Run a training in ``options.nproc`` processes; gives the exit code.

    ``given`` names the options that the user set. Raises ``WorkersFailed`` for a process that
    was killed or failed alone.
    """
    training_library("torch")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            # It warns of processes that we asked to end.
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="iepile-") as folder:
        config = Path(folder, "train.toml")
        config.write_text(as_toml(replace(options, nproc=1)), encoding="utf-8")
        words = ["-m", "iepile_cli", *(["--quiet"] if quiet else []), "train"]
        words += ["--config", str(config)]
        for name in set(given).intersection(_ASKED):
            words += [flag(name), str(getattr(options, name))]
        try:
            elastic_launch(_settings(options.nproc, Path(folder)), sys.executable)(*words)
        except SignalException:
            return INTERRUPTED
        except ChildFailedError as error:
            return _code(error.failures, Path(folder))
    return 0


def _settings(count: int, folder: Path) -> Any:
    import os
    import uuid

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _PATIENCE)
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(
            log_dir=str(folder), redirects=dict.fromkeys(range(1, count), Std.ALL)
        ),
    )


def _code(failures: dict[int, Any], folder: Path) -> int:
    """The exit code of a failed run; raises where the first process cannot have said why."""
    first = failures.get(0)
    if first is not None and first.exitcode > 0 and first.exitcode != LostProcess.exit_code:
        return int(first.exitcode)
    others = {rank: one for rank, one in failures.items() if rank} or failures
    rank, failure = min(others.items(), key=lambda pair: pair[1].timestamp)
    if failure.exitcode < 0:
        raise WorkersFailed(
            f"process {rank} was ended by signal {-failure.exitcode}",
            hint="signal 9 is often memory that ran out: try a smaller --batch-size",
        )
    said = [
        line.strip()
        for path in sorted(folder.glob(f"**/{rank}/stderr.log"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    last = said[-1].removeprefix("iepile: ") if said else f"exit code {failure.exitcode}"
    error = WorkersFailed(f"process {rank}: {last}")
    error.exit_code = min(int(failure.exitcode), 3)
    raise error

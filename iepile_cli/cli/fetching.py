"""Downloads as people see them: progress on stderr, and offers where somebody can answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from iepile_cli.cli import console
from iepile_cli.errors import IEPileError

if TYPE_CHECKING:
    from rich.progress import Progress

    from iepile_cli.hub import Plan
    from iepile_cli.models import NotInstalled


def fetch(plan: Plan) -> None:
    """Carry out a plan, then say where it is and offer the base model that it needs."""
    from iepile_cli.formatting import readable_size
    from iepile_cli.hub import download

    for remark in plan.remarks:
        console.note(remark)
    if plan.listing is None:
        return
    try:
        with _view(plan.name) as view:
            manifest = download(plan, view)
    except KeyboardInterrupt:
        console.note("what has come is kept: the same command goes on where this one stopped")
        raise
    console.note(f"{plan.name}: {readable_size(manifest.size)} in {manifest.folder}")
    base = plan.missing_base()
    if base is None:
        return
    if _agreed(base, "Its base model"):
        _fetch_name(base.name)
    else:
        console.note(
            f"it needs its base model: iepile download {base.name} ({readable_size(base.size)})"
        )


def offer(name: str | None = None, adapters: Sequence[str] = ()) -> None:
    """Offer to download what a model and its adapters lack, where somebody can answer.

    Nothing is fetched unasked. Whatever else is wrong with the names is left to be said by what
    opens the model.
    """
    from iepile_cli.models import NotInstalled, resolve_model

    while console.may_ask():
        try:
            resolve_model(name, adapters)
        except NotInstalled as missing:
            if _agreed(missing, "The model"):
                _fetch_name(missing.name)
                continue
        except IEPileError:
            pass
        return


def _agreed(missing: NotInstalled, what: str) -> bool:
    from iepile_cli.formatting import readable_size

    question = (
        f"{what} {missing.name} ({readable_size(missing.size)}) is not on this machine. "
        "Download it now?"
    )
    return console.may_ask() and typer.confirm(question, err=True)


def _fetch_name(name: str) -> None:
    from iepile_cli.hub import plan_download

    fetch(plan_download(name))


class _View:
    """The progress of one download; a ``hub.Watch``."""

    def __init__(self, name: str, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=None)

    def start(self, total: int, done: int) -> None:
        from iepile_cli.formatting import readable_size

        if 0 < done < total:
            self.say(f"going on: {readable_size(done)} of {readable_size(total)} are here already")
        self._progress.update(self._task, total=total, completed=done)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def say(self, message: str) -> None:
        console.note(message)


@contextmanager
def _view(name: str) -> Iterator[_View]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    name_column = TextColumn(
        "{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")
    )
    amount = DownloadColumn(table_column=Column(no_wrap=True))
    columns = [name_column, amount]
    if console.stderr().width >= 80:
        columns = [
            name_column,
            BarColumn(bar_width=None),
            amount,
            TransferSpeedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        ]
    with console.progress(*columns) as progress:
        yield _View(name, progress)

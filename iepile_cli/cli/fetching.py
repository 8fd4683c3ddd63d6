"""Downloads as people see them: progress on stderr, and offers to a person."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeVar

import typer

from iepile_cli.cli import console
from iepile_cli.formatting import readable_size

if TYPE_CHECKING:
    from iepile_cli.hub import Plan
    from iepile_cli.models import NotInstalled

T = TypeVar("T")


def fetch(plan: Plan) -> None:
    """Carry out a plan, then say where it is and offer the base model that it needs."""
    from iepile_cli.hub import download

    for remark in plan.remarks:
        console.note(remark)
    if plan.listing is None:
        return
    try:
        with console.Progress("bytes") as progress:
            manifest = download(plan, _DownloadProgress(plan.name, progress))
    except KeyboardInterrupt:
        console.note("what has been fetched is kept: the same command resumes the download")
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


def with_offer(
    action: Callable[[], T], aside: Callable[[], AbstractContextManager[None]] = nullcontext
) -> T:
    """Do something; where a model or corpus is missing for it, offer to download that first.

    The question is asked within ``aside``. Nothing is fetched unless a person agrees.
    """
    from iepile_cli.models import NotInstalled

    while True:
        try:
            return action()
        except NotInstalled as error:
            with aside():
                if not _agreed(error, f"The {error.what}"):
                    raise
                _fetch_name(error.name)


def _agreed(missing: NotInstalled, what: str) -> bool:
    question = (
        f"{what} {missing.name} ({readable_size(missing.size)}) is not on this machine. "
        "Download it now?"
    )
    return console.may_ask() and typer.confirm(question, err=True)


def _fetch_name(name: str) -> None:
    from iepile_cli.hub import plan_download

    fetch(plan_download(name))


class _DownloadProgress:
    """The progress of one download as a bar; a ``hub.Progress``."""

    def __init__(self, name: str, progress: console.Progress) -> None:
        self._progress = progress
        self._bar = progress.bar(name)

    def start(self, total: int, done: int) -> None:
        if 0 < done < total:
            self.note(f"resuming: {readable_size(done)} of {readable_size(total)} are here already")
        self._bar.update(done=done, total=total)

    def advance(self, count: int) -> None:
        self._bar.advance(count)

    def note(self, message: str) -> None:
        self._progress.note(message)

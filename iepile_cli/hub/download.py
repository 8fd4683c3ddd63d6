"""Carry out a plan: one process at a time for each folder, several files at once.

A folder is complete when its manifest is there; it is written last. Whatever ends a download
early (no network, full disk, Ctrl-C) leaves the finished files and the partial ones, and the same
command goes on from there.
"""

from __future__ import annotations

import hashlib
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from iepile_cli.errors import DownloadError
from iepile_cli.formatting import readable_size
from iepile_cli.hub.listing import Listing, RemoteFile
from iepile_cli.hub.plan import Plan
from iepile_cli.hub.problems import Unreachable, explain
from iepile_cli.hub.transfer import Stopped, fetch
from iepile_cli.models import Manifest
from iepile_cli.models.local import MANIFEST, read_manifest

WORKERS = 4
PARTIAL = ".partial"


class Watch(Protocol):
    """Who is told how a download goes; bytes are negative when something begins again."""

    def start(self, total: int, done: int) -> None:
        """The bytes in all, and those that are there already."""

    def advance(self, count: int) -> None:
        """``count`` more bytes have come."""

    def say(self, message: str) -> None:
        """A remark for the user."""


def download(plan: Plan, watch: Watch) -> Manifest:
    """Fetch the files of a plan and check them; gives the manifest.

    Raises ``DownloadError`` when the disk has no room, a file cannot be fetched or is not what
    was promised. ``KeyboardInterrupt`` passes after the transfers have been stopped.
    """
    if plan.listing is None:
        raise ValueError(f"nothing to download for {plan.name}")
    with only_one(plan.folder, watch):
        earlier = read_manifest(plan.folder)
        there = _there(plan, earlier)
        missing = [file for file in plan.files if file.path not in there]
        kept = sum(file.size or 0 for file in plan.files if file.path in there)
        kept += sum(_length(_partial(plan, file)) for file in missing)
        if missing:
            _check_space(plan, plan.size - kept)
            (plan.folder / MANIFEST).unlink(missing_ok=True)
            (plan.folder / PARTIAL).mkdir(parents=True, exist_ok=True)
        watch.start(plan.size, kept)
        there |= _Transfers(plan, missing, watch).run()
        manifest = _manifest(plan, plan.listing, there, earlier)
        manifest.write()
        shutil.rmtree(plan.folder / PARTIAL, ignore_errors=True)
    return manifest


def _manifest(
    plan: Plan, listing: Listing, there: dict[str, str], earlier: Manifest | None
) -> Manifest:
    """The manifest of what is in the folder now; files of another commit are deleted."""
    files = {
        file.path: {"size": _length(plan.folder / file.path), "sha256": there[file.path]}
        for file in plan.files
    }
    others = (
        {path: facts for path, facts in earlier.files.items() if path not in files}
        if earlier
        else {}
    )
    if earlier and (earlier.repository, earlier.revision) == (listing.repository, listing.commit):
        files |= others
    else:
        for path in others:
            (plan.folder / path).unlink(missing_ok=True)
    return Manifest(
        plan.folder,
        plan.name,
        plan.kind,
        listing.source,
        listing.repository,
        listing.commit,
        files,
    )


@contextmanager
def only_one(folder: Path, watch: Watch | None) -> Iterator[None]:
    """Hold the lock of a folder; waits for another process, or raises if there is no ``watch``."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    locks = folder.parent / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"{folder.parent}: {error.strerror}", hint="choose with --dir"
        ) from None
    lock = locks / f"{folder.name}.lock"
    with ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(lock, timeout=0.2))
        except TimeoutError:
            if watch is None:
                raise DownloadError(
                    f"{folder.name} is being downloaded by another process"
                ) from None
            watch.say(f"another process is downloading {folder.name}: waiting for it")
            held.enter_context(WeakFileLock(lock))
        yield


def _there(plan: Plan, earlier: Manifest | None) -> dict[str, str]:
    """The sha256 of each file that is in the folder already, as it should be."""
    known = earlier.files if earlier else {}
    same_commit = bool(earlier and plan.listing and earlier.revision == plan.listing.commit)
    there = {}
    for file in plan.files:
        path = plan.folder / file.path
        if not path.is_file() or (file.size is not None and _length(path) != file.size):
            continue
        recorded = str(known.get(file.path, {}).get("sha256", ""))
        if recorded and (recorded == file.sha256 or (same_commit and not file.sha256)):
            there[file.path] = recorded
            continue
        sha256, git_sha1 = _hashes(path)
        if sha256 == file.sha256 or (not file.sha256 and git_sha1 == file.git_sha1):
            there[file.path] = sha256
    return there


def _hashes(path: Path) -> tuple[str, str]:
    """The sha256 of a file, and git's hash of it as a blob."""
    sha256 = hashlib.sha256()
    git = hashlib.sha1(b"blob %d\0" % _length(path), usedforsecurity=False)
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            sha256.update(block)
            git.update(block)
    return sha256.hexdigest(), git.hexdigest()


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _partial(plan: Plan, file: RemoteFile) -> Path:
    """The partial file; its name holds the promised hash, so another version begins anew."""
    content = file.sha256 or file.git_sha1 or (plan.listing.commit if plan.listing else "")
    name = hashlib.sha256(f"{file.path}\0{content}".encode()).hexdigest()[:16]
    return plan.folder / PARTIAL / f"{name}.part"


def _check_space(plan: Plan, needed: int) -> None:
    place = plan.folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DownloadError(
            f"{plan.name} needs {readable_size(needed)} more and {plan.folder.parent} has "
            f"{readable_size(free)} free",
            hint="make room, or choose another place with --dir",
        )


class _Transfers:
    """Several files at once in threads that end with the program; the first failure ends all."""

    def __init__(self, plan: Plan, files: Sequence[RemoteFile], watch: Watch) -> None:
        self._plan, self._watch = plan, watch
        self._waiting: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
        for file in sorted(files, key=lambda file: -(file.size or 0)):
            self._waiting.put(file)
        self._stop = threading.Event()
        self._done: dict[str, str] = {}
        self._failures: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(min(WORKERS, len(files)))
        ]

    def run(self) -> dict[str, str]:
        """Fetch all; gives the sha256 by path."""
        from huggingface_hub.utils import logging
        from huggingface_hub.utils.tqdm import disable_progress_bars

        # We show our own progress and say our own errors.
        disable_progress_bars()
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        for thread in self._threads:
            thread.start()
        try:
            for thread in self._threads:
                while thread.is_alive():
                    thread.join(0.1)
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(0.3)
        if self._failures:
            raise self._failures[0]
        return self._done

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                file = self._waiting.get_nowait()
            except queue.Empty:
                return
            try:
                self._done[file.path] = self._fetch(file)
            except Stopped:
                return
            # Carried to the thread that waits, there to be raised.
            except Exception as error:
                self._failures.append(error)
                self._stop.set()

    def _fetch(self, file: RemoteFile) -> str:
        listing = self._plan.listing
        assert listing is not None
        try:
            return fetch(
                file,
                self._plan.folder / file.path,
                _partial(self._plan, file),
                listing.headers,
                self._watch.advance,
                self._stop,
            )
        except (DownloadError, Stopped):
            raise
        except Exception as error:
            explained = explain(error, f"{listing.repository}/{file.path}", listing.hub)
            if isinstance(explained, Unreachable):
                explained.hint = "the same command goes on where this one stopped"
            raise explained or error from None

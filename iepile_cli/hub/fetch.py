"""Fetch files: several at once, each from where it stopped, checked against the promised hash.

huggingface-hub's ``http_get`` moves the bytes (proxies, retries, redirects, errors); its
``hf_hub_download`` deletes partial files since 2.x, so the partial files are kept here.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from iepile_cli.errors import DownloadError
from iepile_cli.hub.client_errors import Unreachable, explain, is_connection
from iepile_cli.hub.listing import Listing, RemoteFile

PARTIAL = ".partial"
_WORKERS = 4
_BLOCK = 1 << 20


class Hashes:
    """The sha256 of a content, and git's hash of it as a blob of ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    @classmethod
    def of(cls, path: Path) -> Hashes:
        """The hashes of a file."""
        hashes = cls(path.stat().st_size)
        with path.open("rb") as content:
            while block := content.read(_BLOCK):
                hashes.update(block)
        return hashes

    def update(self, block: bytes) -> None:
        """Add the next bytes."""
        self._sha256.update(block)
        self._git.update(block)

    @property
    def sha256(self) -> str:
        """The sha256 so far, in hexadecimal digits."""
        return self._sha256.hexdigest()

    def difference(self, file: RemoteFile) -> str:
        """How they differ from those that a hub promised; ``""`` when they do not."""
        if file.sha256:
            found, promised, name = self.sha256, file.sha256, "sha256"
        else:
            found, promised, name = self._git.hexdigest(), file.git_sha1, "git hash"
        if promised and found != promised:
            return f"its {name} is {found}, {promised} was promised"
        return ""


def partial_path(folder: Path, file: RemoteFile, commit: str) -> Path:
    """The partial file; its name holds the promised hash, so another version begins anew."""
    content = file.sha256 or file.git_sha1 or commit
    name = hashlib.sha256(f"{file.path}\0{content}".encode()).hexdigest()[:16]
    return folder / PARTIAL / f"{name}.part"


class _Stopped(Exception):
    """The download as a whole was given up; what this file has is kept."""


class _TooLong(Exception):
    """More bytes come than were promised."""


def fetch_files(
    listing: Listing, files: Sequence[RemoteFile], folder: Path, moved: Callable[[int], None]
) -> dict[str, str]:
    """Fetch files of a listing into a folder, several at once; gives the sha256 by path.

    ``moved`` is called with the bytes as they come, from several threads, which end with the
    program. The first failure ends all; what has come is kept. Raises ``DownloadError``.
    """
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    # Our caller shows progress and errors.
    disable_progress_bars()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    waiting = deque(sorted(files, key=lambda file: -(file.size or 0)))
    stop = threading.Event()
    done: dict[str, str] = {}
    failures: list[Exception] = []

    def work() -> None:
        with suppress(_Stopped, IndexError):
            while not stop.is_set():
                file = waiting.popleft()
                try:
                    done[file.path] = _fetch_explained(file, listing, folder, moved, stop)
                except _Stopped:
                    raise
                # Carried to the thread that waits, there to be raised.
                except Exception as error:
                    failures.append(error)
                    stop.set()

    workers = min(_WORKERS, len(files))
    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.1)
    finally:
        stop.set()
        for thread in threads:
            thread.join(0.3)
    if failures:
        raise failures[0]
    return done


def _fetch_explained(
    file: RemoteFile,
    listing: Listing,
    folder: Path,
    moved: Callable[[int], None],
    stop: threading.Event,
) -> str:
    """As ``_fetch``; what the client raises becomes a ``DownloadError``, if it can be told."""
    partial = partial_path(folder, file, listing.commit)
    try:
        return _fetch(file, folder / file.path, partial, listing.headers, moved, stop)
    except (DownloadError, _Stopped):
        raise
    except Exception as error:
        what = f"{listing.repository}/{file.path}"
        explained = explain(error, what, listing.hub, listing.page)
        if isinstance(explained, Unreachable):
            explained.hint = "the same command resumes the download"
        raise explained or error from None


def _fetch(
    file: RemoteFile,
    target: Path,
    partial: Path,
    headers: Mapping[str, str],
    moved: Callable[[int], None],
    stop: threading.Event,
) -> str:
    """Fetch a file to ``target`` by way of ``partial``; gives its sha256.

    What ``partial`` holds already is not fetched again. A content that is not what was promised
    is deleted and fetched once more. ``moved`` is told the bytes as they come (negative when
    they are deleted). Raises ``DownloadError``, ``_Stopped``, or what the client raises.
    """
    reason = ""
    for _ in range(2):
        with _Part(partial, file.size, moved, stop) as part:
            # Without a promised size it cannot be told whether anything is missing.
            if part.length and (file.size is None or part.length > file.size):
                part.truncate()
            reason = _complete(file, part, headers)
            digest = part.hashes.sha256
        if not reason:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, target)
            return digest
    partial.unlink(missing_ok=True)
    raise DownloadError(
        f"{file.path}: damaged twice on its way: {reason}",
        hint="the hub or something in between alters it; try another --source",
    )


class _Part:
    """A partial file that hashes and counts what is written to it, and can be stopped."""

    def __init__(
        self, path: Path, size: int | None, moved: Callable[[int], None], stop: threading.Event
    ) -> None:
        path.touch()
        self._file = path.open("r+b")
        self._size, self._moved, self._stop = size, moved, stop
        self.hashes = Hashes(size or 0)
        while block := self._file.read(_BLOCK):
            self.hashes.update(block)
        self.length = self._file.tell()

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, block: bytes) -> int:
        if self._stop.is_set():
            raise _Stopped
        if self._size is not None and self.length + len(block) > self._size:
            raise _TooLong
        self._file.write(block)
        # On the disk at once, so that an end at any moment keeps it.
        self._file.flush()
        self.hashes.update(block)
        self.length += len(block)
        self._moved(len(block))
        return len(block)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(place, whence)

    def truncate(self, length: int | None = None) -> int:
        """Begin again: needed when a server sends the whole file instead of the rest."""
        self._moved(-self.length)
        self._file.seek(0)
        self._file.truncate()
        self.hashes = Hashes(self._size or 0)
        self.length = 0
        return 0

    def difference(self, file: RemoteFile) -> str:
        """How the content differs from what was promised; ``""`` when it does not."""
        if file.size is not None and self.length != file.size:
            return f"it has {self.length} bytes, {file.size} were promised"
        # Without a promised size, git's hash of the content so far is of another size.
        return "" if file.size is None and not file.sha256 else self.hashes.difference(file)


def _complete(file: RemoteFile, part: _Part, headers: Mapping[str, str]) -> str:
    """Fetch what is missing; gives what is wrong with the whole, ``""`` when nothing is."""
    try:
        while part.length != file.size:
            before = part.length
            try:
                _get(file, part, headers)
                break
            except Exception as error:
                # A connection that broke is made again as long as that brings more; the library
                # does so by itself only since its 2.x.
                if part.length == before or not is_connection(error):
                    raise
        reason = part.difference(file)
    except _TooLong:
        reason = f"it has more than the {file.size} bytes that were promised"
    if reason and part.length >= (file.size or 0):
        part.truncate()
    return reason


def _get(file: RemoteFile, part: _Part, headers: Mapping[str, str]) -> None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get

    # The library hands on ten megabytes at a time: on a slow line nothing would be shown, and on
    # a cut line nothing kept, for that long.
    constants.DOWNLOAD_CHUNK_SIZE = min(constants.DOWNLOAD_CHUNK_SIZE, _BLOCK)
    try:
        http_get(
            file.url,
            part,  # type: ignore[arg-type]
            resume_size=part.length,
            # A compressed answer could be neither continued nor counted.
            headers={**headers, "Accept-Encoding": "identity"},
            displayed_filename=file.path,
        )
    except ValueError as error:
        raise DownloadError(f"{file.path}: {str(error).splitlines()[0]}") from None
    except OSError as error:
        # The library's own check of the length; ours comes next and says what to do about it.
        if not str(error).startswith("Consistency check failed"):
            raise

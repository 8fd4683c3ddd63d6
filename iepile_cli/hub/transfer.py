"""Fetch one file: from where it stopped, and checked against the hash that the hub promised.

huggingface-hub's ``http_get`` moves the bytes (proxies, retries, errors); since its 2.x
``hf_hub_download`` throws a partial file away, the partial file is kept here.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from iepile_cli.errors import DownloadError
from iepile_cli.hub.listing import RemoteFile
from iepile_cli.hub.problems import is_connection

_BLOCK = 1 << 20


class Stopped(Exception):
    """The download as a whole was given up; what this file has is kept."""


class _TooLong(Exception):
    """More bytes come than were promised."""


class _Part:
    """A partial file that hashes and counts what is written to it, and can be stopped."""

    def __init__(
        self, path: Path, size: int | None, moved: Callable[[int], None], stop: threading.Event
    ) -> None:
        path.touch()
        self._file = path.open("r+b")
        self._size, self._moved, self._stop = size, moved, stop
        self._begin()
        while block := self._file.read(_BLOCK):
            self._hash(block)
        self.length = self._file.tell()

    def __enter__(self) -> _Part:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _begin(self) -> None:
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % (self._size or 0), usedforsecurity=False)

    def _hash(self, block: bytes) -> None:
        self._sha256.update(block)
        self._git.update(block)

    def write(self, block: bytes) -> int:
        if self._stop.is_set():
            raise Stopped
        if self._size is not None and self.length + len(block) > self._size:
            raise _TooLong
        self._file.write(block)
        # On the disk at once, so that an end at any moment keeps it.
        self._file.flush()
        self._hash(block)
        self.length += len(block)
        self._moved(len(block))
        return len(block)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(place, whence)

    def truncate(self, length: int | None = None) -> int:
        """Begin again: asked for when a server sends the whole file instead of the rest."""
        self._moved(-self.length)
        self._file.seek(0)
        self._file.truncate()
        self._begin()
        self.length = 0
        return 0

    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def differs(self, file: RemoteFile) -> str:
        """How the content differs from what was promised; ``""`` when it does not."""
        if file.size is not None and self.length != file.size:
            return f"it has {self.length} bytes, {file.size} were promised"
        if file.sha256 and self.sha256() != file.sha256:
            return f"its sha256 is {self.sha256()}, {file.sha256} was promised"
        if not file.sha256 and file.git_sha1 and self._git.hexdigest() != file.git_sha1:
            return f"its git hash is {self._git.hexdigest()}, {file.git_sha1} was promised"
        return ""


def fetch(
    file: RemoteFile,
    target: Path,
    partial: Path,
    headers: Mapping[str, str],
    moved: Callable[[int], None],
    stop: threading.Event,
) -> str:
    """Fetch a file to ``target`` by way of ``partial``; gives its sha256.

    What ``partial`` holds already is not fetched again. A content that is not what was promised
    is thrown away and fetched once more. ``moved`` is told the bytes as they come (negative when
    they are thrown away). Raises ``DownloadError``, ``Stopped``, or what the client raises.
    """
    reason = ""
    for _ in range(2):
        with _Part(partial, file.size, moved, stop) as part:
            # Without a promised size it cannot be told whether anything is missing.
            if part.length and (file.size is None or part.length > file.size):
                part.truncate()
            reason = _complete(file, part, headers)
            digest = part.sha256()
        if not reason:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, target)
            return digest
    partial.unlink(missing_ok=True)
    raise DownloadError(
        f"{file.path}: damaged twice on its way: {reason}",
        hint="the hub or something in between alters it; try another --source",
    )


def _complete(file: RemoteFile, part: _Part, headers: Mapping[str, str]) -> str:
    """Fetch what is missing; gives what is wrong with the whole, ``""`` when nothing is."""
    try:
        while part.length != file.size:
            before = part.length
            try:
                _get(file, part, headers)
                break
            except Exception as error:
                # A cut line is taken up again as long as that brings more; the library does so
                # by itself only since its 2.x.
                if part.length == before or not is_connection(error):
                    raise
        reason = part.differs(file)
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

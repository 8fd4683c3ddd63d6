"""Writing files: whole or not at all, by one run at a time, and never over what is read."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from iepile_cli.errors import DataError, UsageError
from iepile_cli.files import NO_SPACE, STDIN, StrPath, display_name


def is_same_file(one: StrPath, other: StrPath) -> bool:
    """Whether two paths lead to one file: by name, symbolic link or hard link."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def refuse_overwriting(outputs: Iterable[StrPath | None], inputs: Iterable[StrPath | None]) -> None:
    """Raise ``UsageError`` when an output is one of the inputs, however it is named.

    Standard streams, pipes and devices are left aside. An output folder that is an input folder
    is refused too; a file inside an input folder is not.
    """
    read = [path for path in inputs if path is not None and path != STDIN]
    for output in outputs:
        if output is None or output == STDIN or is_device(output):
            continue
        for path in read:
            if is_same_file(output, path):
                raise UsageError(
                    f"{display_name(output)} would overwrite what is read from it",
                    hint="name another output",
                )


def is_device(path: StrPath) -> bool:
    """Whether a path is there and is neither a file nor a folder: a pipe, a terminal, a device."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


@contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends without an error.

    A symbolic link stays one: its target is replaced. Permissions of a file that is replaced are
    kept. Missing folders are made. On an error the temporary file is removed and what was there
    stays. For a pipe or a device, the path itself is given. Raises ``DataError``.
    """
    if is_device(path):
        yield Path(path)
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise DataError("is a folder", path=display_name(path), hint="name a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
        os.close(handle)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", path=display_name(path)) from None
    partial = Path(name)
    try:
        yield partial
        # A temporary file is private; the finished one is as open as the user's files are.
        with suppress(OSError):
            os.chmod(partial, _mode(target))
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def open_alone(path: StrPath, *, keep: bool = False) -> IO[bytes]:
    """Open a file to write to, unbuffered, as long as no other run of this program writes to it.

    What it holds stays with ``keep``. A pipe or a device is opened as it is. Raises ``UsageError``
    where another run has it open, and ``OSError``.
    """
    if is_device(path):
        return open(path, "wb", buffering=0)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    stream = open(handle, "wb", buffering=0)  # noqa: SIM115
    try:
        lock(stream, path)
        if not keep:
            stream.truncate(0)
    except BaseException:
        stream.close()
        raise
    return stream


def lock(stream: IO[bytes], path: StrPath) -> None:
    """Keep other runs from writing to an open file until it is closed, where the platform can.

    Raises ``UsageError`` where another run has done so.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"{display_name(path)} is being written by another run",
            hint="wait for it, or name another -o",
        ) from None
    except OSError:
        # A file system without locks.
        return


@contextmanager
def naming_what_is_full(path: StrPath) -> Iterator[None]:
    """Raise ``DataError`` with the path where a disk is full, or a file at its limit."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise DataError(f"cannot be written: {error.strerror}", path=display_name(path)) from None


@contextmanager
def atomic_write(path: StrPath | None) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` when the block ends without an error.

    ``-`` and None are stdout. A path that ends in ``.gz``, ``.zst``, ``.bz2`` or ``.xz`` is
    compressed, with the same bytes for the same content. As ``atomic_path`` otherwise.
    """
    if path is None or path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with naming_what_is_full(path), atomic_path(path) as partial:
        try:
            opened = partial.open("wb")
        except OSError as error:
            raise DataError(
                f"cannot be written: {error.strerror}", path=display_name(path)
            ) from None
        with opened as raw, _packed(raw, os.fspath(path).lower()) as file:
            yield file


def write_atomic(path: StrPath, content: str | bytes) -> None:
    """Write a whole file, atomically; what UTF-8 cannot hold in a string is escaped."""
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with atomic_write(path) as file:
        file.write(data)


@contextmanager
def atomic_folder(path: StrPath) -> Iterator[Path]:
    """A hidden folder beside ``path`` that takes its name, and the place of what was there.

    Removed when the block ends with an error; what was there then stays. Raises ``DataError``.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", path=display_name(path)) from None
    try:
        yield partial
        os.chmod(partial, 0o777 & ~_umask())
        replaced = Path(f"{partial}.old")
        if target.exists():
            os.replace(target, replaced)
        os.replace(partial, target)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _packed(raw: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    if name.endswith(".gz"):
        # No time and no name in the header: the same content gives the same bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as file:
            yield cast(IO[bytes], file)
    elif name.endswith(".zst"):
        import zstandard

        with zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False) as packed:
            yield cast(IO[bytes], packed)
    elif name.endswith(".bz2"):
        import bz2

        with bz2.BZ2File(raw, "wb") as packed:
            yield packed
    elif name.endswith(".xz"):
        import lzma

        with lzma.LZMAFile(raw, "wb") as packed:
            yield packed
    else:
        yield raw


def _mode(target: Path) -> int:
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except OSError:
        return 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

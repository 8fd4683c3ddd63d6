"""Files elsewhere, by address: ``https://``, ``s3://``, ``gs://`` and whatever fsspec opens.

A file is copied whole to a temporary one before it is read, within bounds of size and time. Needs
the extra ``remote``; credentials are those that the libraries of each service find by themselves.
"""

from __future__ import annotations

import glob
import io
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from iepile_cli.errors import DataError, install_hint

# A single file may have so many bytes, and take so many seconds.
MAX_BYTES = 1 << 30
MAX_SECONDS = 600
# How long a server may be silent, in seconds.
_SILENT_SECONDS = 60
_BLOCK = 1 << 20
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_WEB = ("http", "https")


def is_remote(path: str | os.PathLike[str] | None) -> bool:
    """Whether a path is an address; a file that is called like one comes first."""
    name = os.fspath(path) if path is not None else ""
    return _ADDRESS.match(name) is not None and not os.path.lexists(name)


def path_of(address: str) -> str:
    """The path within an address, without query and fragment; empty for a malformed one."""
    try:
        return urlsplit(address).path
    except ValueError:
        return ""


def _scheme(address: str) -> str:
    return address.partition("://")[0].lower()


@contextmanager
def open_remote(address: str) -> Iterator[io.BufferedReader]:
    """The bytes of a file; raises ``DataError``, without a path, for one that cannot be had."""
    with tempfile.TemporaryFile(buffering=0) as copy:
        with _named_errors(address):
            system, name = _system(address)
            _copy(system, name, copy)
        copy.seek(0)
        yield io.BufferedReader(cast(io.RawIOBase, copy), _BLOCK)


def find_remote(address: str) -> list[str]:
    """The addresses that an address stands for: itself, those it matches, those in a folder.

    On the web an address is one file. Raises ``DataError``, with the address.
    """
    if _scheme(address) in _WEB:
        return [address]
    try:
        with _named_errors(address):
            system, name = _system(address)
            if glob.has_magic(name):
                names = [one for one in system.glob(name) if not system.isdir(one)]
            elif system.isdir(name):
                names = system.find(name)
            else:
                return [address]
    except DataError as error:
        raise error.at(address) from None
    return [str(system.unstrip_protocol(one)) for one in sorted(names)]


def _copy(system: Any, name: str, copy: Any) -> None:
    ends = time.monotonic() + MAX_SECONDS
    size = 0
    with system.open(name, "rb", block_size=_BLOCK) as file:
        while block := file.read(_BLOCK):
            size += len(block)
            if size > MAX_BYTES:
                hint = "download it first"
                raise DataError(f"is larger than {MAX_BYTES >> 20} MiB", hint=hint)
            if time.monotonic() > ends:
                raise DataError(f"takes longer than {MAX_SECONDS} s", hint="download it first")
            copy.write(block)


def _system(address: str) -> tuple[Any, str]:
    """The file system of an address, and the name in it."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if _scheme(address) in _WEB:
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=MAX_SECONDS, sock_read=_SILENT_SECONDS)
        options = {"client_kwargs": {"timeout": timeout}}
    system, name = url_to_fs(address, **options)
    return system, str(name)


@contextmanager
def _named_errors(address: str) -> Iterator[None]:
    """Raise ``DataError`` for whatever a service's library raises."""
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        # fsspec names the library in a sentence, and in the error below it.
        needs = error.name or getattr(error.__cause__, "name", None) or "another library"
        raise DataError(
            f"{_scheme(address)}:// is read with {needs}, which is not installed",
            hint=install_hint("remote"),
        ) from None
    except FileNotFoundError:
        raise DataError("is not there, or not for everyone to read") from None
    except TimeoutError:
        raise DataError(f"does not answer within {_SILENT_SECONDS} s") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot be read: {reason}") from None

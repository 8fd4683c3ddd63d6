"""Delete what was downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from iepile_cli.config import models_folder
from iepile_cli.errors import DownloadError, UsageError
from iepile_cli.hub.download import PARTIAL, only_one
from iepile_cli.models import catalogue_entry, installed
from iepile_cli.models.local import MANIFEST, folder_name


def remove(name: str, directory: Path | None = None) -> int:
    """Delete a download, complete or not; gives the bytes that it took.

    Raises ``UsageError`` for what comes with the installation, ``DownloadError`` when there is no
    such download or another process is at it.
    """
    entry = catalogue_entry(name)
    if entry and entry.embedded:
        raise UsageError(f"{name} comes with the installation and is not removed")
    parent = directory or models_folder()
    folder = parent / folder_name(entry.name if entry else name)
    # Only a folder that a download made is ever deleted.
    ours = folder.parent == parent and folder.name not in {"", ".", ".."}
    if not ours or not any((folder / mark).exists() for mark in (MANIFEST, PARTIAL)):
        names = ", ".join(item.name for item in installed()) or "nothing"
        raise DownloadError(f"{name} is not downloaded", hint=f"downloaded: {names}")
    with only_one(folder, None):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        try:
            # The manifest goes first, so that an early end does not leave a broken model that
            # looks whole.
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)
        except OSError as error:
            raise DownloadError(f"{folder}: {error.strerror}") from None
    return size

"""Plan a download, carry it out, and delete it: one folder for each, one process at a time.

A folder is complete when its manifest is there; it is written last. Whatever ends a download
early (no network, full disk, Ctrl-C) leaves the finished files and the partial ones, and the same
command goes on from there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from iepile_cli.config import models_folder
from iepile_cli.errors import DownloadError, IEPileError, UsageError
from iepile_cli.formatting import readable_size
from iepile_cli.hub.client_errors import Unreachable
from iepile_cli.hub.fetch import PARTIAL, Hashes, fetch_files, partial_path
from iepile_cli.hub.listing import WEIGHTS, Listing, RemoteFile, choose_files, list_files
from iepile_cli.models import (
    Manifest,
    ModelEntry,
    NotInstalled,
    catalogue_entry,
    installed,
    resolve_model,
)
from iepile_cli.models.local import MANIFEST, folder_name, hub_cache, read_manifest
from iepile_cli.models.resolve import recorded_base
from iepile_cli.registry import registry

_HUB_ID = re.compile(r"(?:(?P<dataset>datasets)/)?(?P<repository>[\w.-]+/[\w.-]+)")


class Progress(Protocol):
    """Receives how a download goes."""

    def start(self, total: int, done: int) -> None:
        """The bytes in all, and those that are there already."""

    def advance(self, count: int) -> None:
        """``count`` more bytes have come; negative when a file begins again."""

    def note(self, message: str) -> None:
        """A remark for the user."""


@dataclass(frozen=True)
class Plan:
    """One download: ``files`` of ``listing`` into ``folder``; ``remarks`` are for the user.

    ``listing`` is ``None`` and ``files`` empty for what is on this machine already.
    """

    name: str
    kind: str
    folder: Path
    entry: ModelEntry | None = None
    listing: Listing | None = None
    files: tuple[RemoteFile, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all its files, as far as the hub says."""
        return sum(file.size or 0 for file in self.files)

    def missing_base(self) -> NotInstalled | None:
        """The base model that an adapter needs and that is not on this machine."""
        if self.kind != "adapter":
            return None
        base = self.entry.base if self.entry else recorded_base(self.folder)
        try:
            resolve_model(base)
        except NotInstalled as missing:
            return missing
        except IEPileError:
            # A base model that its own publisher names by a path of his is not known to us.
            return None
        return None


def plan_download(
    name: str,
    *,
    source: str = "",
    revision: str = "",
    include: Sequence[str] = (),
    directory: Path | None = None,
    token: str | None = None,
) -> Plan:
    """Plan the download of a catalogue name or hub id (``owner/name``, ``datasets/owner/name``).

    ``source`` is ``hf``, ``modelscope`` or a mirror's address, the first that has it by default;
    ``include`` are patterns that replace the usual choice of files; ``directory`` takes the place
    of the models folder. Raises ``UnknownName``, ``UsageError`` for a choice that cannot be,
    ``DownloadError`` when the hub cannot be used.
    """
    entry = catalogue_entry(name)
    chosen = _source(source, entry)
    title = entry.name if entry else name
    folder = (directory or models_folder()) / folder_name(title)
    if entry and entry.embedded:
        remark = f"{title} comes with the installation: nothing to download"
        return Plan(title, entry.kind, folder, entry, remarks=(remark,))
    repository, dataset = _repository(name, entry, chosen)
    wanted_revision = revision or (entry.revision if entry else "")
    # What is on this machine may be enough, unless something special is wanted.
    reusable = not (revision or include or directory)
    cache = hub_cache(repository, wanted_revision) if reusable and not dataset else None
    try:
        listing = list_files(
            repository, dataset=dataset, source=chosen, revision=wanted_revision, token=token
        )
    except Unreachable as error:
        # Whether the hub has a newer one cannot be known.
        stored = None if revision or include else read_manifest(folder)
        if stored is None and cache is None:
            raise
        kind = entry.kind if entry else stored.kind if stored else "base"
        remark = f"{name} is on this machine; not checked for a newer one: {error.message}"
        return Plan(title, kind, folder if stored else cache or folder, entry, remarks=(remark,))
    files = choose_files(listing, entry, dataset, include)
    kind = entry.kind if entry else _kind(files, dataset)
    if cache and not (folder / MANIFEST).exists() and _holds(cache, listing, files):
        remark = f"{title} is in the Hugging Face cache: nothing to download ({cache})"
        return Plan(title, kind, cache, entry, remarks=(remark,))
    return Plan(title, kind, folder, entry, listing, files, tuple(_remarks(files, entry)))


def download(plan: Plan, progress: Progress) -> Manifest:
    """Fetch the files of a plan and check them; gives the manifest.

    Raises ``DownloadError`` when the disk has no room, a file cannot be fetched or is not what
    was promised, ``UsageError`` for a folder of other files. ``KeyboardInterrupt`` passes
    after the transfers have been stopped.
    """
    listing = plan.listing
    if listing is None:
        raise ValueError(f"nothing to download for {plan.name}")
    with _only_one(plan.folder, progress):
        earlier = read_manifest(plan.folder)
        there = _there(plan, listing, earlier)
        missing = [file for file in plan.files if file.path not in there]
        _refuse_foreign_files(plan, missing)
        parts = [partial_path(plan.folder, file, listing.commit) for file in missing]
        kept = sum(file.size or 0 for file in plan.files if file.path in there)
        kept += sum(map(_length, parts))
        if missing:
            _check_space(plan, plan.size - kept)
            (plan.folder / PARTIAL).mkdir(parents=True, exist_ok=True)
            (plan.folder / MANIFEST).unlink(missing_ok=True)
        progress.start(plan.size, kept)
        there |= fetch_files(listing, missing, plan.folder, progress.advance)
        manifest = _manifest(plan, listing, there, earlier)
        manifest.write()
        shutil.rmtree(plan.folder / PARTIAL, ignore_errors=True)
    return manifest


def removable(name: str, directory: Path | None = None) -> tuple[Path, list[Path]]:
    """The folder of a download, complete or not, and the files in it.

    Raises ``UsageError`` for what comes with the installation, ``DownloadError`` when there is no
    such download.
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
        cached = hub_cache(entry.hf if entry else name)
        where = f"it is in the Hugging Face cache: {cached}; " if cached else ""
        raise DownloadError(f"{name} is not downloaded", hint=f"{where}downloaded: {names}")
    return folder, sorted(path for path in folder.rglob("*") if path.is_file())


def remove(name: str, directory: Path | None = None) -> int:
    """Delete a download, complete or not; gives the bytes that it took.

    Raises as ``removable``, and ``DownloadError`` when another process is at it.
    """
    folder, _ = removable(name, directory)
    with _only_one(folder, None):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        try:
            # The manifest goes first, so that an early end does not leave a broken model that
            # looks whole.
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)
        except OSError as error:
            raise DownloadError(f"{folder}: {error.strerror}") from None
    return size


def _repository(name: str, entry: ModelEntry | None, source: str) -> tuple[str, bool]:
    """The repository of a name at a source, and whether it is a corpus."""
    if entry:
        repository = entry.repository("modelscope" if source == "modelscope" else "hf")
        if not repository:
            raise UsageError(f"{name} is not known to be at {source}", hint="leave out --source")
        return repository, entry.kind == "data"
    parts = _HUB_ID.fullmatch(name)
    if parts:
        return parts["repository"], bool(parts["dataset"])
    if "/" not in name:
        raise registry().unknown("model", name)
    raise UsageError(
        f"{name!r} is not a hub id", hint="it has the form owner/name or datasets/owner/name"
    )


def _source(source: str, entry: ModelEntry | None) -> str:
    """The source to use: the one given, else the first where the entry is."""
    if not source:
        return "modelscope" if entry and not entry.hf and entry.modelscope else "hf"
    if source in {"hf", "modelscope"} or source.startswith(("https://", "http://")):
        return source
    raise UsageError(
        f"cannot download from {source!r}",
        hint="sources: hf, modelscope, or the address of a mirror",
    )


def _kind(files: Sequence[RemoteFile], dataset: bool) -> str:
    if dataset:
        return "data"
    paths = [file.path for file in files]
    if "adapter_config.json" in paths:
        return "adapter"
    return "gguf" if any(path.endswith(".gguf") for path in paths) else "base"


def _holds(snapshot: Path, listing: Listing, files: Sequence[RemoteFile]) -> bool:
    """Whether a snapshot in the Hugging Face cache has the weights and settings of a listing.

    The cache names a content by its hash and links to it from the snapshot; it holds only the
    files that were once needed, so a missing README is no reason to fetch all anew.
    """
    needed = [
        file
        for file in files
        if file.path.endswith(WEIGHTS) or file.path in {"config.json", "adapter_config.json"}
    ]
    return all(
        (path := snapshot / file.path).is_file()
        and (file.size is None or _length(path) == file.size)
        and (snapshot.name == listing.commit or path.resolve().name in _hashes_of(file))
        for file in needed
    )


def _hashes_of(file: RemoteFile) -> set[str]:
    return {file.sha256, file.git_sha1} - {""}


def _remarks(files: Sequence[RemoteFile], entry: ModelEntry | None) -> list[str]:
    remarks = []
    if entry and entry.pickle and any(file.path.endswith(".bin") for file in files):
        remarks.append(
            f"{entry.name}: its publisher offers PyTorch pickles only; they are opened as bare "
            "weights, without running code in them"
        )
    if entry and entry.remote_code:
        remarks.append(
            f"{entry.name}: needs its publisher's own code, which is taken only with "
            "--include '*.py' beside the other files"
        )
    sizes = {file.path: file.size for file in files}
    for split in entry.splits if entry else ():
        size = sizes.get(split.file)
        if size and split.size and abs(size - split.size) > split.size * 0.01:
            remarks.append(
                f"{split.file} has {readable_size(size)} where {readable_size(split.size)} was "
                "known: the corpus has changed since"
            )
    return remarks


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
def _only_one(folder: Path, progress: Progress | None) -> Iterator[None]:
    """Hold the lock of a folder; waits for another process, or raises without ``progress``."""
    from filelock import FileLock, Timeout

    locks = folder.parent / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{folder.name}.lock")
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            if progress is None:
                raise DownloadError(
                    f"{folder.name} is being downloaded by another process"
                ) from None
            progress.note(f"another process is downloading {folder.name}: waiting for it")
            lock.acquire()
    except OSError as error:
        raise DownloadError(
            f"{folder.parent}: {error.strerror}", hint="choose another folder with --dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _there(plan: Plan, listing: Listing, earlier: Manifest | None) -> dict[str, str]:
    """The sha256 of each file that is in the folder already, as it should be."""
    known = earlier.files if earlier else {}
    same_commit = earlier is not None and earlier.revision == listing.commit
    there = {}
    for file in plan.files:
        path = plan.folder / file.path
        if not path.is_file() or (file.size is not None and _length(path) != file.size):
            continue
        recorded = str(known.get(file.path, {}).get("sha256", ""))
        if recorded and (recorded == file.sha256 or (same_commit and not file.sha256)):
            there[file.path] = recorded
        elif _hashes_of(file):
            hashes = Hashes.of(path)
            if not hashes.difference(file):
                there[file.path] = hashes.sha256
    return there


def _refuse_foreign_files(plan: Plan, missing: Sequence[RemoteFile]) -> None:
    """Refuse to replace files that no download put into a folder named by the user."""
    marks = (MANIFEST, PARTIAL)
    if plan.folder.parent == models_folder() or any((plan.folder / m).exists() for m in marks):
        return
    for file in missing:
        path = plan.folder / file.path
        if path.exists():
            raise UsageError(
                f"{path} is there and was not downloaded: it would be overwritten",
                hint="choose another folder with --dir",
            )


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_space(plan: Plan, needed: int) -> None:
    folder = plan.folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{plan.name} needs {readable_size(needed)} more and {plan.folder.parent} has "
            f"{readable_size(free)} free",
            hint="make room, or choose another folder with --dir",
        )

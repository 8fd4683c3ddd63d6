"""What a download would fetch: which files of which repository into which folder."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iepile_cli.config import models_folder
from iepile_cli.errors import DownloadError, IEPileError, UsageError
from iepile_cli.formatting import readable_size
from iepile_cli.hub.listing import Listing, RemoteFile, list_files
from iepile_cli.hub.problems import Unreachable
from iepile_cli.models import (
    ModelEntry,
    NotInstalled,
    catalogue_entry,
    resolve_model,
)
from iepile_cli.models.catalogue import SAFE_FILES
from iepile_cli.models.local import folder_name, is_inside, read_manifest
from iepile_cli.models.resolve import recorded_base
from iepile_cli.registry import registry

_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_HUB_ID = re.compile(r"(?:(?P<dataset>datasets)/)?(?P<repository>[\w.-]+/[\w.-]+)")
_SPLIT_GGUF = re.compile(r"-\d+-of-\d+\.gguf$")


@dataclass(frozen=True)
class Plan:
    """One download: ``files`` of ``listing`` into ``folder``; ``remarks`` are for the user.

    ``listing`` is ``None`` and ``files`` empty for what comes with the installation.
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
    ``DownloadError`` when the hub cannot be asked.
    """
    entry = catalogue_entry(name)
    chosen = _source(source, entry)
    title = entry.name if entry else name
    folder = (directory or models_folder()) / folder_name(title)
    if entry and entry.embedded:
        remark = f"{title} comes with the installation: nothing to download"
        return Plan(title, entry.kind, folder, entry, remarks=(remark,))
    repository, dataset = _repository(name, entry, chosen)
    try:
        listing = list_files(
            repository,
            dataset=dataset,
            source=chosen,
            revision=revision or (entry.revision if entry else ""),
            token=token,
        )
    except Unreachable as error:
        # What was asked for may be here; whether the hub has a newer one cannot be known.
        stored = None if revision or include else read_manifest(folder)
        if stored is None:
            raise
        remark = f"{name} is on this machine; not asked for a newer one: {error.message}"
        return Plan(title, stored.kind, folder, entry, remarks=(remark,))
    files = _choose(listing, entry, dataset, include)
    for file in files:
        # A hub's answer must not make us write outside the folder.
        if not is_inside(file.path):
            raise DownloadError(f"{repository}: {file.path!a} is not safe to write")
    kind = entry.kind if entry else _kind(files, dataset)
    return Plan(title, kind, folder, entry, listing, files, tuple(_remarks(files, entry)))


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
        registry().entry("model", name)
    raise UsageError(
        f"{name!r} is not a hub id", hint="it has the form owner/name or datasets/owner/name"
    )


def _source(source: str, entry: ModelEntry | None) -> str:
    """The source to ask: the one given, else the first where the entry is."""
    if not source:
        return "modelscope" if entry and not entry.hf and entry.modelscope else "hf"
    if source in {"hf", "modelscope"} or source.startswith(("https://", "http://")):
        return source
    raise UsageError(
        f"cannot download from {source!r}",
        hint="sources: hf, modelscope, or the address of a mirror",
    )


def _choose(
    listing: Listing, entry: ModelEntry | None, dataset: bool, include: Sequence[str]
) -> tuple[RemoteFile, ...]:
    if include:
        chosen = tuple(file for file in listing.files if _matches(file.path, include))
        if not chosen:
            raise UsageError(
                f"no file of {listing.repository} matches {' or '.join(include)}",
                hint=f"it has: {_names(listing.files)}",
            )
        return chosen
    patterns = entry.patterns() if entry else SAFE_FILES
    chosen = tuple(file for file in listing.files if _matches(file.path, patterns))
    if dataset or (entry and entry.files):
        if not chosen:
            raise DownloadError(
                f"{listing.repository}: none of the expected files is there",
                hint=f"choose with --include; it has: {_names(listing.files)}",
            )
        return chosen
    return _model_files(listing, chosen)


def _model_files(listing: Listing, chosen: tuple[RemoteFile, ...]) -> tuple[RemoteFile, ...]:
    """A model's files: those at the top, the weights once, in the best form that is there."""
    top = [file for file in chosen if "/" not in file.path]
    forms = [suffix for suffix in _WEIGHTS if any(file.path.endswith(suffix) for file in top)]
    if not forms:
        others = [file for file in listing.files if file.path.endswith(_WEIGHTS)]
        raise UsageError(
            f"{listing.repository}: no weights in safetensors or GGUF form",
            hint=f"take other files with --include PATTERN; it has: {_names(others)}"
            if others
            else f"it has: {_names(listing.files)}",
        )
    unwanted = tuple(suffix for suffix in _WEIGHTS if suffix != forms[0])
    kept = [file for file in top if not file.path.endswith(unwanted)]
    models = [
        file for file in kept if file.path.endswith(".gguf") and not _SPLIT_GGUF.search(file.path)
    ]
    if len(models) > 1:
        raise UsageError(
            f"{listing.repository} holds {len(models)} models",
            hint=f"choose one with --include: {_names(models)}",
        )
    return tuple(kept)


def _names(files: Sequence[RemoteFile], most: int = 8) -> str:
    shown = [
        (file.path if file.path.isprintable() else ascii(file.path))
        + (f" ({readable_size(file.size)})" if file.size else "")
        for file in files[:most]
    ]
    return ", ".join(shown) + (f" and {len(files) - most} more" if len(files) > most else "")


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _kind(files: Sequence[RemoteFile], dataset: bool) -> str:
    if dataset:
        return "data"
    paths = [file.path for file in files]
    if "adapter_config.json" in paths:
        return "adapter"
    return "gguf" if any(path.endswith(".gguf") for path in paths) else "base"


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

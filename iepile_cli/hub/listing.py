"""What a repository holds at one commit, and which of its files a download takes.

Two hubs are supported through their own clients: Hugging Face (or a mirror that speaks its API)
through huggingface-hub, ModelScope through modelscope-hub.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from iepile_cli import __version__
from iepile_cli.errors import DownloadError, UsageError, install_hint
from iepile_cli.formatting import readable_size
from iepile_cli.hub.client_errors import Unreachable, explain, still_works, unreachable
from iepile_cli.models import ModelEntry
from iepile_cli.models.catalogue import SAFE_FILES
from iepile_cli.models.local import is_inside

# A hub that has not answered by then is taken for unreachable; the whole command is to say so
# within ten seconds.
PATIENCE = 8.0
WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
# The names of weights that transformers and peft load.
_LOADED_WEIGHTS = re.compile(
    r"(pytorch_|adapter_)?model(-\d+-of-\d+)?\.(safetensors|bin)", re.ASCII
)
_SPLIT_GGUF = re.compile(r"-\d+-of-\d+\.gguf$")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class RemoteFile:
    """A file at a hub: its path in the repository, size in bytes, address and hashes.

    ``git_sha1`` is git's hash of a blob (over a header and the content), given by Hugging Face
    for files that are not in large-file storage; those have ``sha256``.
    """

    path: str
    url: str
    size: int | None = None
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit, and the headers to fetch them with.

    ``hub`` is the hub's address, ``page`` that of the repository's page.
    """

    repository: str
    source: str
    hub: str
    page: str
    commit: str
    files: tuple[RemoteFile, ...]
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)


def list_files(
    repository: str, *, dataset: bool, source: str, revision: str, token: str | None
) -> Listing:
    """List the files of a repository at a hub.

    ``source`` is ``hf``, ``modelscope`` or the address of a mirror of the former. Raises
    ``DownloadError`` when the hub refuses or does not answer within ``PATIENCE`` seconds,
    ``UsageError`` for an id that the hub's client does not accept.
    """
    if source == "modelscope":
        return _list_modelscope(repository, dataset, revision, token)
    return _list_huggingface(repository, dataset, source, revision, token)


def _list_huggingface(
    repository: str, dataset: bool, source: str, revision: str, token: str | None
) -> Listing:
    from huggingface_hub import HfApi, constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    hub = (constants.ENDPOINT if source == "hf" else source).rstrip("/")
    if constants.HF_HUB_OFFLINE:
        raise Unreachable("offline mode is on (HF_HUB_OFFLINE)", hint=still_works())
    kind = "dataset" if dataset else "model"
    # The login at Hugging Face is not for a mirror that is named on the command line.
    shown = token if source == "hf" else token or False
    api = HfApi(endpoint=hub, token=shown, library_name="iepile", library_version=__version__)
    request = api.dataset_info if dataset else api.model_info
    page = f"{hub}/datasets/{repository}" if dataset else f"{hub}/{repository}"
    info = _within_patience(
        lambda: request(
            repository, revision=revision or None, files_metadata=True, timeout=PATIENCE
        ),
        repository,
        hub,
        page,
    )
    commit = info.sha or revision or "main"

    def remote(sibling: Any) -> RemoteFile:
        path = sibling.rfilename
        # A name that is no text is refused when it is chosen; here it must only not break.
        text = path.encode("utf-8", "replace").decode()
        return RemoteFile(
            path,
            hf_hub_url(repository, text, repo_type=kind, revision=commit, endpoint=hub),
            size=sibling.size,
            sha256=(sibling.lfs.sha256 if sibling.lfs else "") or "",
            git_sha1="" if sibling.lfs else sibling.blob_id or "",
        )

    return Listing(
        repository,
        source,
        hub,
        page,
        commit,
        tuple(remote(sibling) for sibling in info.siblings or ()),
        build_hf_headers(token=shown, library_name="iepile", library_version=__version__),
    )


def _list_modelscope(repository: str, dataset: bool, revision: str, token: str | None) -> Listing:
    try:
        from modelscope_hub import HubApi
    except ModuleNotFoundError:
        raise UsageError(
            "ModelScope's package is not installed",
            hint=install_hint("modelscope"),
        ) from None
    # The package writes each request to stderr; we say our own.
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
    api = HubApi(endpoint=os.environ.get("MODELSCOPE_ENDPOINT") or None, token=token)
    hub = str(api.legacy._endpoint)
    kind, commit = "dataset" if dataset else "model", revision or "master"
    page = f"{hub}/{kind}s/{repository}"
    found = _within_patience(
        lambda: api.list_repo_files(repository, kind, revision=commit), repository, hub, page
    )
    files = tuple(
        RemoteFile(
            item.path,
            api.legacy.get_download_url(repository, kind, item.path, commit),
            size=item.size,
            sha256=item.sha256 or "",
        )
        for item in found
        if not item.is_dir
    )
    token = token or os.environ.get("MODELSCOPE_API_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Listing(repository, "modelscope", hub, page, commit, files, headers)


def _within_patience(
    request: Callable[[], _Answer], repository: str, hub: str, page: str
) -> _Answer:
    """Send a request to a hub, with a limit on the time of the whole answer.

    A client's own limit counts for each address of a host and each attempt, so it alone could
    take minutes.
    """
    answer: list[_Answer] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            answer.append(request())
        # Whatever the foreign client raises is carried to the caller's thread.
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if answer:
        return answer[0]
    if not failure:
        raise unreachable(hub, f"no answer within {PATIENCE:.0f} seconds")
    if type(failure[0]).__name__ == "HFValidationError":
        raise UsageError(f"{repository!r} is not a name at {hub}: it has the form owner/name")
    raise explain(failure[0], repository, hub, page) or failure[0] from None


def choose_files(
    listing: Listing, entry: ModelEntry | None, dataset: bool, include: Sequence[str]
) -> tuple[RemoteFile, ...]:
    """The files of a repository that a download takes.

    Those that match ``include``, else those of the catalogue's entry, else all safe files of a
    dataset, or a model's weights in one form with what belongs to them. Raises ``UsageError`` where
    that leaves nothing or several models, ``DownloadError`` for a path that is not safe to write.
    """
    chosen = _choose(listing, entry, dataset, include)
    for file in chosen:
        # A hub's answer must not make us write outside the folder.
        if not is_inside(file.path):
            raise DownloadError(f"{listing.repository}: {file.path!a} is not safe to write")
    return chosen


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
    forms = [suffix for suffix in WEIGHTS if any(file.path.endswith(suffix) for file in top)]
    if not forms:
        others = [file for file in listing.files if file.path.endswith(WEIGHTS)]
        raise UsageError(
            f"{listing.repository}: no weights in safetensors or GGUF form",
            hint=f"take other files with --include PATTERN; it has: {_names(others)}"
            if others
            else f"it has: {_names(listing.files)}",
        )
    unwanted = tuple(suffix for suffix in WEIGHTS if suffix != forms[0])
    kept = _without_copies([file for file in top if not file.path.endswith(unwanted)], forms[0])
    models = [
        file for file in kept if file.path.endswith(".gguf") and not _SPLIT_GGUF.search(file.path)
    ]
    if len(models) > 1:
        raise UsageError(
            f"{listing.repository} holds {len(models)} models",
            hint=f"choose one with --include: {_names(models)}",
        )
    return tuple(kept)


def _without_copies(files: list[RemoteFile], form: str) -> list[RemoteFile]:
    """The files without a second copy of the weights under other names.

    Beside the files that transformers loads, some publishers offer the same weights as
    ``consolidated.safetensors`` or in other precisions (``model.fp16.safetensors``).
    """
    if not any(_LOADED_WEIGHTS.fullmatch(file.path) for file in files):
        return files
    weights = (form, f"{form}.index.json")
    return [
        file
        for file in files
        if not file.path.endswith(weights)
        or _LOADED_WEIGHTS.fullmatch(file.path.removesuffix(".index.json"))
    ]


def _names(files: Sequence[RemoteFile], most: int = 8) -> str:
    shown = [
        (file.path if file.path.isprintable() else ascii(file.path))
        + (f" ({readable_size(file.size)})" if file.size else "")
        for file in files[:most]
    ]
    return ", ".join(shown) + (f" and {len(files) - most} more" if len(files) > most else "")


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)

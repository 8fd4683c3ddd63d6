"""What a repository holds at one commit: each file with its size and hash.

Two hubs are asked through their own clients: Hugging Face (or a mirror that speaks its API)
through huggingface-hub, ModelScope through modelscope-hub.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from iepile_cli import __version__
from iepile_cli.errors import UsageError
from iepile_cli.hub.problems import Unreachable, explain, still_works, unreachable

# A hub that has not answered by then is taken for unreachable; the whole command is to say so
# within ten seconds.
PATIENCE = 8.0
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
    """The files of a repository at a commit, and the headers to fetch them with."""

    repository: str
    source: str
    hub: str
    commit: str
    files: tuple[RemoteFile, ...]
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)


def list_files(
    repository: str, *, dataset: bool, source: str, revision: str, token: str | None
) -> Listing:
    """Ask a hub for the files of a repository.

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
    ask = api.dataset_info if dataset else api.model_info
    info = _ask(
        lambda: ask(repository, revision=revision or None, files_metadata=True, timeout=PATIENCE),
        repository,
        hub,
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
            hint="install it with: pip install 'iepile-cli[modelscope]'",
        ) from None
    # The package writes each request to stderr; we say our own.
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
    api = HubApi(endpoint=os.environ.get("MODELSCOPE_ENDPOINT") or None, token=token)
    hub = str(api.legacy._endpoint)
    kind, commit = "dataset" if dataset else "model", revision or "master"
    found = _ask(lambda: api.list_repo_files(repository, kind, revision=commit), repository, hub)
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
    return Listing(repository, "modelscope", hub, commit, files, headers)


def _ask(question: Callable[[], _Answer], what: str, hub: str) -> _Answer:
    """Put a question to a hub, with a limit on the time of the whole answer.

    A client's own limit counts for each address of a host and each attempt, so it alone could
    take minutes.
    """
    answer: list[_Answer] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            answer.append(question())
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
        raise UsageError(f"{what!r} is not a name at {hub}: it has the form owner/name")
    raise explain(failure[0], what, hub) or failure[0] from None

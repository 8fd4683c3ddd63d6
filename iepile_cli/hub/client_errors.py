"""What a hub's client raises, as one line with a way out."""

from __future__ import annotations

import os

from iepile_cli.errors import DownloadError, first_line
from iepile_cli.files import NO_SPACE
from iepile_cli.models import DEFAULT_MODEL, installed

# The libraries that may raise for a connection, by their first name; which one is used depends on
# the version of huggingface-hub.
_CLIENTS = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}


class Unreachable(DownloadError):
    """A hub that does not answer, or is not to be used."""


def explain(error: Exception, what: str, hub: str, page: str = "") -> DownloadError | None:
    """Turn what a client raised into one line; ``None`` for what is not about a connection.

    ``what`` is the repository or file that was requested, ``hub`` the hub's address and ``page``
    the address of the repository's page, where its conditions are accepted.
    """
    response = getattr(error, "response", None)
    # Hugging Face's errors hold the response, ModelScope's only its status.
    status = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    if isinstance(status, int):
        return _refused(error, status, what, hub, page)
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return DownloadError(
            f"{what}: cannot write: {os.strerror(error.errno)}",
            hint="make room, then run the same command again: it resumes",
        )
    if is_connection(error):
        return unreachable(hub, first_line(error))
    if "modelscope_hub" in _origins(error):
        return DownloadError(f"{what}: {first_line(error)}")
    if isinstance(error, OSError):
        return DownloadError(f"{what}: {error.strerror or first_line(error)}")
    return None


def is_connection(error: Exception) -> bool:
    """Whether an error says that a connection was not made or did not last."""
    if getattr(error, "response", None) is not None:
        return False
    return bool(_origins(error) & _CLIENTS) or isinstance(error, (ConnectionError, TimeoutError))


def _origins(error: Exception) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(error).__mro__}


def unreachable(hub: str, reason: str) -> DownloadError:
    """The hub cannot be reached; the hint names what works without it."""
    return Unreachable(f"cannot reach {hub}: {reason}", hint=still_works())


def still_works() -> str:
    """Which models can be used without a network."""
    names = [item.name for item in installed() if item.kind != "data"]
    shown = ", ".join([DEFAULT_MODEL, *names][:5])
    return f"works without a network: --model {shown}, or a path"


def _refused(error: Exception, status: int, what: str, hub: str, page: str) -> DownloadError:
    kind = type(error).__name__
    if kind == "GatedRepoError" or status == 403:
        return DownloadError(
            f"{what}: {hub} denies access ({status})",
            hint=f"accept its conditions at {page or hub}, then give a token with --token-env VAR",
        )
    if kind == "RevisionNotFoundError":
        return DownloadError(f"{what}: no such revision at {hub} ({status})")
    if kind == "RepositoryNotFoundError" or status == 401:
        return DownloadError(
            f"{what}: not found at {hub}, or only with a token ({status})",
            hint="check the name; for a private or gated one give a token with --token-env VAR",
        )
    if status == 404:
        return DownloadError(f"{what}: not found at {hub} (404)", hint="check the name")
    if status == 429:
        return DownloadError(
            f"{what}: too many requests to {hub} (429)",
            hint=_wait(error) + "; with a token more is allowed: --token-env VAR",
        )
    if status >= 500:
        return DownloadError(
            f"{what}: server error at {hub} ({status})",
            hint="try again later, or another source: --source modelscope or --source URL",
        )
    return DownloadError(f"{what}: {hub} refuses the request ({status})")


def _wait(error: Exception) -> str:
    headers = getattr(getattr(error, "response", None), "headers", {})
    seconds = headers.get("Retry-After", "")
    return f"try again in {seconds} seconds" if seconds.isdigit() else "try again in some minutes"

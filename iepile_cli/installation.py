"""How this program is installed: its extras, what they lack here, and the lines that add them.

Everything is read from the metadata of installed distributions; none is loaded.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

DISTRIBUTION = "iepile-cli"
# Extras of which no user needs to hear: what is in others, and what the tests need.
_NO_OWN = frozenset(("all", "dev"))

_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(?:\[[^]]*\])?\s*(?P<wanted>[^;]*)(?:;(?P<marker>.*))?"
)
_EXTRA = re.compile(r"""extra\s*==\s*["']([\w.-]+)["']""")


class Library(NamedTuple):
    """A distribution that an extra asks for: which versions, and the one that is installed."""

    name: str
    wanted: str
    version: str | None


class Extra(NamedTuple):
    """An extra of this program, with its libraries."""

    name: str
    libraries: tuple[Library, ...]

    @property
    def missing(self) -> list[str]:
        """The names of the libraries that are not installed."""
        return [one.name for one in self.libraries if one.version is None]


def extras() -> list[Extra]:
    """The extras, in the order of the package's metadata; none where it has no metadata."""
    try:
        known = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return []
    found: dict[str, list[Library]] = {
        name: [] for name in known.get_all("Provides-Extra") or [] if name not in _NO_OWN
    }
    for line in known.get_all("Requires-Dist") or []:
        match = _REQUIREMENT.match(line)
        named = _EXTRA.search(match["marker"] or "") if match else None
        if match and named and named[1] in found:
            library = Library(match["name"], match["wanted"].strip(" ()"), version(match["name"]))
            found[named[1]].append(library)
    return [Extra(name, tuple(libraries)) for name, libraries in found.items()]


def version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def installed_with() -> Literal["pip", "pipx", "uv"]:
    """What the program was installed with, as far as the place of its environment tells."""
    parts = Path(sys.prefix).parts
    for name, folders in (("pipx", ("pipx", "venvs")), ("uv", ("uv", "tools"))):
        if any(parts[at : at + 2] == folders for at in range(len(parts))):
            return name  # type: ignore[return-value]
    return "pip"


def install_lines(extra: str) -> dict[str, str]:
    """The commands that add an extra, by pip, pipx and uv.

    They name the folder or file that the program was installed from, as long as that is there;
    without one they are to be run in its source folder.
    """
    origin, editable = _origin()
    if origin is None:
        wanted = f"'.[{extra}]'"
    elif origin.is_dir():
        wanted = f"'{origin}[{extra}]'"
    else:
        wanted = f"'{DISTRIBUTION}[{extra}] @ {origin.as_uri()}'"
    flag = "-e " if editable else ""
    return {
        "pip": f"pip install {flag}{wanted}",
        "pipx": f"pipx install --force {wanted}",
        "uv": f"uv tool install --force {wanted}",
    }


def is_source_known() -> bool:
    """Whether the folder or file that the program was installed from is known and there."""
    return _origin()[0] is not None


@cache
def _origin() -> tuple[Path | None, bool]:
    """The folder or file that the program was installed from (PEP 610); whether it is used there.

    None for what was installed in another way, and for what is not there any more.
    """
    try:
        text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        told: Any = json.loads(text or "{}")
        parts = urlsplit(told["url"])
        path = Path(url2pathname(unquote(parts.path)))
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return None, False
    if parts.scheme != "file" or not path.exists() or "'" in str(path):
        return None, False
    return path, bool(told.get("dir_info", {}).get("editable"))

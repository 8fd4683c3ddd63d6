"""Where models and data lie on this machine, and what is there.

A download makes one folder of its own, with a manifest ``iepile-download.json`` that is written
last: a folder with a manifest is complete. Nothing here imports a hub's client; the Hugging Face
cache is read by its documented layout.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from iepile_cli.models.entry import PICKLED_WEIGHTS, ModelEntry

MANIFEST = "iepile-download.json"
_FORMS = {"gguf": ("*.gguf",), "safetensors": ("*.safetensors",), "pytorch": PICKLED_WEIGHTS}


def models_folder() -> Path:
    """The folder of downloads: ``IEPILE_MODELS``, else ``models`` in the user's data folder."""
    named = os.environ.get("IEPILE_MODELS")
    if named:
        return Path(named).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = home / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return data / "iepile" / "models"


def is_inside(path: str) -> bool:
    """Whether a path that somebody else gave stays inside the folder that it is relative to."""
    parts = (*PurePosixPath(path).parts, *PureWindowsPath(path).parts)
    anchored = path.startswith("/") or PureWindowsPath(path).anchor
    return bool(path) and path.isprintable() and not anchored and ".." not in parts


def folder_name(name: str) -> str:
    """The folder of a name or hub id: ``owner/repo`` becomes ``owner--repo``."""
    return name.replace("/", "--")


@dataclass(frozen=True)
class Manifest:
    """What a download left: name, kind, source, repository, commit, and each file's size and hash.

    ``files`` maps a path inside the folder to ``{"size": bytes, "sha256": hex}``.
    """

    folder: Path
    name: str
    kind: str
    source: str
    repository: str
    revision: str
    files: dict[str, dict[str, Any]]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(int(facts.get("size", 0)) for facts in self.files.values())

    def write(self) -> None:
        """Write it into its folder, atomically."""
        content = {
            "name": self.name,
            "kind": self.kind,
            "source": self.source,
            "repository": self.repository,
            "revision": self.revision,
            "files": self.files,
        }
        path = self.folder / MANIFEST
        partial = path.with_name(f".{MANIFEST}.{os.getpid()}")
        partial.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
        os.replace(partial, path)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; ``None`` when there is none or it cannot be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Manifest(
            folder,
            name=str(content["name"]),
            kind=str(content["kind"]),
            source=str(content["source"]),
            repository=str(content["repository"]),
            revision=str(content["revision"]),
            files={
                path: dict(facts) for path, facts in content["files"].items() if is_inside(path)
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def installed() -> list[Manifest]:
    """What is downloaded into the models folder, sorted by name."""
    try:
        folders = [path for path in models_folder().iterdir() if path.is_dir()]
    except OSError:
        return []
    found = map(read_manifest, folders)
    return sorted((manifest for manifest in found if manifest), key=lambda item: item.name)


def downloaded(name: str) -> Manifest | None:
    """The download called ``name`` (a catalogue name or hub id), if it is complete."""
    manifest = read_manifest(models_folder() / folder_name(name))
    if manifest is None or not all((manifest.folder / file).is_file() for file in manifest.files):
        return None
    return manifest


def place_of(entry: ModelEntry) -> Path | None:
    """Where an entry lies on this machine: embedded, downloaded, or in the hub's own cache."""
    if entry.embedded:
        return embedded_file(entry)
    stored = downloaded(entry.name)
    if stored:
        return stored.folder
    return hub_cache(entry.hf, entry.revision) if entry.hf else None


def embedded_file(entry: ModelEntry) -> Path | None:
    """The file of an entry that comes with a package, found without importing that package."""
    package, separator, inner = entry.file.partition(":")
    if not separator or len(package) == 1:
        path = Path(entry.file).expanduser()
        return path if path.exists() else None
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place, inner)
        if path.exists():
            return path
    return None


def hub_cache(repository: str, revision: str = "") -> Path | None:
    """The snapshot of a repository in the Hugging Face cache, if one with weights is there."""
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface"
    )
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    cache = Path(named or Path(home, "hub")).expanduser()
    stored = cache / f"models--{repository.replace('/', '--')}"
    try:
        commit = (stored / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision
    snapshot = stored / "snapshots" / commit
    return snapshot if commit and weights_format(snapshot) else None


def weights_format(path: Path) -> str:
    """What a file or folder holds: ``gguf``, ``safetensors``, ``pytorch``, or ``""`` for nothing.

    Weights in several shards count only when every shard that their index names is there.
    """
    if path.is_file():
        return "gguf" if path.suffix == ".gguf" else ""
    for kind, patterns in _FORMS.items():
        if any(any(path.glob(pattern)) for pattern in patterns):
            indexes = [
                index for pattern in patterns for index in path.glob(f"{pattern}.index.json")
            ]
            if all(map(_all_shards, indexes)):
                return kind
    return ""


def _all_shards(index: Path) -> bool:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((index.parent / shard).is_file() for shard in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False

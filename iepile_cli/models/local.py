"""Which models and corpora are on this machine: downloads, the Hugging Face cache, packages.

A download is a folder of its own with a manifest ``iepile-download.json`` that is written last: a
folder with a manifest is complete. Nothing here imports a hub's client; the Hugging Face cache is
read by its documented layout.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from iepile_cli.config import expand, hub_cache_folder, models_folder
from iepile_cli.models.catalogue import PICKLED_WEIGHTS, ModelEntry
from iepile_cli.writing import write_atomic

MANIFEST = "iepile-download.json"
# The fields of a manifest that are texts, in their order.
_TEXTS = ("name", "kind", "source", "repository", "revision")
_FORMS = {"gguf": ("*.gguf",), "safetensors": ("*.safetensors",), "pytorch": PICKLED_WEIGHTS}


def is_inside(path: str) -> bool:
    """Whether a path from elsewhere stays inside the folder that it is relative to."""
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
        content = {name: getattr(self, name) for name in (*_TEXTS, "files")}
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        write_atomic(self.folder / MANIFEST, text)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; ``None`` when there is none or it cannot be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {path: dict(facts) for path, facts in content["files"].items() if is_inside(path)}
        texts = {name: str(content[name]) for name in _TEXTS}
        return Manifest(folder, **texts, files=files)
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


def local_path(entry: ModelEntry) -> Path | None:
    """The file or folder of an entry: embedded, downloaded, or in the Hugging Face cache."""
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
        path = expand(entry.file)
        return path if path.exists() else None
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, inner)
        if path.exists():
            return path
    return None


def hub_cache(repository: str, revision: str = "") -> Path | None:
    """The snapshot of a repository in the Hugging Face cache, if one with weights is there."""
    stored = hub_cache_folder() / f"models--{repository.replace('/', '--')}"
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

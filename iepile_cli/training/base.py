"""The base model as training needs it: a folder for transformers, a tokenizer, a template.

A GGUF file is unpacked once into the cache, weights and tokenizer, so that what follows knows one
form only. Its examples are tokenised by llama.cpp's own vocabulary all the same, as ``extract``
does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iepile_cli.backends.gguf_lora import unpack_adapter
from iepile_cli.backends.gguf_names import Layout
from iepile_cli.backends.gguf_weights import fingerprint, unpacked
from iepile_cli.backends.opening import check_adapters, fitting_template
from iepile_cli.config import cache_folder
from iepile_cli.errors import ModelError
from iepile_cli.models import NO_ADAPTER, resolve_model
from iepile_cli.models.adapter_settings import AdapterSettings, read_adapter_settings
from iepile_cli.registry import registry
from iepile_cli.templates import Template, Tokenizer
from iepile_cli.training.options import TrainOptions

NEEDS = "pip install 'iepile-cli[train]'"
# A tokenizer's files; code of its own is among them.
_TOKENIZER = ("*token*.json", "vocab*", "merges*", "*.model", "*.tiktoken", "*.py")


@dataclass(frozen=True)
class Base:
    """A base model: its name, where it is, and the adapters to go on from.

    ``source`` is the file or folder it was found at, ``folder`` the one transformers reads.
    """

    name: str
    source: Path
    folder: Path
    adapters: tuple[Path, ...]
    template: Template
    remote_code: bool = False

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that encodes examples."""
        return open_tokenizer(self.source, self.folder, self.remote_code)

    def layout(self) -> Layout:
        """How its weights lie in GGUF files; raises ``ModelError`` where that is not known."""
        return Layout.of(hf_config(self.folder, self.remote_code), self.name)

    @property
    def settings(self) -> AdapterSettings | None:
        """What the last adapter records of itself."""
        return read_adapter_settings(self.adapters[-1]) if self.adapters else None


def find_base(options: TrainOptions, *, on_note: Callable[[str], None] = lambda _: None) -> Base:
    """Find the base model, unpack it if it is a GGUF file, and settle the template.

    Raises ``ModelError`` and ``UsageError`` for what is not there or does not fit together.
    """
    found = resolve_model(options.model or None, options.adapter or [NO_ADAPTER])
    folder = found.path
    remote = options.trust_remote_code or bool(found.entry and found.entry.remote_code)
    if found.format == "gguf":
        training_library("gguf")
        with quiet_libraries():
            folder = unpacked(found.path, on_note=on_note)
    tokenizer = open_tokenizer(found.path, folder, remote)
    known = registry()
    form: Template = (
        known.get("template", options.template)
        if options.template
        else fitting_template(found, tokenizer, known)
    ).bind(tokenizer)
    if not options.template:
        check_adapters(found, form)
    adapters = tuple(_as_folder(path, folder, remote) for path in found.adapters)
    base = Base(found.name, found.path, folder, adapters, form, remote)
    base.__dict__["tokenizer"] = tokenizer
    return base


def open_tokenizer(source: Path, folder: Path, remote_code: bool) -> Tokenizer:
    """The tokenizer of a GGUF file or of a folder."""
    if source.suffix == ".gguf":
        from iepile_cli.backends.tokenizers import LlamaCppTokenizer

        return LlamaCppTokenizer.open(source)
    from iepile_cli.backends.tokenizers import HFTokenizer

    return HFTokenizer(hf_tokenizer(folder, remote_code))


def hf_config(folder: Path, remote_code: bool = False) -> Any:
    """The transformers configuration of a folder; raises ``ModelError``."""
    transformers = training_library("transformers")
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"{folder}: its configuration cannot be read: {first_line(error)}"
        ) from None


def hf_tokenizer(folder: Path, remote_code: bool = False) -> Any:
    """The transformers tokenizer of a folder; raises ``ModelError``."""
    transformers = training_library("transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{folder}: its tokenizer cannot be opened: {first_line(error)}") from None


def training_library(name: str, needs: str = NEEDS) -> Any:
    """Import a library that training needs; raises ``ModelError`` that says how to get it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f"training needs {name}: {first_line(error)}", hint=needs) from None


def empty_model(folder: Path, remote_code: bool = False) -> Any:
    """A folder's model without weights: what can be counted and asked before they are loaded."""
    torch, transformers = training_library("torch"), training_library("transformers")
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(
            hf_config(folder, remote_code), trust_remote_code=remote_code
        )


def tokenizer_digest(base: Base) -> str:
    """A hash of what a base model's tokens depend on, by which encoded examples are found again."""
    if base.source.is_file():
        return fingerprint(base.source)
    total = hashlib.sha256()
    for path in sorted(path for name in _TOKENIZER for path in base.folder.glob(name)):
        total.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of an error of another library."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _as_folder(adapter: Path, base: Path, remote_code: bool) -> Path:
    """An adapter as the folder that PEFT reads: itself, or a GGUF file unpacked into the cache."""
    if adapter.is_dir():
        return adapter
    from filelock import FileLock

    folder = cache_folder() / "unpacked" / f"{adapter.stem}-{fingerprint(adapter)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / "adapter_config.json").is_file():
            training_library("peft")
            with quiet_libraries():
                model = empty_model(base, remote_code)
            unpack_adapter(adapter, model, folder)
    return folder


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep transformers and others from drawing bars and warning; we say what goes on."""
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

"""GGUF models through llama.cpp: on the CPU, or on whatever its build can use."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path

from iepile_cli.backends import scheduler
from iepile_cli.backends.gguf import SLOW_FORMATS
from iepile_cli.backends.llamacpp_context import MOST_SEQUENCES, Context, library, load_model
from iepile_cli.backends.memory import readable_memory
from iepile_cli.backends.merging import merged_form
from iepile_cli.backends.protocol import Answer, Backend, Options, Probe, Request, Runner
from iepile_cli.backends.scheduler import Job
from iepile_cli.backends.tokenizers import LlamaCppTokenizer, leading_space, spells
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.models.adapter_settings import GGUF_ADAPTER

_PARALLEL = 8
_BUILD = (
    "this build is for the CPU (for an NVIDIA GPU: CMAKE_ARGS=-DGGML_CUDA=on pip install "
    "--force-reinstall --no-cache-dir llama-cpp-python)"
)


class LlamaCpp(Backend):
    """The backend ``llama-cpp``."""

    takes = frozenset({"context", "parallel", "threads"})

    def probe(self) -> Probe:
        """Whether llama.cpp is there, without loading it."""
        if util.find_spec("llama_cpp") is None:
            return Probe(False, "llama-cpp-python is not installed: pip install llama-cpp-python")
        return Probe(True, details={"llama-cpp-python": metadata.version("llama-cpp-python")})

    def describe(self) -> Mapping[str, str]:
        """What its build can use; loads llama.cpp."""
        lib = library()
        system = lib.llama_print_system_info().decode("utf-8", "replace")
        parts = [part.partition("=")[0] for part in system.split("|") if "= 1" in part]
        used = [part.rpartition(":")[2].strip() for part in parts]
        gpu = "yes" if lib.llama_supports_gpu_offload() else f"no, {_BUILD}"
        return {"gpu": gpu, "memory": readable_memory(), "uses": ", ".join(used)}

    def open(self, model: Path, options: Options) -> LlamaRunner:
        """Open a GGUF file; raises ``ModelError``."""
        return LlamaRunner(model, options)


LLAMA_CPP = LlamaCpp()


def adapter_file(adapter: Path) -> Path:
    """The GGUF file of an adapter: itself, or the one that training left in its folder.

    Raises ``ModelError`` for a folder without one.
    """
    if not adapter.is_dir():
        return adapter
    file = adapter / GGUF_ADAPTER
    if not file.is_file():
        raise ModelError(
            f"{adapter}: llama.cpp needs the adapter as GGUF",
            hint=f"iepile export --adapter {adapter} --to gguf-adapter -o {file}",
        )
    return file


class LlamaRunner(Runner):
    """A GGUF model that answers requests, several at a time."""

    reproducible = True

    def __init__(self, path: Path, options: Options) -> None:
        self.parallel = options.parallel or _PARALLEL
        if self.parallel > MOST_SEQUENCES:
            raise UsageError(
                f"--parallel {self.parallel}: llama.cpp answers at most {MOST_SEQUENCES} at once"
            )
        self._lib = library(verbose=options.verbose)
        adapters = [adapter_file(Path(adapter)) for adapter in options.adapters]
        merged = merged_form(path, adapters, options.on_note) if options.merge else None
        if merged:
            path, adapters = merged, []
        with ThreadPoolExecutor(1) as pool:
            # llama.cpp reads the file while Python imports what the first request needs.
            loading = pool.submit(load_model, path, verbose=options.verbose)
            _import_for_requests()
            model = loading.result()
            making = pool.submit(
                Context,
                model,
                size=options.context,
                parallel=scheduler.sequences(self.parallel),
                threads=options.threads,
                adapters=adapters,
            )
            self._tokenizer = LlamaCppTokenizer(model, path)
            self._tokenizer.constraining  # noqa: B018
            self._context = making.result()
        self.tokenizer = self._tokenizer
        self.context = self._context.longest
        self.lead = leading_space(self._tokenizer)
        if not options.merge:
            self._note_slow_format(path, options.on_note)

    def generate(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer each request, in order.

        Raises ``ModelError`` for a prompt that leaves no room for its answer.
        """
        ends = self._tokenizer.vocabulary.ends
        jobs = (Job.of(request, self._tokenizer, self.context, ends) for request in requests)
        return scheduler.run(self._context, jobs, self.parallel)

    def spells(self, text: str) -> bool:
        """Whether the vocabulary can write a text; some lack rare bytes."""
        return spells(self._tokenizer.constraining, text)

    def close(self) -> None:
        """Give the model's memory back."""
        self._context.close()

    def _note_slow_format(self, path: Path, on_note: Callable[[str], None]) -> None:
        """Say when this processor has no fast kernel for the format of a file's weights."""
        description = ctypes.create_string_buffer(256)
        self._lib.llama_model_desc(self._context.model, description, 256)
        words = description.value.decode("utf-8", "replace").split()
        slow = next((word for word in words if word in SLOW_FORMATS), None)
        if slow and not self._lib.llama_supports_gpu_offload():
            on_note(
                f"{path.name}: llama.cpp has no fast kernel for {slow} weights here; "
                "a file made with `iepile export --to gguf --quantise q8_0` answers faster"
            )


def _import_for_requests() -> None:
    for name in ("jinja2.sandbox", "llguidance", "numpy"):
        importlib.import_module(name)

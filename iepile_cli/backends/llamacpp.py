"""GGUF models through llama.cpp: on the CPU, or on whatever its build can use.

``Context`` is a context by llama.cpp's C API: sequences in one cache of keys and values, decoded
together. It knows nothing of prompts or grammars: token ids and positions in, logits out.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends import scheduler
from iepile_cli.backends.gguf import SLOW_FORMATS, adapter_file
from iepile_cli.backends.gguf_merging import merged_form
from iepile_cli.backends.memory import readable_memory
from iepile_cli.backends.protocol import Answer, Backend, Options, Probe, Request, Runner
from iepile_cli.backends.scheduler import Feed, Job
from iepile_cli.backends.tokenizers import LlamaCppTokenizer, leading_space, spells
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.files import display_name
from iepile_cli.formatting import one_line
from iepile_cli.parallel import physical_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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


class LlamaRunner(Runner):
    """A GGUF model that answers requests, several at a time."""

    reproducible = True

    def __init__(self, path: Path, options: Options) -> None:
        self.parallel = options.parallel or _PARALLEL
        if self.parallel > scheduler.MOST_SEQUENCES:
            raise UsageError(
                f"--parallel {self.parallel}: llama.cpp answers at most "
                f"{scheduler.MOST_SEQUENCES} at once"
            )
        if options.threads > _MOST_THREADS:
            raise UsageError(
                f"--threads {options.threads}: llama.cpp takes at most {_MOST_THREADS}"
            )
        self._lib = library(verbose=options.verbose)
        adapters = [adapter_file(Path(adapter)) for adapter in options.adapters]
        merged = merged_form(path, adapters, options.on_note) if options.merge else None
        if merged:
            path, adapters = merged, []
        with ExitStack() as on_failure, ThreadPoolExecutor(1) as pool:
            # llama.cpp reads the file while Python imports what the first request needs.
            loading = pool.submit(load_model, path, verbose=options.verbose)
            for name in ("jinja2.sandbox", "llguidance", "numpy"):
                importlib.import_module(name)
            model = loading.result()
            making = pool.submit(
                Context,
                model,
                size=options.context,
                parallel=scheduler.sequences(self.parallel),
                threads=options.threads,
                adapters=adapters,
            )
            on_failure.callback(self._discard, model, making)
            self._tokenizer = LlamaCppTokenizer(model, path)
            self._tokenizer.constraining  # noqa: B018
            self._context = making.result()
            on_failure.pop_all()
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

    def _discard(self, model: Any, making: Future[Context]) -> None:
        """Free a model of which no runner came."""
        if making.exception() is None:
            making.result().close()
        else:
            self._lib.llama_model_free(model)

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


# Tokens that one call to llama_decode takes; also how far a long prompt goes in one step.
BATCH = 512
# The cache of keys and values grows to this size unless a context is asked for.
_CACHE_BYTES = 1 << 30
# GGML_MAX_N_THREADS.
_MOST_THREADS = 512
# Of enum ggml_log_level.
_WARNING, _ERROR = 3, 4

_log: dict[str, Any] = {"verbose": False, "errors": [], "callback": None, "loading": ""}


def library(*, verbose: bool | None = None) -> Any:
    """The llama_cpp module, its log kept quiet: errors are held for the next exception.

    Its OpenMP threads are told to wait for each other briefly before they sleep: the default, to
    wait busily, makes decoding five times slower as soon as something else runs on the machine.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Without it, an abort calls a debugger, which writes to stdout.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    # NumPy's own threads, which wait busily too, have nothing to do here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"llama.cpp cannot be loaded: {error}", hint="pip install llama-cpp-python"
        ) from None
    if verbose is not None:
        _log["verbose"] = verbose
    if _log["callback"] is None:
        _log["callback"] = llama_cpp.llama_log_callback(_on_log)
        llama_cpp.llama_log_set(_log["callback"], ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        # Older builds have no such function.
        on_abort = getattr(llama_cpp.llama_cpp._lib, "ggml_set_abort_callback", None)
        if on_abort is not None:
            _log["abort"] = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_on_abort)
            on_abort(_log["abort"])
    return llama_cpp


def _on_abort(message: bytes) -> None:
    """Make a line and an exit code of what would be a core dump.

    llama.cpp takes some facts for granted, such as a vocabulary without repetitions, and ends the
    process where a file breaks them; nothing can be saved then but the line.
    """
    reason = " ".join(message.decode("utf-8", "replace").rpartition(": ")[2].split())
    named = f"{_log['loading']}: " if _log["loading"] else ""
    os.write(2, one_line(f"iepile: {named}llama.cpp gave up: {reason}").encode() + b"\n")
    os._exit(1)


def _on_log(level: int, text: bytes, _: Any) -> None:
    if _log["verbose"] and level in (_WARNING, _ERROR):
        os.write(2, text)
    if level == _ERROR and text.strip(b". \n"):
        _log["errors"].append(text.decode("utf-8", errors="replace").strip())


def _last_error() -> str:
    # The first names the cause; the others say that what needed it failed too.
    found = _log["errors"][0] if _log["errors"] else "no reason given"
    _log["errors"].clear()
    return found


def load_model(path: Path, *, vocab_only: bool = False, verbose: bool = False) -> Any:
    """Load a GGUF file; raises ``ModelError`` for one that llama.cpp cannot read."""
    lib = library(verbose=verbose)
    params = lib.llama_model_default_params()
    params.vocab_only = vocab_only
    _log["errors"].clear()
    _log["loading"] = display_name(path)
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ModelError(f"{path}: llama.cpp cannot load it: {_last_error()}")
    return model


class Context:
    """A context of ``parallel`` sequences on a loaded model.

    ``size`` is the number of tokens that all sequences together can hold, ``longest`` the number
    that one can.
    """

    def __init__(
        self, model: Any, *, size: int, parallel: int, threads: int, adapters: Sequence[Path] = ()
    ) -> None:
        self._lib = lib = library()
        self.model = model
        trained = lib.llama_model_n_ctx_train(model)
        params = lib.llama_context_default_params()
        _check_room(lib, model, size)
        params.n_ctx = size or _affordable(lib, model, parallel, trained)
        params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = parallel
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads or physical_cores()
        _log["errors"].clear()
        self._ctx = lib.llama_init_from_model(model, params)
        if not self._ctx:
            raise ModelError(
                f"llama.cpp cannot make a context of {params.n_ctx} tokens: {_last_error()}",
                hint="try a smaller --context",
            )
        self.size = int(lib.llama_n_ctx(self._ctx))
        self.longest = min(self.size, trained)
        # llama.cpp makes the batch no larger than the context.
        self.batch = min(BATCH, int(lib.llama_n_batch(self._ctx)))
        self._memory = lib.llama_get_memory(self._ctx)
        self._batch = lib.llama_batch_init(BATCH, 0, 1)
        self._width = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        try:
            self._adapt(adapters)
        except ModelError:
            lib.llama_batch_free(self._batch)
            lib.llama_free(self._ctx)
            raise

    def _adapt(self, paths: Sequence[Path]) -> None:
        lib, handles = self._lib, []
        for path in paths:
            handle = lib.llama_adapter_lora_init(self.model, os.fsencode(path))
            if not handle:
                raise ModelError(
                    f"{path}: not an adapter for this model: {_last_error()}",
                    hint="a GGUF adapter fits only the base model it was trained on",
                )
            handles.append(handle)
        if handles:
            array = (lib.llama_adapter_lora_p_ctypes * len(handles))(*handles)
            scales = (ctypes.c_float * len(handles))(*[1.0] * len(handles))
            if lib.llama_set_adapters_lora(self._ctx, array, len(handles), scales):
                raise ModelError(f"the adapters cannot be used together: {_last_error()}")

    def decode(self, feeds: Sequence[Feed]) -> list[NDArray[np.float32]]:
        """Add tokens to sequences, at most ``batch`` in all; gives logits where they were asked.

        The arrays are views that the next call overwrites. Raises ``ModelError``.
        """
        import numpy as np

        batch, n, wanted = self._batch, 0, []
        for feed in feeds:
            for offset, token in enumerate(feed.tokens):
                batch.token[n] = token
                batch.pos[n] = feed.position + offset
                batch.n_seq_id[n] = 1
                batch.seq_id[n][0] = feed.sequence
                batch.logits[n] = 0
                n += 1
            if feed.logits:
                batch.logits[n - 1] = 1
                wanted.append(n - 1)
        batch.n_tokens = n
        code = self._lib.llama_decode(self._ctx, batch)
        if code:
            raise ModelError(f"llama.cpp failed to decode (code {code}): {_last_error()}")
        return [
            np.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._ctx, at), (self._width,))
            for at in wanted
        ]

    def share(self, source: int, target: int, length: int) -> None:
        """Let ``target`` have the first ``length`` tokens of ``source`` without computing them."""
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def trim(self, sequence: int, length: int) -> None:
        """Keep the first ``length`` tokens of a sequence.

        Raises ``ModelError`` for a model whose state cannot be taken back (recurrent ones).
        """
        if not self._lib.llama_memory_seq_rm(self._memory, sequence, length, -1):
            raise ModelError("this model's state cannot be taken back to an earlier token")

    def clear(self) -> None:
        """Empty all sequences."""
        self._lib.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Free the context and the model."""
        if self._ctx:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_free(self._ctx)
            self._lib.llama_model_free(self.model)
            self._ctx = None


def _affordable(lib: Any, model: Any, parallel: int, trained: int) -> int:
    """A context that serves all sequences without taking more memory than a small machine has."""
    wanted = min(trained, 1024 * parallel)
    fits = _CACHE_BYTES // max(1, _bytes_per_token(lib, model)) // 256 * 256
    return int(max(min(trained, 2048), min(wanted, fits)))


def _bytes_per_token(lib: Any, model: Any) -> int:
    """What a token's keys and values take, in 16 bits."""
    width = lib.llama_model_n_embd(model) // max(1, lib.llama_model_n_head(model))
    return int(4 * lib.llama_model_n_layer(model) * lib.llama_model_n_head_kv(model) * width)


def _check_room(lib: Any, model: Any, size: int) -> None:
    """Refuse a cache that is larger than the free memory: llama.cpp would fill it at once."""
    if not size:
        return
    import psutil

    need = size * _bytes_per_token(lib, model)
    free = psutil.virtual_memory().available
    if need > free and not lib.llama_supports_gpu_offload():
        raise UsageError(
            f"--context {size} takes {need / 2**30:,.1f} GiB of memory, "
            f"of which {free / 2**30:.1f} are free"
        )

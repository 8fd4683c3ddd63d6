"""GGUF models through llama.cpp: on the CPU, or on whatever its build can use."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_cli.backends import Answer, Options, Probe, Request, batching
from iepile_cli.backends.constrain import Constraint, Unconstrained, spells
from iepile_cli.backends.gguf import SLOW_FORMATS
from iepile_cli.backends.llamacpp_context import (
    Context,
    grammar_tokenizer,
    library,
    load_model,
)
from iepile_cli.backends.memory import readable_memory
from iepile_cli.backends.merging import merged_form
from iepile_cli.backends.tokenizers import LlamaCppTokenizer
from iepile_cli.errors import ModelError
from iepile_cli.models.adapter_settings import GGUF_ADAPTER
from iepile_cli.templates import encode

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_PARALLEL = 8
_BUILD = (
    "this build is for the CPU (for an NVIDIA GPU: CMAKE_ARGS=-DGGML_CUDA=on pip install "
    "--force-reinstall --no-cache-dir llama-cpp-python)"
)


class LlamaCpp:
    """The backend ``llama-cpp``."""

    knows = frozenset({"context", "parallel", "threads"})

    def probe(self) -> Probe:
        """Whether llama.cpp is there, without loading it."""
        if util.find_spec("llama_cpp") is None:
            return Probe(False, "llama-cpp-python is not installed: pip install llama-cpp-python")
        return Probe(True, details={"llama-cpp-python": metadata.version("llama-cpp-python")})

    def describe(self) -> dict[str, str]:
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


class LlamaRunner:
    """A GGUF model that answers requests, several at a time."""

    def __init__(self, path: Path, options: Options) -> None:
        self._lib = library(verbose=options.verbose)
        adapters = [adapter_file(Path(adapter)) for adapter in options.adapters]
        merged = merged_form(path, adapters, options.on_note) if options.merge else None
        if merged:
            path, adapters = merged, []
        model = load_model(path, verbose=options.verbose)
        if not merged:
            self._note_slow_format(model, path, options.on_note)
        self.parallel = options.parallel or _PARALLEL
        self._context = Context(
            model,
            size=options.context,
            # Sequences beyond those that run hold finished prompts for others to take over.
            parallel=self.parallel + batching.SPARE,
            threads=options.threads,
            adapters=adapters,
        )
        self.context = self._context.longest
        self._vocab = self._lib.llama_model_get_vocab(model)
        self.tokenizer = LlamaCppTokenizer(self._vocab, model)
        self.lead = " " if self._puts_space() else ""
        self.meter: Callable[[int], None] | None = None
        self._grammar_tokenizer: LLTokenizer | None = None

    def generate(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer each request, in order.

        Raises ``ModelError`` for a prompt that leaves no room for its answer.
        """
        jobs = (self._job(request) for request in requests)
        return batching.run(self._context, jobs, self.parallel, self.meter)

    def spells(self, text: str) -> bool:
        """Whether the vocabulary can write a text; some lack rare bytes."""
        return spells(self._constraining(), text)

    def close(self) -> None:
        """Give the model's memory back."""
        self._context.close()

    def _job(self, request: Request) -> batching.Job:
        prompt = encode(request.prompt, self.tokenizer)
        budget = min(request.max_tokens, self.context - len(prompt))
        if budget <= 0:
            raise ModelError(
                f"a prompt of {len(prompt)} tokens leaves no room for an answer in a context of "
                f"{self.context}",
                hint="ask for fewer types at once (--split-num) or give a larger --context",
            )
        tokens = self._constraining()
        if request.grammar is None:
            free = partial(Unconstrained, tokens, budget, self._ends())
            return batching.Job(prompt, budget, free)
        start = partial(
            Constraint, tokens, request.grammar, budget, request.empties, request.list_prior
        )
        return batching.Job(prompt, budget, start)

    def _constraining(self) -> LLTokenizer:
        if self._grammar_tokenizer is None:
            self._grammar_tokenizer = grammar_tokenizer(self._context.model)
        return self._grammar_tokenizer

    def _ends(self) -> frozenset[int]:
        count = self._lib.llama_vocab_n_tokens(self._vocab)
        return frozenset(
            token for token in range(count) if self._lib.llama_vocab_is_eog(self._vocab, token)
        )

    def _note_slow_format(self, model: Any, path: Path, on_note: Callable[[str], None]) -> None:
        """Say when this processor has no fast kernel for the format of a file's weights."""
        description = ctypes.create_string_buffer(256)
        self._lib.llama_model_desc(model, description, 256)
        words = description.value.decode("utf-8", "replace").split()
        slow = next((word for word in words if word in SLOW_FORMATS), None)
        if slow and not self._lib.llama_supports_gpu_offload():
            on_note(
                f"{path.name}: llama.cpp has no fast kernel for {slow} weights here; "
                "a file made with `iepile export --to gguf --quantise q8_0` answers faster"
            )

    def _puts_space(self) -> bool:
        """Whether this vocabulary puts a space before any text, as SentencePiece does."""
        return self._spelling("{").startswith(b" ")

    def _spelling(self, text: str) -> bytes:
        """The bytes of a text's tokens, as the vocabulary spells them."""
        spelled = b""
        for token in self.tokenizer.text(text):
            buffer = ctypes.create_string_buffer(64)
            size = self._lib.llama_token_to_piece(self._vocab, token, buffer, 64, 0, False)
            spelled += buffer.raw[: max(0, size)]
        return spelled

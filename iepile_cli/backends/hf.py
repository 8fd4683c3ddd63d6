"""Models through transformers: CUDA in 4, 8 or 16 bits, Apple's MPS, several GPUs, or the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from importlib import metadata, util
from itertools import islice
from pathlib import Path
from typing import Any

from iepile_cli.backends import Answer, Options, Probe, Request
from iepile_cli.backends.batching import Job
from iepile_cli.backends.constrain import Constraint, Unconstrained, spells
from iepile_cli.backends.constraining import leading_space
from iepile_cli.backends.hf_capabilities import capabilities
from iepile_cli.backends.hf_decoding import Decoder
from iepile_cli.backends.hf_loading import is_out_of_memory, load, quiet_libraries
from iepile_cli.backends.memory import bytes_per_token, free_memory
from iepile_cli.errors import ModelError
from iepile_cli.templates import encode

# Answers at once where there is memory for so many, and what a step costs besides its tokens, in
# tokens.
_BATCH = {"cuda": 32, "mps": 8, "cpu": 8}
_STEP_COST = {"cuda": 512.0, "mps": 64.0, "cpu": 8.0}
# The part of the free memory that the cache of a batch may be expected to take.
_SHARE = 0.5
# How many batches are put in order of length together.
_AHEAD = 4
_NEEDS = ("torch", "transformers", "accelerate", "peft")


class Transformers:
    """The backend ``transformers``."""

    knows = frozenset(
        {"parallel", "context", "device", "bits", "max_memory", "trust_remote_code", "threads"}
    )

    def probe(self) -> Probe:
        """Whether its libraries are there, without loading them."""
        missing = [name for name in _NEEDS if util.find_spec(name) is None]
        if missing:
            return Probe(False, f"{', '.join(missing)} not installed: {_INSTALL}")
        return Probe(True, details={name: metadata.version(name) for name in _NEEDS[:2]})

    def describe(self) -> dict[str, str]:
        """What it finds on this machine, and what to install for the rest; loads torch."""
        return capabilities()

    def open(self, model: Path, options: Options) -> TransformersRunner:
        """Open a folder of weights or a GGUF file; raises ``ModelError`` or ``UsageError``."""
        return TransformersRunner(model, options)


_INSTALL = "pip install 'iepile-cli[train]'"
TRANSFORMERS = Transformers()


class TransformersRunner:
    """An opened model that answers requests, a batch at a time."""

    def __init__(self, path: Path, options: Options) -> None:
        # First of all: what it says to torch, torch reads when it is imported.
        quiet_libraries()
        if options.threads:
            import torch

            torch.set_num_threads(options.threads)
        self._loaded = load(path, options)
        kind = self._loaded.device.type
        self.tokenizer = self._loaded.tokenizer
        self.context = min(options.context or self._loaded.context, self._loaded.context)
        self.lead = leading_space(self._loaded.constraining, self.tokenizer.text("{"))
        self.batch = options.parallel or _BATCH.get(kind, 8)
        self._per_token = 0 if options.parallel else bytes_per_token(self._loaded.model)
        self._decoder = Decoder(self._loaded.model, self._loaded.device, _STEP_COST.get(kind, 64.0))

    def spells(self, text: str) -> bool:
        """Whether the vocabulary can write a text; some lack rare bytes."""
        return spells(self._loaded.constraining, text)

    def generate(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer each request, in order.

        Reads some batches ahead and puts them in order of length. A batch has as many answers as
        there seems to be memory for, unless their number was asked for; one that does not fit all
        the same is halved, and so are those after it. Raises ``ModelError`` for a prompt that
        leaves no room for its answer, and when even one answer does not fit into memory.
        """
        coming = iter(requests)
        while window := list(islice(coming, self.batch * _AHEAD)):
            jobs = [self._job(request) for request in window]
            yield from self._answers(jobs, _by_length(window, jobs))

    def close(self) -> None:
        """Give the model's memory back."""
        import gc

        import torch

        self._decoder.forget()
        del self._decoder, self._loaded
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _answers(self, jobs: list[Job], order: list[int]) -> Iterator[Answer]:
        """The answers in the jobs' order, computed in another; each as soon as it can be given."""
        answers: dict[int, Answer] = {}
        given = 0
        while order:
            batch = order[: self._rows([jobs[n] for n in order[: self.batch]])]
            finished: dict[int, Answer] = {}
            try:
                self._decoder.decode([jobs[n] for n in batch], finished.__setitem__)
            except (RuntimeError, MemoryError) as error:
                self._shrink(error, len(batch))
            answers.update({batch[at]: answer for at, answer in finished.items()})
            order = [n for at, n in enumerate(batch) if at not in finished] + order[len(batch) :]
            while given in answers:
                yield answers.pop(given)
                given += 1

    def _rows(self, jobs: list[Job]) -> int:
        """How many of these answers go together, the longest prompt of all first."""
        free = free_memory(self._devices()) if self._per_token else None
        if free is None:
            return self.batch
        # Few answers need the whole of their budget.
        longest = max(len(job.prompt) + job.budget // 2 for job in jobs)
        fits = int(free * _SHARE) // (self._per_token * longest)
        return max(1, min(self.batch, fits))

    def _devices(self) -> set[Any]:
        return {weight.device for weight in self._loaded.model.parameters()}

    def _shrink(self, error: BaseException, rows: int) -> None:
        """Halve the batch after an error, if it says that memory has run out."""
        import torch

        if not is_out_of_memory(error):
            raise error
        self._decoder.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if rows == 1:
            raise ModelError(
                "there is no memory left for even one answer at a time",
                hint="fewer --bits, shorter --passage-tokens, or a GGUF model with llama-cpp",
            ) from None
        self.batch = max(1, rows // 2)

    def _job(self, request: Request) -> Job:
        prompt = encode(request.prompt, self.tokenizer)
        budget = min(request.max_tokens, self.context - len(prompt))
        if budget <= 0:
            raise ModelError(
                f"a prompt of {len(prompt)} tokens leaves no room for an answer in a context of "
                f"{self.context}",
                hint="ask for fewer types at once (--split-num)",
            )
        tokens = self._loaded.constraining
        if request.grammar is None:
            stops = self._loaded.stops
            return Job(prompt, budget, partial(Unconstrained, tokens, budget, stops))
        start = partial(
            Constraint, tokens, request.grammar, budget, request.empties, request.list_prior
        )
        return Job(prompt, budget, start)


def _by_length(window: list[Request], jobs: list[Job]) -> list[int]:
    """The numbers of requests, those with a common beginning together, the longest first."""
    groups: dict[object, int] = {}
    kinds = [
        groups.setdefault((asked.task.name, asked.items, asked.language) if asked else None, n)
        for n, asked in enumerate(request.instruction for request in window)
    ]
    return sorted(range(len(jobs)), key=lambda n: (kinds[n], -len(jobs[n].prompt), n))

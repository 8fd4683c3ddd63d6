"""Models through transformers: CUDA in 4, 8 or 16 bits, Apple's MPS, several GPUs, or the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata, util
from itertools import islice
from pathlib import Path
from typing import Any

from iepile_cli.backends.memory import bytes_per_token, free_memory, readable_memory
from iepile_cli.backends.protocol import Answer, Backend, Options, Probe, Request, Runner
from iepile_cli.backends.scheduler import Job
from iepile_cli.backends.tokenizers import leading_space, spells
from iepile_cli.backends.transformers_decoding import Decoder
from iepile_cli.backends.transformers_loading import (
    half_precision,
    is_out_of_memory,
    load,
)
from iepile_cli.errors import ModelError, install_hint
from iepile_cli.parallel import set_torch_threads

# Answers at once where there is memory for so many, and what a step costs besides its tokens, in
# tokens.
_BATCH = {"cuda": 32, "mps": 8, "cpu": 8}
_STEP_COST = {"cuda": 512.0, "mps": 64.0, "cpu": 8.0}
# The part of the free memory that the cache of a batch may be expected to take.
_SHARE = 0.5
# How many batches are put in order of length together.
_AHEAD = 4
_NEEDS = ("torch", "transformers", "accelerate", "peft")


class Transformers(Backend):
    """The backend ``transformers``."""

    takes = frozenset(
        {
            "parallel",
            "context",
            "device",
            "bits",
            "max_memory",
            "compile",
            "trust_remote_code",
            "threads",
        }
    )

    def probe(self) -> Probe:
        """Whether its libraries are there, without loading them."""
        missing = [name for name in _NEEDS if util.find_spec(name) is None]
        if missing:
            return Probe(False, f"{', '.join(missing)} not installed; {install_hint('train')}")
        return Probe(True, details={name: metadata.version(name) for name in _NEEDS[:2]})

    def describe(self) -> Mapping[str, str]:
        """What it finds on this machine, and what to install for the rest; loads torch."""
        return capabilities()

    def open(self, model: Path, options: Options) -> TransformersRunner:
        """Open a folder of weights or a GGUF file; raises ``ModelError`` or ``UsageError``."""
        return TransformersRunner(model, options)


TRANSFORMERS = Transformers()


class TransformersRunner(Runner):
    """An opened model that answers requests, a batch at a time."""

    def __init__(self, path: Path, options: Options) -> None:
        # Before torch is imported.
        set_torch_threads(options.threads)
        self._loaded = load(path, options)
        # A compiled step is compiled once more, for other sizes, in the course of a run.
        self.reproducible = not options.compile
        kind = self._loaded.device.type
        self.tokenizer = self._loaded.tokenizer
        self.context = min(options.context or self._loaded.context, self._loaded.context)
        self.lead = leading_space(self._loaded.tokenizer)
        self.batch = options.parallel or _BATCH.get(kind, 8)
        self._per_token = 0 if options.parallel else bytes_per_token(self._loaded.model)
        self._decoder = Decoder(
            self._loaded.model,
            self._loaded.device,
            _STEP_COST.get(kind, 64.0),
            compiled=options.compile,
        )

    def spells(self, text: str) -> bool:
        """Whether the vocabulary can write a text; some lack rare bytes."""
        return spells(self._loaded.tokenizer.constraining, text)

    def generate(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer each request, in order.

        Reads some batches ahead and puts them in order of length. A batch has as many answers as
        there seems to be memory for, unless their number was asked for; one that does not fit all
        the same is halved, and so are those after it. Raises ``ModelError`` for a prompt that
        leaves no room for its answer, and when even one answer does not fit into memory.
        """
        self._decoder.forget()
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
        weights = self._loaded.model.parameters()
        free = free_memory({one.device for one in weights}) if self._per_token else None
        if free is None:
            return self.batch
        # Few answers need the whole of their budget.
        longest = max(len(job.prompt) + job.budget // 2 for job in jobs)
        fits = int(free * _SHARE) // (self._per_token * longest)
        return max(1, min(self.batch, fits))

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
        return Job.of(request, self._loaded.tokenizer, self.context, self._loaded.stops)


def _by_length(window: list[Request], jobs: list[Job]) -> list[int]:
    """The numbers of requests, those with a common beginning together, the longest first."""
    groups: dict[object, int] = {}
    kinds = [
        groups.setdefault((asked.task.name, asked.items, asked.language) if asked else None, n)
        for n, asked in enumerate(request.instruction for request in window)
    ]
    return sorted(range(len(jobs)), key=lambda n: (kinds[n], -len(jobs[n].prompt), n))


# ------------------------------------------------------------ what there is

# What each library is for, besides torch and transformers themselves.
_PURPOSES = {"bitsandbytes": "--bits 4 and 8", "gguf": "GGUF files"}


def capabilities() -> dict[str, str]:
    """Facts by name: devices with their memory, bfloat16, and libraries; loads torch."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    facts = {"device": "cuda" if cuda else "mps" if mps else "cpu"}
    if cuda:
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            facts[f"cuda:{number}"] = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    else:
        facts["cuda"] = _no_cuda(torch)
    facts["mps"] = "yes" if mps else "no, only on a Mac with Apple's own processor"
    facts["bf16"] = _bf16(torch, facts["device"])
    facts["memory"] = readable_memory()
    for name, purpose in _PURPOSES.items():
        there = util.find_spec(name) is not None
        missing = f"not installed, needed for {purpose}: pip install {name}"
        facts[name] = f"{metadata.version(name)}, for {purpose}" if there else missing
    return facts


def _no_cuda(torch: Any) -> str:
    if torch.version.cuda or torch.version.hip:
        return "no, torch is built for it and finds no GPU or driver"
    return "no, this torch is built without it, see pytorch.org/get-started"


def _bf16(torch: Any, device: str) -> str:
    """Whether the device that is taken by itself computes in bfloat16."""
    if device == "cuda":
        return "yes" if torch.cuda.is_bf16_supported() else "no, --bits 16 is fp16 there"
    if device == "mps":
        return "yes" if half_precision("mps") is torch.bfloat16 else "no, --bits 16 is fp16 there"
    try:
        own = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):
        own = False
    return "yes" if own else "slow: this processor has no instructions for it"

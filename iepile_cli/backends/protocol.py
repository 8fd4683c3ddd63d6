"""What a backend is: the classes and protocols that built-in backends and plugins share.

A ``Backend`` is opened on a model and gives a ``Runner``. A runner takes requests and gives one
answer for each, in their order; it may batch as it likes. A request carries its own grammar,
because what may be mentioned depends on its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from iepile_cli.fields import check_fields, option
from iepile_cli.task.instruction import Instruction
from iepile_cli.templates import Prompt, Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# Groups of the options in the help of the command line.
_MODEL, _SERVER = "Model", "Server"


@dataclass(frozen=True)
class Request:
    """A prompt, the grammar of its answer (None: unconstrained) and the answer's token budget.

    ``grammar`` is in llguidance's Lark dialect. ``empties`` are the ``"key": []`` texts of the
    whole answer, in order, with which an answer is closed whose budget is spent. ``instruction`` is
    what the request asks: a backend that takes no Lark grammar can make another form of it.
    """

    prompt: Prompt
    grammar: str | None
    max_tokens: int
    empties: tuple[str, ...] = ()
    instruction: Instruction | None = None


@dataclass(frozen=True)
class Answer:
    """What the model answered.

    ``text`` is complete and of the grammar's form unless the request had none; with ``truncated``
    the token budget ended it: what was complete was kept and the rest closed.
    ``computed_tokens`` are those that the model computed for it, without those of the prompt that
    it shared with others. ``token_ends[i]`` is where token i ends in ``text`` (in UTF-8 bytes) and
    ``token_probs[i]`` its probability among the tokens that were allowed, 1.0 for a forced one;
    both empty if the backend does not tell. ``failed`` says in a few words why there is no answer,
    where others may still come.
    """

    text: str
    truncated: bool = False
    prompt_tokens: int = 0
    answer_tokens: int = 0
    computed_tokens: int = 0
    token_ends: tuple[int, ...] = field(default=(), repr=False)
    token_probs: tuple[float, ...] = field(default=(), repr=False)
    failed: str = ""


@dataclass(frozen=True)
class Probe:
    """Whether a backend can run here; if not, why and what to do. ``details`` for listings."""

    ok: bool
    reason: str = ""
    details: dict[str, str] = field(default_factory=dict)


def _ignore(_: str) -> None:
    pass


@dataclass(frozen=True)
class Options:
    """How a model is opened, of which a backend takes what it knows.

    ``merge`` allows one merged file of the model and its adapters to be kept in the cache.
    ``on_note`` is told, in one line each, what the user should know of this model on this machine.
    Raises ``UsageError`` for a value that cannot be.
    """

    adapters: tuple[str, ...] = ()
    context: int = option(
        0,
        help="Tokens of context, all parallel answers together; 0: enough.",
        group=_MODEL,
        least=0,
    )
    parallel: int = option(
        0, help="Answers computed at once; 0: as many as fit.", group=_MODEL, least=0
    )
    threads: int = option(0, help="Processor threads; 0: one for each core.", group=_MODEL, least=0)
    device: str = option(
        "", help="transformers: cuda, cuda:1, mps or cpu. Default: the best there is.", group=_MODEL
    )
    bits: Literal[4, 8, 16, 32] | None = option(
        None, help="transformers: bits of a weight. Default: 16, on the CPU 32.", group=_MODEL
    )
    max_memory: tuple[str, ...] = option(
        (),
        help="transformers: memory of each GPU to use (20GiB), or of one place (0=20GiB, "
        "cpu=64GiB); may be repeated.",
        group=_MODEL,
    )
    compile: bool = option(
        False,
        help="transformers: compile the steps of answers with torch.compile, on CUDA as graphs; "
        "meant for long runs, and not yet measured on a GPU.",
        group=_MODEL,
    )
    trust_remote_code: bool = option(
        False, help="transformers: run code that comes with a model.", group=_MODEL
    )
    base_url: str = option(
        "",
        help="The server, e.g. http://localhost:8000/v1.",
        group=_SERVER,
        env="IEPILE_BASE_URL",
    )
    api_key_env: str = option(
        "", help="The environment variable that holds the server's API key.", group=_SERVER
    )
    server: Literal["vllm", "llama-server", "llama-cpp-python", "ollama", "openai"] | None = option(
        None, help="The kind of server. Default: the server is asked.", group=_SERVER
    )
    tokenizer: str = option(
        "",
        help="A model on this machine whose tokenizer and template make the prompts. Default: the "
        "server's chat endpoint.",
        group=_SERVER,
        completes="model",
    )
    concurrency: int = option(0, help="Requests at once; 0: 16.", group=_SERVER, least=0)
    timeout: float = option(
        0.0,
        help="Seconds to wait for an answer to go on; 0: 120.",
        group=_SERVER,
        least=0,
    )
    verbose: bool = False
    merge: bool = False
    on_note: Callable[[str], None] = field(default=_ignore, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)


class Runner(Protocol):
    """An opened model; what has a default here may be left out by a class that inherits it."""

    tokenizer: Tokenizer
    """The model's tokenizer, for templates and for measuring texts."""
    context: int
    """Tokens that one sequence can have, prompt and answer together."""
    reproducible: bool = False
    """Whether ``generate`` gives the same answers, to the bit, to the same requests: it begins
    anew each time it is called, and nobody else's requests are computed beside them."""
    lead: str = ""
    """What the tokenizer puts before an answer's first character: a space, or nothing."""
    notes: Sequence[str] = ()
    """What the user should know when all is done, one line each."""

    def spells(self, text: str) -> bool:
        """Whether the vocabulary can write a text; some lack rare bytes."""
        return True

    def generate(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer each request, in order; lazily, reading only as far ahead as it batches."""
        ...

    def close(self) -> None:
        """Give the model's memory back."""
        return


class Backend(Protocol):
    """What is registered as a backend; what has a default may be left out by inheriting it."""

    takes: frozenset[str] = frozenset()
    """The fields of ``Options`` that it makes use of; the others are refused when given."""
    remote: bool = False
    """Whether models are at a server: ``open`` is then given a ``ServerModel``, else a ``Path``."""

    def probe(self) -> Probe:
        """Say whether this backend can run here, without loading a model."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Facts about this machine for `iepile list backends`; may load libraries."""
        return {}

    def open(self, model: Any, options: Options) -> Runner:
        """Open a model; raises ``ModelError``."""
        ...


@dataclass(frozen=True)
class ServerModel:
    """A model behind a server: its name there, and its tokenizer where it is at hand.

    ``name`` "" takes what the server has. ``writes`` says that prompts are written here, by a
    template, and not by the server.
    """

    name: str
    tokenizer: ConstrainingTokenizer | None = None
    writes: bool = False


class ConstrainingTokenizer(Tokenizer, Protocol):
    """A tokenizer whose vocabulary grammars can be applied to."""

    @property
    def constraining(self) -> LLTokenizer:
        """The vocabulary for llguidance; raises ``ModelError`` where it cannot be had."""
        ...

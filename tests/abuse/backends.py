"""Backends for attacks: the real grammars with a model that chooses at random, or says anything.

Registered in the process of a test (``install``), or as the plugin of a program that is run
(``site``): its path entry holds the entry point, and this module is imported from ``tests``.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from abuse.counting import count

from iepile_cli.backends import Answer, Backend, Options, Probe, Request, Runner
from iepile_cli.backends.constraint import Constraint
from iepile_cli.backends.tokenizers import LlamaCppTokenizer, spells
from iepile_cli.registry import registry
from iepile_cli.task import Instruction
from iepile_cli.task.instruction import dumps


@cache
def tokenizer_of(path: Path) -> LlamaCppTokenizer:
    """The vocabulary of a GGUF file, without its weights."""
    return LlamaCppTokenizer.open(path)


class _Runner(Runner):
    context = 8192
    closing = 0.3
    pause = 0.0

    def __init__(self, model: Path) -> None:
        self.tokenizer = tokenizer_of(model)
        self.rng = random.Random(int(os.environ.get("ABUSE_SEED", "0")))

    def generate(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer one by one."""
        for request in requests:
            time.sleep(self.pause)
            yield self.answer(request)

    def answer(self, request: Request) -> Answer:
        """One answer."""
        raise NotImplementedError


class _Random(_Runner):
    """Chooses among the tokens that the grammar allows, at random; ends lists now and then."""

    @cached_property
    def closers(self) -> frozenset[int]:
        """The tokens with a closing bracket or brace."""
        vocabulary = self.tokenizer.constraining
        texts = ((token, vocabulary.decode_str([token])) for token in range(vocabulary.vocab_size))
        return frozenset(token for token, text in texts if {*text} & {*"]}"})

    def spells(self, text: str) -> bool:
        """Whether the vocabulary can write a text."""
        return spells(self.tokenizer.constraining, text)

    def answer(self, request: Request) -> Answer:
        """One answer of the request's grammar, whatever it says."""
        assert request.grammar is not None
        vocabulary = self.tokenizer.constraining
        held = Constraint(vocabulary, request.grammar, request.max_tokens, request.empties)
        while not held.done:
            allowed = held.allowed()
            token = int(allowed[self.rng.randrange(len(allowed))])
            if len(allowed) > 1 and self.rng.random() < self.closing:
                few = self.rng.sample(range(len(allowed)), min(len(allowed), 40))
                drawn = (int(allowed[place]) for place in few)
                token = next((one for one in drawn if one in self.closers), token)
            held.accept(token, self.rng.random())
        if request.instruction:
            count(f"passages answered at random, {request.instruction.task.name}")
        return held.answer(len(request.prompt.pieces))


class _Liar(_Runner):
    """Answers whatever ``answers`` gives, grammar or not: as a server may."""

    answers: Iterator[str] = iter(())

    def answer(self, request: Request) -> Answer:
        """The next of the answers, the request's schema written into it."""
        keys = [item.type for item in request.instruction.items] if request.instruction else []
        text = next(type(self).answers).replace("KEY", dumps(keys[0])[1:-1] if keys else "x")
        return Answer(text)


class _FirstWord(_Runner):
    """Answers at once: for every item of the schema the first word of the text."""

    def __init__(self, model: Path) -> None:
        super().__init__(model)
        self.pause = float(os.environ.get("ABUSE_PAUSE", "0"))

    def answer(self, request: Request) -> Answer:
        """The first word, for tasks whose items are mentions."""
        asked = request.instruction
        assert isinstance(asked, Instruction)
        words = asked.text.split(maxsplit=1)[:1]
        return Answer(json.dumps({item.type: words for item in asked.items}))


class _Backend(Backend):
    takes = frozenset({"context", "parallel", "threads"})

    def __init__(self, runner: type[_Runner]) -> None:
        self._runner = runner

    def probe(self) -> Probe:
        """It runs anywhere."""
        return Probe(True)

    def open(self, model: Path, options: Options) -> Runner:
        """Open the vocabulary of a model."""
        return self._runner(model)


def register(registry: Any, origin: str = "") -> None:
    """Register all."""
    for name, runner in (("random", _Random), ("liar", _Liar), ("first-word", _FirstWord)):
        registry.add("backend", name, _Backend(runner), origin=origin)


@cache
def install() -> None:
    """Register all in this process."""
    register(registry(), "abuse 1")


def tell(answers: Iterator[str]) -> None:
    """What the backend ``liar`` answers from now on."""
    _Liar.answers = answers


def site(folder: Path) -> dict[str, str]:
    """The environment of a program that has the backends as a plugin, registered in a folder."""
    info = folder / "abuse-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: abuse\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[iepile.plugins]\nabuse = abuse.backends:register\n")
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (folder, tests, tests.parent)))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

"""How fast extraction is beside what else there is, and beside what the processor could do.

Run: ``python tests/bench/extract.py [texts]``, or ``python tests/bench/extract.py costs [texts]``
for what 1, 10, 100 ... up to 1,000 short texts take, and 1, 4, 16 and 64 types.

All runs of the first extract four types from the same texts with the embedded model's weights, in
one process each after the other, so that ratios hold whatever else the machine does. Rows:

- ours, and ours with each of its measures turned off in turn;
- ``transformers``: ``generate`` of one text after the other, as upstream does it;
- ``schema``: llama-cpp-python's chat completion with a JSON schema, as its users write it;
- ``bound``: the time that llama.cpp itself takes for our tokens at its best measured rates of
  prompts and of eight sequences; ours can at most reach 1.0 of it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from iepile_cli.backends import Options, scheduler
from iepile_cli.backends.gguf_merging import merge_adapters, merged_form
from iepile_cli.backends.llamacpp import BATCH, Context, library, load_model
from iepile_cli.backends.opening import Opened, open_model
from iepile_cli.backends.scheduler import Feed
from iepile_cli.extraction.blocks import in_blocks
from iepile_cli.extraction.inputs import Document
from iepile_cli.extraction.pipeline import ExtractOptions, extract
from iepile_cli.models import resolve_model
from iepile_cli.task.grammar import json_schema
from iepile_cli.task.instruction import Instruction
from iepile_cli.task.schema import read_schema

PEOPLE = ("Ada Keller", "Rui Sousa", "Mei Lin", "Tomás Ferreira", "Ines Roth")
PLACES = ("Hamburg", "Lisbon", "Porto", "Oslo", "Setúbal")
SCHEMA = "person,location,organization,date"
# transformers takes minutes for what the others do in seconds.
FEW = 4
ROUNDS = 2
# Of a run with few and with many types.
TYPES = (1, 4, 16, 64)
TEXTS_OF_TYPES = 4
UNSHARED = "  prompts not shared"


def texts(count: int) -> list[str]:
    return [
        f"On day {n} {PEOPLE[n % 5]}, chief engineer of plant number {n * 7}, travelled from "
        f"{PLACES[n % 5]} to {PLACES[(n * 3 + 1) % 5]}, where the council had asked for a second "
        "report on the new harbour."
        for n in range(count)
    ]


def short_texts(count: int) -> list[str]:
    return [
        f"{PEOPLE[n % 5]} went from {PLACES[n % 5]} to {PLACES[(n * 3 + 1) % 5]} on day {n}."
        for n in range(count)
    ]


def ours(opened: Opened, some: list[str], schema: str = SCHEMA) -> tuple[float, int, int]:
    """Seconds a text, and the tokens computed and chosen for all."""
    task, items = read_schema([schema])
    texts_of_run = (Document("bench", text, line=n) for n, text in enumerate(some))
    documents = in_blocks(texts_of_run)
    computed = 0

    def note(tokens: int, _: float) -> None:
        nonlocal computed
        computed += tokens

    how = ExtractOptions(language="en").suiting(opened)
    started = time.perf_counter()
    results = list(
        extract(
            documents,
            opened.runner,
            opened.template,
            how,
            task=task,
            schema=items,
            on_answer=note,
        )
    )
    seconds = (time.perf_counter() - started) / len(some)
    assert all(list(result.answer) == [item.type for item in items] for result in results)
    return seconds, computed, sum(result.tokens for result in results)


def instructions(some: list[str]) -> list[Instruction]:
    task, items = read_schema([SCHEMA])
    return [Instruction(task, tuple(items), text, "en") for text in some]


def chat_completion(path: Path, some: list[str]) -> float:
    """llama-cpp-python's chat completion with a JSON schema, one text after the other."""
    from llama_cpp import Llama

    llama = Llama(str(path), n_ctx=2048, verbose=False)
    asked = instructions(some)
    schema = json_schema(asked[0].task, asked[0].items)
    started = time.perf_counter()
    for each in asked:
        llama.create_chat_completion(
            [{"role": "user", "content": each.json}],
            response_format={"type": "json_object", "schema": schema},
            temperature=0,
            max_tokens=160,
        )
    seconds = (time.perf_counter() - started) / len(some)
    llama.close()
    return seconds


def upstream(some: list[str]) -> float:
    """transformers' ``generate``, one text after the other, in 32 bits as a processor computes."""
    opened = open_model(backend="transformers", options=Options(parallel=1))
    loaded = opened.runner._loaded  # type: ignore[attr-defined]
    import torch

    from iepile_cli.templates import encode

    prompts = [
        encode(opened.template.prompt(one.json), loaded.tokenizer) for one in instructions(some)
    ]
    started = time.perf_counter()
    with torch.inference_mode():
        for prompt in prompts:
            loaded.model.generate(
                input_ids=torch.tensor([prompt]), max_new_tokens=160, do_sample=False
            )
    seconds = (time.perf_counter() - started) / len(some)
    opened.runner.close()
    return seconds


def rates(path: Path) -> tuple[float, float]:
    """llama.cpp's tokens a second: of a whole batch of a prompt, and of eight sequences at once."""
    context = Context(load_model(path), size=4096, parallel=12, threads=0)
    prompt = list(range(1000, 1000 + BATCH))
    prefill, decode = 0.0, 0.0
    for _ in range(ROUNDS):
        context.clear()
        started = time.perf_counter()
        context.decode([Feed(0, 0, prompt, True)])
        prefill = max(prefill, BATCH / (time.perf_counter() - started))
        for sequence in range(1, 8):
            context.share(0, sequence, 256)
        context.trim(0, 256)
        started = time.perf_counter()
        for at in range(16):
            context.decode([Feed(one, 256 + at, [1000], True) for one in range(8)])
        decode = max(decode, 8 * 16 / (time.perf_counter() - started))
    context.close()
    return prefill, decode


def variants() -> Iterator[tuple[str, Callable[[], Opened]]]:
    """Ours, and ours with one measure turned off."""
    yield "ours", open_model
    yield "  parts, not merged", parts
    yield "  one at a time", lambda: open_model(options=Options(parallel=1))
    yield UNSHARED, open_model


@contextmanager
def unshared() -> Iterator[None]:
    """No sequence takes over what another has computed of its prompt."""
    usual = scheduler._Scheduler.donor
    scheduler._Scheduler.donor = lambda self, prompt: (None, 0, 0)  # type: ignore[method-assign]
    try:
        yield
    finally:
        scheduler._Scheduler.donor = usual  # type: ignore[method-assign]


def parts() -> Opened:
    found = resolve_model()
    return open_model(adapters=[str(adapter) for adapter in found.adapters])


def show(name: str, each: list[float], usual: float) -> None:
    middle = statistics.median(each)
    print(f"{name:28} {middle:7.3f} s a text   {middle / usual:6.2f} times ours", flush=True)


def costs(most: int) -> None:
    """Print what a run takes by its number of texts, and by its number of types."""
    opened = open_model()
    print(f"| texts ({SCHEMA}) | seconds | milliseconds a text | tokens computed a text |")
    print("|---|---|---|---|")
    ours(opened, short_texts(8))
    count = 1
    while count <= most:
        seconds, computed, _ = ours(opened, short_texts(count))
        row = f"{seconds * count:.2f} | {1000 * seconds:.0f} | {computed / count:.0f}"
        print(f"| {count:,} | {row} |", flush=True)
        count *= 10
    print(f"\n| types ({TEXTS_OF_TYPES} texts) | milliseconds a text | tokens computed a text |")
    print("|---|---|---|")
    for types in TYPES:
        schema = ",".join([*SCHEMA.split(","), *(f"kind {n}" for n in range(5, 65))][:types])
        seconds, computed, _ = ours(opened, short_texts(TEXTS_OF_TYPES), schema)
        row = f"{1000 * seconds:.0f} | {computed / TEXTS_OF_TYPES:.0f}"
        print(f"| {types} | {row} |", flush=True)
    opened.runner.close()


def main() -> None:
    if sys.argv[1:2] == ["costs"]:
        costs(int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    library()
    found = resolve_model()
    merged = merged_form(found.path, found.adapters, print)
    if merged is None:
        merged = Path(tempfile.mkdtemp()) / "merged.gguf"
        merge_adapters(found.path, found.adapters, merged)
    some = texts(count)
    opened = {name: opening() for name, opening in variants()}
    seconds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, model in opened.items():
            with unshared() if name == UNSHARED else nullcontext():
                took, tokens, answers = ours(model, some)
            seconds.setdefault(name, []).append(took)
            if name == "ours":
                computed, chosen = tokens, answers
        compared = seconds.setdefault("schema (llama-cpp-python)", [])
        compared.append(chat_completion(merged, some[:FEW]))
        prefill, decode = rates(merged)
        # Some of the chosen tokens were forced and went in with others: the bound is generous.
        bound = ((computed - chosen) / prefill + chosen / decode) / count
        seconds.setdefault("bound", []).append(bound)
    for model in opened.values():
        model.runner.close()
    print(f"{count} texts, {computed} tokens computed, {chosen} of them in answers")
    usual = statistics.median(seconds["ours"])
    for name, each in seconds.items():
        show(name, each, usual)
    show("transformers (generate)", [upstream(some[:FEW])], usual)


if __name__ == "__main__":
    main()

"""The transformers backend: the same answers as llama.cpp's, whatever goes together in a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from gguf_files import lora, random_gguf
from questions import TEXTS, agreement, answers, asks, check, requests, start

from iepile_cli.backends import Runner, transformers_decoding
from iepile_cli.backends import transformers as backend
from iepile_cli.backends.memory import bytes_per_token, free_memory
from iepile_cli.backends.transformers_loading import max_memory
from iepile_cli.cli.app import run
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.extraction.requests import ExtractOptions, RequestBuilder
from iepile_cli.templates import AUTO


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_gguf(tmp_path_factory.mktemp("model") / "random.gguf")


@pytest.fixture(scope="module")
def opened(model: Path) -> Iterator[dict[str, Runner]]:
    runners = {name: start(name, model) for name in ("llama-cpp", "transformers")}
    yield runners
    for runner in runners.values():
        runner.close()


def test_it_answers_as_llama_cpp_does(opened: dict[str, Runner]) -> None:
    questions = asks()
    ours = answers(opened["transformers"], questions)
    check(ours, questions)
    assert agreement(answers(opened["llama-cpp"], questions), ours) >= 0.95
    assert all(0 < p <= 1 for answer in ours for p in answer.token_probs)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_what_goes_together_does_not_change_answers(opened: dict[str, Runner], batch: int) -> None:
    runner: Any = opened["transformers"]
    questions = asks()
    before, runner.batch = runner.batch, batch
    try:
        found = answers(runner, questions)
    finally:
        runner.batch = before
    assert agreement(found, answers(runner, questions)) >= 0.95


@pytest.mark.parametrize("cost", [0.0, 1e9])
def test_taking_forced_tokens_along_or_not_gives_the_same(
    opened: dict[str, Runner], cost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner: Any = opened["transformers"]
    questions = asks(TEXTS[:3])
    usual = answers(runner, questions)
    monkeypatch.setattr(runner._decoder, "step_cost", cost)
    assert agreement(usual, answers(runner, questions)) >= 0.95


def test_compiled_steps_give_the_same(
    opened: dict[str, Runner], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    # What is traced and how the cache is kept is tried; generating code for it takes a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    # The cache has to grow in the middle of a batch.
    monkeypatch.setattr(transformers_decoding, "_GROWTH", 16)
    runner: Any = start("transformers", model, compile=True)
    compiled = runner._decoder._step
    widths = []

    def watched(**given: Any) -> Any:
        widths.append(given["input_ids"].shape)
        return compiled(**given)

    runner._decoder._step = watched
    questions = asks(TEXTS[:2])
    found = answers(runner, questions)
    check(found, questions)
    assert agreement(answers(opened["transformers"], questions), found) >= 0.95
    # All steps have the batch's rows, though answers end at different times.
    assert {rows for rows, _ in widths} == {8}
    assert {width for _, width in widths} <= {1, 2, 4, 8}
    assert runner._decoder.places > 16 + max(
        len(job.prompt) + job.budget // 2
        for job in (runner._job(request) for request in requests(runner, questions))
    )
    assert not runner.reproducible


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken(graph: Any, inputs: Any) -> Any:
        raise ValueError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    linear = torch.nn.Linear(2, 2)
    decoder = transformers_decoding.Decoder(linear, torch.device("cpu"), 1.0, compiled=True)
    with pytest.raises(ModelError, match=r"torch\.compile failed: no C"):
        decoder._compiled_step(input=torch.ones(1, 2))


def test_no_memory_halves_the_batch_and_loses_nothing(
    opened: dict[str, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    runner: Any = opened["transformers"]
    questions = asks(TEXTS[:3])
    usual = answers(runner, questions)
    forward = runner._decoder.forward

    def tight(ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
        if ids.shape[0] > limit:
            raise torch.OutOfMemoryError("out of memory")
        return forward(ids, mask, positions, cache)

    monkeypatch.setattr(runner._decoder, "forward", tight)
    monkeypatch.setattr(runner, "batch", 8)
    limit = 3
    assert agreement(usual, answers(runner, questions)) >= 0.95
    assert runner.batch == 2
    limit = 0
    with pytest.raises(ModelError, match="no memory left"):
        answers(runner, questions)


def test_a_batch_has_as_many_answers_as_there_is_memory_for(
    opened: dict[str, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner: Any = opened["transformers"]
    questions = asks(TEXTS[:3])
    usual = answers(runner, questions)
    widest: list[int] = []
    forward = runner._decoder.forward

    def watched(ids: Any, *rest: Any) -> Any:
        widest.append(ids.shape[0])
        return forward(ids, *rest)

    monkeypatch.setattr(runner._decoder, "forward", watched)
    jobs = [runner._job(request) for request in requests(runner, questions)]
    largest = runner._per_token * max(len(job.prompt) + job.budget // 2 for job in jobs)
    for rows in (2, 4):
        # Half of what is free is taken; shorter ones need less.
        monkeypatch.setattr(backend, "free_memory", lambda _, n=rows: 2 * n * largest)
        widest.clear()
        assert agreement(usual, answers(runner, questions)) >= 0.95
        assert rows <= max(widest) < 2 * rows
        assert runner.batch == 8
    monkeypatch.setattr(backend, "free_memory", lambda _: 0)
    widest.clear()
    answers(runner, questions)
    assert max(widest) == 1


def test_a_number_of_answers_that_was_asked_for_is_kept(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "free_memory", lambda _: 0)
    runner: Any = start("transformers", model, parallel=5)
    jobs = [runner._job(request) for request in requests(runner, asks(TEXTS[:2]))]
    assert runner._rows(jobs) == 5
    runner.close()


def test_the_memory_of_a_token_is_that_of_its_keys_and_values(opened: dict[str, Runner]) -> None:
    runner: Any = opened["transformers"]
    (layer, *more) = runner._decoder.shared([1] * 10)
    size = sum(tensor.nbytes for pair in (layer, *more) for tensor in pair)
    assert bytes_per_token(runner._loaded.model) == size / 10
    available, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    assert 0 < available <= total
    devices = {weight.device for weight in runner._loaded.model.parameters()}
    assert 0 < (free_memory(devices) or 0) <= total


def test_rows_leave_a_batch_by_numbers_that_every_device_takes(
    opened: dict[str, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers may lie on several GPUs: numbers on one of them select nothing on another."""
    import transformers

    devices = []
    select = transformers.DynamicCache.batch_select_indices

    def watched(cache: Any, indices: Any) -> None:
        devices.append(indices.device.type)
        select(cache, indices)

    monkeypatch.setattr(transformers.DynamicCache, "batch_select_indices", watched)
    runner: Any = opened["transformers"]
    answers(runner, asks(TEXTS[:2]))
    assert set(devices) == {"cpu"}


def test_without_a_grammar_it_writes_on(opened: dict[str, Runner]) -> None:
    runner = opened["transformers"]
    builder = RequestBuilder(runner, AUTO, ExtractOptions(constrain=False, answer_tokens=5))
    (answer,) = runner.generate([builder.request(asks()[0])])
    assert 0 < answer.answer_tokens <= 5


def test_adapters_are_the_same_as_in_llama_cpp(
    model: Path, opened: dict[str, Runner], tmp_path: Path
) -> None:
    peft, gguf = lora(tmp_path, model)
    questions = asks(TEXTS[:4])
    ours = start("transformers", model, adapters=(str(peft),))
    theirs = start("llama-cpp", model, adapters=(str(gguf),))
    try:
        with_adapter = answers(ours, questions)
        check(with_adapter, questions)
        assert agreement(with_adapter, answers(theirs, questions)) >= 0.95
        assert agreement(with_adapter, answers(opened["transformers"], questions)) < 0.5
    finally:
        ours.close()
        theirs.close()
    unpacked = start("transformers", model, adapters=(str(gguf),))
    try:
        assert agreement(with_adapter, answers(unpacked, questions)) >= 0.95
    finally:
        unpacked.close()
    with pytest.raises(ModelError, match="not a LoRA adapter"):
        start("transformers", model, adapters=(str(model),))


def test_several_adapters_merged_and_apart(
    model: Path, folder: Path, opened: dict[str, Runner], tmp_path: Path
) -> None:
    """At 16 and 32 bits they go into the weights, below that they stay beside them."""
    pytest.importorskip("bitsandbytes")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = lora(tmp_path / "a", model), lora(tmp_path / "b", model, seed=1)
    both = (str(one[0]), str(other[0]))
    questions = asks(TEXTS[:3])
    ours = start("transformers", model, adapters=both)
    theirs = start("llama-cpp", model, adapters=(str(one[1]), str(other[1])))
    merged = answers(ours, questions)
    assert agreement(merged, answers(theirs, questions)) >= 0.95
    for runner in (ours, theirs):
        runner.close()
    alone: Any = start("transformers", model, adapters=both[:1])
    assert agreement(merged, answers(alone, questions)) < 0.9
    alone.close()
    apart: Any = start("transformers", folder, bits=4, adapters=both)
    assert set(apart._loaded.model.active_adapters) == {"adapter0", "adapter1"}
    kinds = {type(layer).__name__ for layer in apart._loaded.model.modules()}
    # Quantised weights, and the adapters' own beside them.
    assert "lora_A" in " ".join(name for name, _ in apart._loaded.model.named_modules())
    assert "Linear4bit" in kinds
    check(answers(apart, questions), questions)
    apart.close()
    sixteen: Any = start("transformers", folder, bits=16, adapters=both)
    assert not any("lora" in name for name, _ in sixteen._loaded.model.named_modules())
    sixteen.close()


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random weights, and of a tokenizer in the form that transformers saves."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    place = tmp_path_factory.mktemp("folder")
    tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    tokenizer.save_pretrained(place)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(place)
    return place


def test_four_bits_take_less_memory_and_extract(folder: Path) -> None:
    full: Any = start("transformers", folder)
    small: Any = start("transformers", folder, bits=4)
    try:
        questions = asks(TEXTS[:2])
        check(answers(full, questions, 24), questions)
        check(answers(small, questions, 24), questions)
        kinds = {type(layer).__name__ for layer in small._loaded.model.modules()}
        assert "Linear4bit" in kinds
        before, after = (sum(_layers(runner._loaded.model)) for runner in (full, small))
        assert after < before / 6
    finally:
        full.close()
        small.close()


def test_a_gguf_file_in_4_bits_is_its_unpacked_weights_cut_down(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setenv("IEPILE_CACHE", str(tmp_path))
    questions = asks(TEXTS[:3])
    small: Any = start("transformers", model, bits=4)
    kinds = {type(module).__name__ for module in small._loaded.model.modules()}
    assert "Linear4bit" in kinds
    found = answers(small, questions)
    small.close()
    check(found, questions)
    (folder,) = tmp_path.glob("unpacked/*/")
    again: Any = start("transformers", folder, bits=4)
    assert answers(again, questions) == found
    again.close()


def _layers(model: Any) -> list[int]:
    named = model.named_parameters()
    return [p.numel() * p.element_size() for name, p in named if "proj" in name]


def test_eight_bits(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    small: Any = start("transformers", folder, bits=8)
    kinds = {type(module).__name__ for module in small._loaded.model.modules()}
    assert "Linear8bitLt" in kinds
    questions = asks(TEXTS[:1])
    check(answers(small, questions, 16), questions)
    small.close()


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    config = {"model_type": "baichuan", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="runs code that comes with it") as failed:
        start("transformers", tmp_path)
    assert "--trust-remote-code" in failed.value.hint


def test_code_that_is_trusted_and_fails_is_one_line(tmp_path: Path) -> None:
    config = {"model_type": "baichuan", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    # What happens to code that was written for a library of years ago.
    (tmp_path / "own.py").write_text("from transformers.utils import long_gone_function\n")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="its own code fails with transformers") as failed:
        start("transformers", tmp_path, trust_remote_code=True)
    assert "long_gone_function" in failed.value.message
    assert "GGUF" in failed.value.hint


def test_what_cannot_be_is_said_before_anything_is_loaded(model: Path) -> None:
    for options, said in (
        ({"bits": 5}, "--bits 5"),
        ({"device": "tpu"}, "'tpu'"),
        ({"device": "cuda:x"}, "'cuda:x'"),
        ({"device": "cpu", "max_memory": ("20GiB",)}, "--max-memory"),
        ({"compile": True, "bits": 8}, "--compile"),
    ):
        with pytest.raises(UsageError, match=said):
            start("transformers", model, **options)


def test_memory_is_shared_out_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert max_memory(()) is None
    assert max_memory(("20GiB",)) == {0: "20GiB", 1: "20GiB"}
    wanted = {0: "20GiB", "cpu": "64GiB"}
    assert max_memory(("0=20GiB,cpu=64GiB",)) == wanted
    assert max_memory(("0=20GiB", "cpu=64GiB")) == wanted
    assert max_memory(("20GiB", "1=9.5gb")) == {0: "20GiB", 1: "9.5gb"}
    for wrong in ("20", "GiB", "0=", "gpu=1GiB", "0=20GiB;1=3GiB", ""):
        with pytest.raises(UsageError, match="--max-memory"):
            max_memory((wrong,))


def test_from_the_command_line(model: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text(TEXTS[1], encoding="utf-8")
    arguments = ["extract", "-s", "person,location", str(source), "-m", str(model), "-o", str(out)]
    assert run([*arguments, "--backend", "transformers", "--threads", "1"]) == 0
    row = json.loads(out.read_text(encoding="utf-8"))
    assert list(row["answer"]) == ["person", "location"]
    assert run([*arguments, "--backend", "llama-cpp", "--bits", "4"]) == 2

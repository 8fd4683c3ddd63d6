"""The llama-cpp backend: limits, stop words, and what it counts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import random_gguf
from questions import start

import iepile_cli
from iepile_cli.backends import Options, Request, Runner
from iepile_cli.backends.llamacpp import LLAMA_CPP
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.templates import Template

FREE = Template("free", question=("{{query}}",))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_gguf(tmp_path_factory.mktemp("model") / "random.gguf")


@pytest.fixture(scope="module", params=["llama-cpp", "transformers"])
def runner(request: pytest.FixtureRequest, model: Path) -> Iterator[Runner]:
    opened = start(request.param, model)
    yield opened
    opened.close()


def test_more_at_once_than_llama_cpp_can_is_refused_with_the_limit(model: Path) -> None:
    with pytest.raises(UsageError, match="at most 256 at once"):
        LLAMA_CPP.open(model, Options(parallel=300))


def test_as_many_at_once_as_llama_cpp_can(model: Path) -> None:
    opened = LLAMA_CPP.open(model, Options(parallel=256, context=2048))
    answers = list(opened.generate(Request(FREE.prompt("a"), None, 2) for _ in range(3)))
    opened.close()
    assert len(answers) == 3


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="Linux alone tells")
def test_a_model_that_cannot_be_used_is_given_back(model: Path) -> None:
    maps = Path("/proc/self/maps")
    adapter = Path(iepile_cli.__file__).parent / "models/smollm2-iepile-lora/adapter.gguf"
    before = maps.read_text().count(str(model))
    opened = LLAMA_CPP.open(model, Options())
    assert maps.read_text().count(str(model)) > before
    opened.close()
    with pytest.raises(ModelError, match="not an adapter for this model"):
        LLAMA_CPP.open(model, Options(adapters=(str(adapter),)))
    assert maps.read_text().count(str(model)) == before


def test_a_template_s_stop_words_end_an_answer_without_a_grammar(runner: Runner) -> None:
    prompt = FREE.prompt("The quick brown fox")
    (whole,) = runner.generate([Request(prompt, None, 24)])
    words = [word for word in whole.text.split() if len(word) > 3]
    stop = words[len(words) // 2]
    (cut,) = runner.generate([Request(replace(prompt, stop=(stop,)), None, 24)])
    assert stop not in cut.text
    assert whole.text.startswith(cut.text)
    assert not cut.truncated


def test_a_stop_word_that_is_a_control_token_ends_an_answer(runner: Runner) -> None:
    prompt = FREE.prompt("The quick brown fox")
    (whole,) = runner.generate([Request(prompt, None, 24)])
    stopping = runner.tokenizer.controls()
    (cut,) = runner.generate([Request(replace(prompt, stop=tuple(stopping)), None, 24)])
    assert whole.text.startswith(cut.text)


def test_computed_tokens_leave_out_what_was_shared(runner: Runner) -> None:
    question = FREE.prompt("word " * 200)
    request = Request(question, None, 4)
    alone, *others = list(runner.generate([request] * 4))
    assert alone.computed_tokens + sum(one.computed_tokens for one in others) < 2 * (
        alone.prompt_tokens + 4 * alone.answer_tokens
    )
    assert all(one.prompt_tokens == alone.prompt_tokens for one in others)


def test_a_small_cache_answers_what_a_large_one_does(model: Path) -> None:
    """Answers that outgrow what was reserved for them take room from younger ones."""
    questions = [Request(FREE.prompt(f"{n} " * 20), None, 150) for n in range(12)]
    told = []
    for context in (4096, 420):
        opened = LLAMA_CPP.open(model, Options(parallel=6, context=context))
        told.append([answer.text for answer in opened.generate(questions)])
        opened.close()
    assert len(told[1]) == 12
    assert sum(one == other for one, other in zip(*told, strict=True)) >= 10


def test_a_file_that_makes_llama_cpp_abort_is_a_line(tmp_path: Path) -> None:
    path = random_gguf(tmp_path / "twice.gguf")
    one, other = (b"\x01" + b"\0" * 7 + sign for sign in (b"!", b"#"))
    data = path.read_bytes()
    assert one in data
    # Two tokens of one text.
    path.write_bytes(data.replace(one, other, 1))
    words = ["extract", "--schema", "a", "--model", str(path), "-"]
    done = subprocess.run(
        [sys.executable, "-m", "iepile_cli", *words],
        input="Ann met Bob.",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "twice.gguf: llama.cpp gave up: GGML_ASSERT" in done.stderr

"""The openai backend against real llama.cpp servers: answers that are valid and grounded.

llama-server is used where it is installed; llama-cpp-python's server always is.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_files import dequantised, embedded_gguf, random_gguf
from llama_servers import KINDS, free_port, installed, serving, started, wait_for
from questions import TEXTS, agreement, answers, asks, asks_in_turn, check, passages, start

from iepile_cli.backends import Answer, Options
from iepile_cli.backends.opening import open_model
from iepile_cli.cli.app import run
from iepile_cli.extraction.requests import ExtractOptions, RequestBuilder
from iepile_cli.models import resolve_model
from iepile_cli.task.instruction import Instruction

# Letters of several bytes, of which small vocabularies have no token for most.
ODD = ("任正非在深圳。Żółć 😀 costs 5 €.", "«Ünïcode» — naïve — «Ünïcode»", 'a"b\\c\td {"x": []}')


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_gguf(tmp_path_factory.mktemp("model") / "random.gguf")


@pytest.fixture(scope="module")
def url(kind: str, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(kind, model, tmp_path_factory.mktemp("log") / "server.log") as url:
        yield url


def served(url: str, tokenizer: Path, questions: list[Instruction], tokens: int) -> list[Answer]:
    options = Options(base_url=url, tokenizer=str(tokenizer), timeout=300)
    opened = open_model(backend="openai", options=options)
    try:
        options = ExtractOptions(answer_tokens=tokens)
        builder = RequestBuilder(opened.runner, opened.template, options)
        return list(opened.runner.generate(builder.request(ask) for ask in questions))
    finally:
        opened.runner.close()


def here(
    backend: str,
    path: Path,
    questions: list[Instruction],
    tokens: int,
    adapters: tuple[str, ...] = (),
) -> list[Answer]:
    runner = start(backend, path, adapters=adapters)
    try:
        return answers(runner, questions, tokens)
    finally:
        runner.close()


def here_and_there(
    kind: str, path: Path, shared: Path, log: Path, adapter: Path | None = None
) -> float:
    """The share of 100 passages on which the two backends that decode here agree.

    Every answer, and every answer of a server, must be valid and grounded.
    """
    questions = asks_in_turn(passages(shared, 100))
    assert len(questions) == 100
    with serving(kind, path, log, adapter=adapter) as url:
        check(served(url, path, questions, 0), questions)
    over = (str(adapter),) if adapter else ()
    found = [here(name, path, questions, 0, over) for name in ("llama-cpp", "transformers")]
    for each in found:
        check(each, questions)
    return agreement(*found)


def test_answers_are_valid_and_grounded(model: Path, url: str) -> None:
    questions = asks(TEXTS[:4])
    found = served(url, model, questions, 30)
    check(found, questions)
    assert any(answer.truncated for answer in found)


def test_letters_in_parts(model: Path, url: str) -> None:
    questions = asks(ODD)
    check(served(url, model, questions, 30), questions)


def test_without_a_tokenizer_answers_are_valid_and_grounded(
    url: str, tmp_path: Path, model: Path
) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text(TEXTS[3], encoding="utf-8")
    ask = ["extract", "-s", "person,organization", str(source), "-o", str(out), "--base-url", url]
    assert run([*ask, "--template", "llama2", "--answer-tokens", "24"]) == 0
    row = json.loads(out.read_text("utf-8"))
    assert list(row["answer"]) == ["person", "organization"]
    assert not row.get("ungrounded")
    assert not row.get("problems")
    assert all(TEXTS[3][i["start"] : i["end"]] == i["text"] for i in row["items"])


@pytest.mark.slow
def test_two_hundred_texts_come_through_the_death_of_the_server(
    kind: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is killed in the middle and started again: each text is there once."""
    source, out, port = tmp_path / "in.txt", tmp_path / "out.jsonl", free_port()
    source.write_text("".join(f"Ann {n} met Bob in Rome.\n" for n in range(200)), "utf-8")
    url = f"http://127.0.0.1:{port}/v1"
    words = ["extract", "-s", "person", "--lines", str(source), "-o", str(out), "--base-url", url]
    words += ["--template", "llama2", "--answer-tokens", "3"]

    def kill_in_the_middle(process: subprocess.Popen[bytes]) -> None:
        while not out.exists() or out.read_bytes().count(b"\n") < 80:
            time.sleep(0.01)
        process.kill()

    first = started(kind, model, tmp_path / "log", port)
    try:
        wait_for(url, first)
        killer = threading.Thread(target=kill_in_the_middle, args=(first,))
        killer.start()
        assert run(words) == 1
        killer.join()
    finally:
        first.kill()
        first.wait()
    assert "no server answers there" in capsys.readouterr().err
    before = out.read_bytes().splitlines()
    assert 80 <= len(before) < 200
    second = started(kind, model, tmp_path / "log", port)
    try:
        wait_for(url, second)
        assert run([*words, "--resume"]) == 0
    finally:
        second.kill()
        second.wait()
    rows = out.read_bytes().splitlines()
    assert rows[: len(before)] == before
    assert sorted(json.loads(row)["line"] for row in rows) == list(range(1, 201))


@pytest.mark.model
def test_a_dozen_passages_on_the_embedded_models_weights(kind: str, tmp_path: Path) -> None:
    path = dequantised(embedded_gguf(), tmp_path / "f32.gguf")
    questions = asks(TEXTS[:3])
    with serving(kind, path, tmp_path / "log") as url:
        found = served(url, path, questions, 32)
    check(found, questions)
    assert len(questions) == 12


@pytest.mark.slow
def test_a_hundred_passages_agree_on_the_embedded_models_weights(
    kind: str, tmp_path: Path, shared: Path
) -> None:
    path = dequantised(embedded_gguf(), tmp_path / "f32.gguf")
    assert here_and_there(kind, path, shared, tmp_path / "log") >= 0.95


@pytest.mark.slow
def test_a_hundred_passages_agree_with_the_embedded_adapter(
    kind: str, tmp_path: Path, shared: Path
) -> None:
    """Merged by transformers, apart in llama.cpp."""
    found = resolve_model()
    path = dequantised(found.path, tmp_path / "f32.gguf")
    assert here_and_there(kind, path, shared, tmp_path / "log", *found.adapters) >= 0.95

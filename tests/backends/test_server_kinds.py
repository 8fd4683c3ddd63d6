"""What each kind of server is asked, and what is done when it does not take something."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from odd_server import NOTHING_SPECIAL, Odd

from iepile_cli.cli.app import run
from iepile_cli.task.instruction import Instruction
from iepile_cli.task.schema import read_schema

ANSWER = '{"person": ["Ann"], "location": ["Rome"]}'
TEXT = "Ann went to Rome."
Pages = dict[str, Any]


def models(owner: str, **more: Any) -> Pages:
    return {"/v1/models": {"data": [{"id": "m", "owned_by": owner, **more}]}}


VLLM = models("vllm", max_model_len=2048) | {"/version": {"version": "0.14.0"}}
OLDER_VLLM = models("vllm", max_model_len=2048) | {"/version": {"version": "0.10.2"}}
LLAMA_SERVER = models("llamacpp", meta={"n_ctx_train": 4096}) | {
    "/props": {"total_slots": 2, "default_generation_settings": {"n_ctx": 1024}}
}
OLLAMA = models("library") | {"/api/version": {"version": "0.12.0"}}
# It answers 200 whatever it is asked.
LM_STUDIO = models("organization_owner") | {"*": {"error": "Unexpected endpoint or method."}}


@pytest.fixture
def serving() -> Iterator[Callable[..., Odd]]:
    servers: list[Odd] = []

    def start(pages: Pages, answer: Any = ANSWER) -> Odd:
        behave = answer if callable(answer) else lambda count, text: answer
        servers.append(Odd(behave, pages))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def extract(server: Odd, folder: Path, *more: str, count: int = 1) -> tuple[int, list[Any]]:
    source, out = folder / "in.txt", folder / "out.jsonl"
    source.write_text("".join(f"{TEXT} {n}\n" for n in range(count)), "utf-8")
    words = ["extract", "--schema", "person,location", "--lines", "--base-url", server.url]
    code = run([*words, str(source), "-o", str(out), *more])
    rows = out.read_text("utf-8").splitlines() if out.exists() else []
    return code, [json.loads(row) for row in rows]


def the_schema(schema: Any) -> None:
    assert schema["required"] == list(schema["properties"]) == ["person", "location"]
    assert schema["additionalProperties"] is False


def test_vllm_gets_token_ids_and_our_grammar(serving: Any, tmp_path: Path) -> None:
    server = serving(VLLM)
    assert extract(server, tmp_path, "--tokenizer", "smollm2")[1][0]["answer"] == json.loads(ANSWER)
    (body,) = server.asked
    assert server.paths == ["/v1/completions"]
    assert all(isinstance(token, int) for token in body["prompt"])
    assert list(body["structured_outputs"]) == ["grammar"]
    assert body["structured_outputs"]["grammar"].startswith("start: ")
    assert "substring_chunks" in body["structured_outputs"]["grammar"]
    assert (body["temperature"], body["repetition_penalty"]) == (0, 1.0)
    assert body["stream"] is True
    assert 0 < body["max_tokens"] < 2048
    assert "guided_grammar" not in body


def test_an_older_vllm_gets_the_older_fields(serving: Any, tmp_path: Path) -> None:
    server = serving(OLDER_VLLM)
    assert extract(server, tmp_path, "--template", "llama2")[0] == 0
    (body,) = server.asked
    assert body["guided_grammar"].startswith("start: ")
    assert isinstance(body["prompt"], str)
    assert "structured_outputs" not in body
    # One that was started with another engine than the request names refuses it altogether.
    assert "guided_decoding_backend" not in body


def test_llama_server_gets_token_ids_and_gbnf_in_one_call(serving: Any, tmp_path: Path) -> None:
    server = serving(LLAMA_SERVER)
    assert extract(server, tmp_path, "--tokenizer", "smollm2", "--answer-tokens", "9")[0] == 0
    (body,) = server.asked
    assert server.paths[0] == "/v1/completions"
    assert all(isinstance(token, int) for token in body["prompt"])
    assert body["grammar"].startswith("root ::= ")
    assert (body["temperature"], body["repeat_penalty"]) == (0, 1.0)
    assert 0 < body["max_tokens"] < 1024


def test_llama_cpp_python_gets_text_and_gbnf_in_one_call(serving: Any, tmp_path: Path) -> None:
    server = serving(models("me"))
    assert extract(server, tmp_path, "--template", "llama2")[1][0]["answer"] == json.loads(ANSWER)
    (body,) = server.asked
    assert isinstance(body["prompt"], str)
    assert body["grammar"].startswith("root ::= ")


@pytest.mark.parametrize("pages", [OLLAMA, LM_STUDIO, dict(NOTHING_SPECIAL)])
def test_servers_of_chats_get_a_json_schema(serving: Any, tmp_path: Path, pages: Pages) -> None:
    server = serving(pages)
    assert extract(server, tmp_path)[1][0]["answer"] == json.loads(ANSWER)
    (body,) = server.asked
    assert server.paths == ["/v1/chat/completions"]
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["strict"] is True
    the_schema(body["response_format"]["json_schema"]["schema"])
    assert body["temperature"] == 0
    limit = "max_tokens" if pages is OLLAMA else "max_completion_tokens"
    assert body[limit] > 0


def refusing(*words: str) -> Callable[[int, str], Any]:
    """A behaviour that refuses a body as long as one of these words is in it."""

    def behave(count: int, text: str) -> Any:
        body = json.dumps(servers[-1].asked[count - 1])
        found = [word for word in words if word in body]
        return (400, {}, f"{found[0]} is not supported") if found else ANSWER

    servers: list[Odd] = []
    behave.server = servers  # type: ignore[attr-defined]
    return behave


@pytest.mark.parametrize(
    ("pages", "words", "said", "sent"),
    [
        (VLLM, ["grammar"], "by a JSON schema only", {"structured_outputs"}),
        (VLLM, ["structured_outputs"], "not kept in form", set()),
        (OLDER_VLLM, ["guided_grammar"], "by a JSON schema only", {"guided_json"}),
        (LLAMA_SERVER, ['"grammar"'], "by a JSON schema only", {"json_schema"}),
        (dict(NOTHING_SPECIAL), ["json_schema"], "only known to be JSON", {"response_format"}),
        (dict(NOTHING_SPECIAL), ["response_format"], "not kept in form", set()),
    ],
)
def test_what_a_server_refuses_is_replaced_by_the_next_best(
    serving: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pages: Pages,
    words: list[str],
    said: str,
    sent: set[str],
) -> None:
    behave = refusing(*words)
    server = serving(pages, behave)
    behave.server.append(server)  # type: ignore[attr-defined]
    code, rows = extract(server, tmp_path, "--template", "llama2", "--concurrency", "1", count=5)
    assert code == 0
    assert [row["answer"] for row in rows] == [json.loads(ANSWER)] * 5
    # It is found out with the first two texts, and told once.
    assert len(server.asked) <= 5 + 2 * 2
    forms = {"structured_outputs", "guided_grammar", "guided_json", "grammar", "json_schema"}
    assert {name for name in server.asked[-1] if name in {*forms, "response_format"}} == sent
    notes = [line for line in capsys.readouterr().err.splitlines() if "the server says" in line]
    assert len(notes) == 1
    assert said in notes[0]
    assert "is not supported" in notes[0]


def test_one_grammar_that_is_refused_leaves_the_others_theirs(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first text's, so that nothing is known of the server yet."""

    def behave(count: int, text: str) -> Any:
        odd = count == 1 and "grammar" in json.dumps(server.asked[0])
        return (400, {}, "failed to parse grammar") if odd else ANSWER

    server = serving(models("me"), behave)
    code, rows = extract(server, tmp_path, "--template", "llama2", "--concurrency", "1", count=4)
    assert code == 0
    assert len(rows) == 4
    assert ["grammar" in body for body in server.asked] == [True, False, True, True, True]
    assert "the server says" not in capsys.readouterr().err


def test_records_are_answered_by_a_server_that_refuses_every_form(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def behave(count: int, text: str) -> Any:
        plain = "grammar" not in server.asked[count - 1]
        return ANSWER if plain else (400, {}, "no grammar here")

    server = serving(models("me"), behave)
    task, items = read_schema(["person,location"])
    asked = Instruction(task, tuple(items), "Ann went to Rome.", "en")
    records = tmp_path / "records.jsonl"
    record = {"task": "NER", "source": "x", "instruction": asked.json, "label": "[]"}
    records.write_text(f"{json.dumps(record)}\n" * 3, encoding="utf-8")
    out = tmp_path / "out.jsonl"
    words = ["--instructions", str(records), "-o", str(out), "--base-url", server.url]
    assert run(["extract", *words, "--template", "llama2", "--concurrency", "1"]) == 0
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [json.loads(row["output"]) for row in rows] == [json.loads(ANSWER)] * 3
    assert "answers are not kept in form" in capsys.readouterr().err


def test_a_template_s_stop_words_are_told_to_a_server_without_a_grammar(
    serving: Any, tmp_path: Path
) -> None:
    server = serving(models("me"))
    assert extract(server, tmp_path, "--template", "llama3", "--no-constrain")[0] == 0
    (body,) = server.asked
    assert body["stop"] == ["<|eot_id|>"]


def test_one_text_that_is_refused_changes_nothing_for_the_others(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def behave(count: int, text: str) -> Any:
        return (400, {}, "no way to support this text") if "Rome. 2" in text else ANSWER

    server = serving(dict(NOTHING_SPECIAL), behave)
    code, rows = extract(server, tmp_path, "--concurrency", "1", count=5)
    assert code == 3
    assert [row["line"] for row in rows] == [1, 2, 4, 5]
    assert server.asked[-1]["response_format"]["type"] == "json_schema"
    said = capsys.readouterr().err
    assert "in.txt:3: no answer: 400 no way to support this text" in said
    assert "the server says" not in said


@pytest.mark.parametrize(
    ("word", "instead"),
    [("temperature", None), ("max_completion_tokens", "max_tokens")],
)
def test_a_field_that_is_unknown_is_left_out(
    serving: Any, tmp_path: Path, word: str, instead: str | None
) -> None:
    behave = refusing(word)
    server = serving(dict(NOTHING_SPECIAL), behave)
    behave.server.append(server)  # type: ignore[attr-defined]
    code, rows = extract(server, tmp_path, "--concurrency", "1", count=3)
    assert code == 0
    assert len(rows) == 3
    assert len(server.asked) == 4
    assert word not in server.asked[-1]
    assert instead is None or server.asked[-1][instead] > 0
    assert server.asked[-1]["response_format"]["type"] == "json_schema"


def test_a_limit_that_is_too_large_stays_a_limit(serving: Any, tmp_path: Path) -> None:
    answer = (400, {}, "'max_completion_tokens' is too large: 500 of 400")
    server = serving(dict(NOTHING_SPECIAL), lambda count, text: answer)
    assert extract(server, tmp_path)[0] == 1
    assert all("max_completion_tokens" in body for body in server.asked)


def test_a_prompt_that_fills_what_the_server_can_hold_is_not_sent(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = models("llamacpp", meta={"n_ctx_train": 64}) | {"/props": LLAMA_SERVER["/props"]}
    server = serving(pages)
    code, rows = extract(server, tmp_path, "--tokenizer", "smollm2")
    assert (code, rows, server.asked) == (1, [], [])
    assert "context" in capsys.readouterr().err

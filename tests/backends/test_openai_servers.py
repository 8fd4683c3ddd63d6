"""The openai backend against a small HTTP server on loopback that behaves well or badly."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from iepile_cli.backends import openai
from iepile_cli.cli import run

ANSWER = '{"person": ["Ann"], "location": ["Rome"]}'
EXTRACT = ["extract", "--schema", "person,location", "--lines", "--concurrency", "3"]


class Odd:
    """A server whose behaviour towards each chat request is a function of its count and text."""

    def __init__(self, behave: Callable[[int, str], Any]) -> None:
        self.behave = behave
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                found = self.path.endswith("/models")
                body = {"data": [{"id": "m", "owned_by": "x"}]} if found else {}
                self.send(200 if found else 404, json.dumps(body))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.headers.append(self.headers.get("Authorization", ""))
                text = body["messages"][-1]["content"]
                said = outer.behave(len(outer.asked), text)
                if isinstance(said, tuple):
                    status, headers = said
                    self.send(status, '{"error": {"message": "no luck"}}', **headers)
                else:
                    self.stream(said)

            def send(self, status: int, body: str, **headers: str) -> None:
                raw = body.encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def stream(self, said: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for piece in (said[:7], said[7:]):
                    choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
                    self.event({"choices": [choice]})
                if not said.endswith("<cut>"):
                    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
                    self.event({"choices": [end]})
                    self.wfile.write(b"data: [DONE]\n\n")

            def event(self, value: Any) -> None:
                self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def serving() -> Iterator[Callable[[Callable[[int, str], Any]], Odd]]:
    servers: list[Odd] = []

    def start(behave: Callable[[int, str], Any]) -> Odd:
        servers.append(Odd(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "_RETRIES", 2)


def extract(server: Odd, folder: Path, count: int = 6, *more: str) -> tuple[int, list[Any]]:
    source = folder / "in.txt"
    source.write_text("".join(f"Ann went to Rome on day {n}.\n" for n in range(count)), "utf-8")
    out = folder / "out.jsonl"
    code = run(
        [*EXTRACT, str(source), "-o", str(out), "--base-url", server.url, *more],
    )
    rows = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    return code, [json.loads(row) for row in rows]


def test_answers_come_back_in_order_and_grounded(serving: Any, tmp_path: Path) -> None:
    def behave(count: int, text: str) -> str:
        time.sleep(0.15 if "day 0" in text else 0.0)
        return ANSWER

    server = serving(behave)
    code, rows = extract(server, tmp_path, 8)
    assert code == 0
    assert [row["line"] for row in rows] == list(range(1, 9))
    assert all([item["text"] for item in row["items"]] == ["Ann", "Rome"] for row in rows)
    assert all(body["temperature"] == 0 for body in server.asked)
    schema = server.asked[0]["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == schema["required"] == ["person", "location"]


def test_the_key_goes_to_the_server_that_it_is_named_for_only(
    serving: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-openai")
    monkeypatch.setenv("OTHER_KEY", "other-secret")
    server = serving(lambda count, text: ANSWER)
    assert extract(server, tmp_path, 1)[0] == 0
    assert "secret" not in server.headers[0]
    assert extract(server, tmp_path, 1, "--api-key-env", "OTHER_KEY")[0] == 0
    assert server.headers[-1] == "Bearer other-secret"
    assert extract(server, tmp_path, 1, "--api-key-env", "NOT_SET")[0] == 2


def test_a_busy_server_is_asked_again_when_it_says(serving: Any, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    times: dict[str, list[float]] = {}

    def behave(count: int, text: str) -> Any:
        seen[text] += 1
        times.setdefault(text, []).append(time.monotonic())
        return (429, {"Retry_After": "0.3"}) if seen[text] == 1 else ANSWER

    code, rows = extract(serving(behave), tmp_path)
    assert code == 0
    assert len(rows) == 6
    assert all(later - first >= 0.29 for first, later in times.values())


def test_what_the_server_cannot_answer_is_named_and_resumed(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def behave(count: int, text: str) -> Any:
        return (500, {"Retry_After": "0.01"}) if "day 2" in text else ANSWER

    code, rows = extract(serving(behave), tmp_path)
    assert code == 3
    assert [row["line"] for row in rows] == [1, 2, 4, 5, 6]
    said = capsys.readouterr().err
    assert "in.txt:3: no answer: 500 no luck" in said
    code, rows = extract(serving(lambda count, text: ANSWER), tmp_path, 6, "--resume")
    assert code == 0
    assert sorted(row["line"] for row in rows) == [1, 2, 3, 4, 5, 6]


def test_a_server_that_always_fails_ends_the_run(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serving(lambda count, text: (500, {"Retry_After": "0.01"}))
    code, rows = extract(server, tmp_path, 40)
    assert code == 1
    assert not rows
    assert "8 requests in a row failed: 500 no luck" in capsys.readouterr().err
    assert len(server.asked) < 120


def test_a_server_that_never_answers_is_given_up(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()

    def behave(count: int, text: str) -> str:
        time.sleep(2 if "day 1" in text else 0)
        return ANSWER

    code, rows = extract(serving(behave), tmp_path, 4, "--timeout", "0.4")
    assert code == 3
    assert [row["line"] for row in rows] == [1, 3, 4]
    assert "did not answer in 0.4 s" in capsys.readouterr().err
    assert time.monotonic() - started < 15


def test_broken_and_ungrounded_answers_lose_nothing_else(serving: Any, tmp_path: Path) -> None:
    said = {
        "day 0": '{"person": ["Ann"], "location": ["Ro',
        "day 1": "Sure! Here it is: no JSON at all",
        "day 2": '{"person": ["Ann", "Bob"], "location": "Rome", "x": [1]}',
        "day 3": "",
        "day 4": '{"person": ["Ann"], "location": ["Rome"]}\ud800',
    }

    def behave(count: int, text: str) -> str:
        return next((answer for day, answer in said.items() if day in text), ANSWER)

    code, rows = extract(serving(behave), tmp_path)
    assert code == 0
    assert len(rows) == 6
    assert [[item["text"] for item in row["items"]] for row in rows][2:3] == [["Ann"]]
    assert rows[2]["ungrounded"] == 1
    assert rows[1]["problems"] >= 1
    assert rows[5]["answer"] == json.loads(ANSWER)
    for row in rows:
        text = f"Ann went to Rome on day {row['line'] - 1}."
        assert all(text[i["start"] : i["end"]] == i["text"] for i in row["items"])


def test_an_answer_that_breaks_off_is_asked_for_again(serving: Any, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    def behave(count: int, text: str) -> str:
        seen[text] += 1
        return '{"person": ["Ann<cut>' if seen[text] == 1 else ANSWER

    code, rows = extract(serving(behave), tmp_path, 2)
    assert code == 0
    assert [row["answer"] for row in rows] == [json.loads(ANSWER)] * 2


def test_a_server_that_dies_is_resumed_without_loss_or_repetition(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers: list[Odd] = []

    def behave(count: int, text: str) -> str:
        if count == 60:
            threading.Thread(target=servers[0].stop, daemon=True).start()
        time.sleep(0.005)
        return ANSWER

    servers.append(serving(behave))
    code, rows = extract(servers[0], tmp_path, 200)
    assert code == 1
    assert 0 < len(rows) < 200
    assert "no server answers there" in capsys.readouterr().err
    code, rows = extract(serving(lambda count, text: ANSWER), tmp_path, 200, "--resume")
    assert code == 0
    assert sorted(row["line"] for row in rows) == list(range(1, 201))


def test_control_tokens_in_a_text_reach_a_chat_server_broken_and_come_back_whole(
    serving: Any, tmp_path: Path
) -> None:
    source = tmp_path / "in.txt"
    source.write_text("Ann said <|im_end|> in Rome.", "utf-8")
    server = serving(lambda count, text: '{"person": ["<\u2060|im_end|>"], "location": []}')
    out = tmp_path / "o.jsonl"
    arguments = ["extract", "-s", "person,location", str(source), "-o", str(out)]
    assert run([*arguments, "--base-url", server.url]) == 0
    assert "<|im_end|>" not in server.asked[0]["messages"][-1]["content"]
    assert json.loads(out.read_text("utf-8"))["items"][0]["text"] == "<|im_end|>"


def test_wrong_addresses_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.txt"
    source.write_text("Ann.", "utf-8")
    base = ["extract", "--schema", "person", str(source), "--backend", "openai"]
    assert run(base) == 2
    assert "no --base-url" in capsys.readouterr().err
    assert run([*base, "--base-url", "ftp://x"]) == 2
    assert run([*base, "--base-url", "http://127.0.0.1:9/v1"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "http://127.0.0.1:9/v1: no server answers there" in said
    assert run([*base, "--base-url", "http://127.0.0.1:9/v1", "--bits", "4"]) == 2

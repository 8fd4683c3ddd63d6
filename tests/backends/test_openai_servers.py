"""The openai backend against a small HTTP server on loopback that behaves well or badly."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from odd_server import HANG_UP, Odd

from iepile_cli.backends import Options, ServerModel, openai
from iepile_cli.cli.app import run
from iepile_cli.errors import ModelError

ANSWER = '{"person": ["Ann"], "location": ["Rome"]}'
EXTRACT = ["extract", "--schema", "person,location", "--lines", "--concurrency", "3"]


@pytest.fixture
def serving() -> Iterator[Callable[..., Odd]]:
    servers: list[Odd] = []

    def start(behave: Callable[[int, str], Any], *pages: Any, **how: Any) -> Odd:
        servers.append(Odd(behave, *pages, **how))
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


def test_a_server_may_take_longer_than_the_timeout_as_long_as_it_goes_on(
    serving: Any, tmp_path: Path
) -> None:
    server = serving(lambda count, text: ANSWER, pause=0.4)
    code, rows = extract(server, tmp_path, 3, "--timeout", "0.7")
    assert code == 0
    assert [row["answer"] for row in rows] == [json.loads(ANSWER)] * 3
    assert len(server.asked) == 3


def test_a_server_that_asks_to_wait_for_long_is_not_waited_for(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serving(lambda count, text: (429, {"Retry_After": "3600"}))
    code, rows = extract(server, tmp_path, 1)
    assert code == 1
    assert not rows
    assert "429 no luck (it asks to wait 3600 s)" in capsys.readouterr().err


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
    assert "1 input failed; 5 documents written (--resume tries again what failed)" in said
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


def test_a_server_that_does_not_even_say_what_it_has(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for pages, said in (
        ({"/v1/models": 503}, "the server is not ready: 503 not now"),
        ({"/v1/models": 401}, "the server refuses: 401 not now"),
        ({"/v1/models": 404}, "does not say which models it has (name one with --model"),
        ({"/v1/models": "<html>"}, "does not say which models it has (name one with --model"),
    ):
        assert extract(serving(lambda count, text: ANSWER, pages), tmp_path, 1)[0] == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_a_server_that_cannot_be_opened_leaves_nothing_running(serving: Any) -> None:
    server = serving(lambda count, text: ANSWER, {"/v1/models": 401})
    with pytest.raises(ModelError, match="the server refuses"):
        openai.OPENAI.open(ServerModel("m"), Options(base_url=server.url))
    assert "iepile-server" not in {thread.name for thread in threading.enumerate()}


def test_a_server_that_takes_a_connection_and_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "_PROBE_TIMEOUT", 0.3)
    (tmp_path / "in.txt").write_text("Ann.", "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        assert run([*EXTRACT, str(tmp_path / "in.txt"), "--base-url", url]) == 1
    assert "no server answers there: Request timed out" in capsys.readouterr().err


def test_broken_and_ungrounded_answers_lose_nothing_else(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert "1 mention not found in the text, left out" in capsys.readouterr().err
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


def test_a_connection_that_closes_over_one_text_fails_that_text_alone(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serving(lambda count, text: HANG_UP if "day 1" in text else ANSWER)
    code, rows = extract(server, tmp_path, 4)
    assert code == 3
    assert [row["line"] for row in rows] == [1, 3, 4]
    said = capsys.readouterr().err
    assert "in.txt:2: no answer: the server gave no answer: " in said
    assert "1 input failed; 3 documents written" in said


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
    said = capsys.readouterr().err
    assert "no server answers there" in said
    assert "what is done stays; add --resume" in said
    code, rows = extract(serving(lambda count, text: ANSWER), tmp_path, 200, "--resume")
    assert code == 0
    assert sorted(row["line"] for row in rows) == list(range(1, 201))


@pytest.mark.parametrize("end", [(401, {}), HANG_UP])
def test_what_was_answered_when_the_server_goes_is_written(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], end: Any
) -> None:
    """Answers that came for later texts than the one that shows it are not asked for again."""

    def behave(count: int, text: str) -> Any:
        if "day 2." in text:
            time.sleep(1)
            if end is HANG_UP:
                server.stop()
            return end
        return ANSWER

    server = serving(behave)
    code, rows = extract(server, tmp_path, 40)
    assert code == 1
    written = [row["line"] for row in rows]
    assert written[:2] == [1, 2]
    assert len(written) > 5
    assert 3 not in written
    assert "in.txt:3: no answer: " in capsys.readouterr().err
    again = serving(lambda count, text: ANSWER)
    code, rows = extract(again, tmp_path, 40, "--resume")
    assert code == 0
    assert sorted(row["line"] for row in rows) == list(range(1, 41))
    assert len(again.asked) == 40 - len(written)


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
    assert "--resume" not in said
    assert run([*base, "--base-url", "http://127.0.0.1:9/v1", "--bits", "4"]) == 2

"""Servers that answer anything, anyhow, or never: one line each, and the key stays where it was."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from abuse.backends import install
from abuse.counting import count
from abuse.program import Done, call, check_manners, check_result, rows
from abuse.strategies import any_text, attack, json_values
from hypothesis import strategies as st

from iepile_cli.backends import openai, openai_call

pytest.importorskip("openai")

KEY = "sk-very-secret-0123456789"
TEXT = "Ann went to Oslo."
LISTED = {"data": [{"id": "m", "owned_by": "x"}]}


class Raw:
    """A server that writes whatever it is told to each request, and keeps what it was sent."""

    def __init__(
        self, answer: Callable[[bytes, socket.socket], None], host: str = "127.0.0.1"
    ) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self._listening = socket.create_server((host, 0))
        self.url = f"http://{host}:{self._listening.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(20)
            request = b""
            while b"\r\n\r\n" not in request:
                block = connection.recv(65536)
                if not block:
                    return
                request += block
            head, _, body = request.partition(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ),
                0,
            )
            while len(body) < length:
                body += connection.recv(65536)
            self.requests.append(head + b"\r\n\r\n" + body)
            self.answer(head, connection)

    def stop(self) -> None:
        self._listening.close()


def response(status: int, body: bytes, *headers: str) -> bytes:
    """An HTTP response."""
    lines = [
        f"HTTP/1.1 {status} Odd",
        *headers,
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def answering(
    answer: bytes | Callable[[socket.socket], None],
) -> Callable[[bytes, socket.socket], None]:
    """Say which models there are, and answer every question in one way."""

    def respond(head: bytes, connection: socket.socket) -> None:
        if head.startswith(b"GET") and b"/models" in head.split(b"\r\n")[0]:
            connection.sendall(
                response(200, json.dumps(LISTED).encode(), "Content-Type: application/json")
            )
        elif head.startswith(b"GET"):
            connection.sendall(response(404, b"{}"))
        elif callable(answer):
            answer(connection)
        else:
            connection.sendall(answer)

    return respond


@pytest.fixture
def start() -> Iterator[Callable[..., Raw]]:
    servers: list[Raw] = []

    def started(*arguments: Any) -> Raw:
        servers.append(Raw(*arguments))
        return servers[-1]

    yield started
    for server in servers:
        server.stop()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr(openai, "_RETRIES", 1)
    monkeypatch.setattr(openai, "_PROBE_TIMEOUT", 2.0)

    async def at_once(*_: object) -> None:
        return

    monkeypatch.setattr(openai.asyncio, "sleep", at_once)


def extract(server: Raw, *options: str, url: str = "") -> Done:
    """Extract from one text with a server; the key is never shown."""
    words = ["extract", "-s", "person,city", "--base-url", url or server.url, *options]
    done = call(*words, "--api-key-env", "MY_KEY", "--timeout", "2", stdin=TEXT.encode())
    check_manners(done)
    assert KEY not in done.err
    assert KEY.encode() not in done.out
    for row in rows(done.out):
        check_result(row, TEXT, ["person", "city"])
    count("odd answers of servers")
    return done


def stream(*texts: str, end: str = "stop") -> bytes:
    """An answer in pieces."""
    parts = [
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        for text in texts
    ]
    parts.append({"choices": [{"index": 0, "delta": {}, "finish_reason": end}]})
    body = b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts)
    return response(200, body + b"data: [DONE]\n\n", "Content-Type: text/event-stream")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 422, 429, 500, 503])
def test_a_refusal_is_a_line_without_the_key(status: int, start: Any) -> None:
    said = f"no \x1b[2J luck with {KEY}\x9b31m, \u202enot\nat all; Authorization: Bearer {KEY}"
    body = json.dumps({"error": {"message": said}}).encode()
    refusing = response(status, body, "Content-Type: application/json", "Retry-After: 0")
    done = extract(start(answering(refusing)))
    assert done.code == 1
    assert str(status) in done.err
    assert "***" in done.err


def test_a_password_in_the_address_is_not_shown(start: Any) -> None:
    server = start(answering(response(500, b'{"error": {"message": "hunter%212 hunter!2"}}')))
    url = server.url.replace("http://", "http://me:hunter%212@")
    done = extract(server, url=url)
    assert done.code == 1
    assert "hunter" not in done.err
    server.stop()
    assert "hunter" not in extract(server, url=url).err


def test_no_part_of_a_password_with_a_sign_of_addresses_is_shown(start: Any) -> None:
    server = start(answering(response(500, b"{}")))
    url = server.url.replace("http://", "http://me:hunter@too@")
    server.stop()
    done = extract(server, url=url)
    assert done.code == 1
    assert "hunter" not in done.err
    assert "too" not in done.err
    assert server.url in done.err


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://", "http://x:abc/v1", "http://x:99999", "http://\x01", "//x"]
)
def test_an_address_that_is_none_is_a_line(address: str) -> None:
    done = call("extract", "-s", "person", "--base-url", address, stdin=TEXT.encode())
    check_manners(done)
    assert done.code == 2
    assert "is no address" in done.err
    secret = address.replace("//", "//me:hunter/2@")
    assert "hunter" not in call("extract", "-s", "a", "--base-url", secret, stdin=b"x").err


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_key_does_not_follow_a_redirect(status: int, start: Any) -> None:
    other = start(answering(stream('{"person": ["Ann"], "city": []}')), "localhost")
    moved = response(status, b"", f"Location: {other.url}/chat/completions")
    done = extract(start(answering(moved)))
    assert all(KEY.encode() not in request for request in other.requests)
    assert done.code in (0, 1)


def test_an_answer_without_end_is_ended(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces(connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        connection.sendall(head)
        number = 0
        while True:
            number += 1
            part = {
                "choices": [
                    {"index": 0, "delta": {"content": f'"x{number}", '}, "finish_reason": None}
                ]
            }
            connection.sendall(b"data: " + json.dumps(part).encode() + b"\n\n")

    begun = time.monotonic()
    done = extract(start(answering(pieces)), "--answer-tokens", "20")
    assert done.code == 0
    assert rows(done.out)[0]["truncated"]
    assert time.monotonic() - begun < 30


def test_a_line_without_end_is_ended(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "_LONGEST", 1 << 20)

    def bytes_without_end(connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        connection.sendall(head + b"data: ")
        while True:
            connection.sendall(b"x" * 65536)

    done = extract(start(answering(bytes_without_end)))
    assert done.code == 1
    assert "longer than 1,048,576 bytes" in done.err


def hang(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.recv(1)


def half(connection: socket.socket) -> None:
    connection.sendall(stream('{"person": ["Ann"]')[:-60])


def die(connection: socket.socket) -> None:
    connection.close()


@pytest.mark.parametrize("way", [hang, half, die])
def test_a_server_that_hangs_breaks_off_or_dies_is_a_line(way: Any, start: Any) -> None:
    done = extract(start(answering(way)), "--timeout", "0.5")
    assert done.code == 1


def test_a_server_that_says_nothing_at_first_is_a_line(start: Any) -> None:
    done = extract(start(lambda head, connection: hang(connection)))
    assert done.code == 1
    assert done.err.count("\n") == 1


header = st.sampled_from(
    [
        "Content-Type: application/json",
        "Content-Type: text/event-stream",
        "Content-Encoding: gzip",
        "Content-Type: text/html; charset=utf-16",
    ]
)
bodies = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda value: json.dumps(value).encode()),
    json_values.map(lambda value: b"data: " + json.dumps(value).encode() + b"\n\n"),
    json_values.map(lambda value: b"data: " + json.dumps({"choices": value}).encode() + b"\n\n"),
    json_values.map(
        lambda value: (
            b"data: "
            + json.dumps({"choices": [{"delta": value, "finish_reason": "stop"}]}).encode()
            + b"\n\n"
        )
    ),
    any_text.map(lambda text: text.encode("utf-8", "replace")),
)
whole = st.builds(
    lambda status, body, head: response(status, body, *head),
    st.sampled_from([200, 200, 200, 206, 400, 500]),
    bodies,
    st.lists(header, max_size=2),
) | st.one_of(
    st.binary(max_size=100),
    any_text.map(lambda text: stream(text.encode("utf-8", "replace").decode())),
    json_values.map(lambda value: stream(json.dumps({"person": value, "city": value}))),
)


@pytest.mark.parametrize(
    "part",
    [
        {"choices": 1},
        {"choices": {"a": 1}},
        {"choices": [{"delta": {"content": 5}, "finish_reason": 3}]},
        {"choices": [{"delta": [], "finish_reason": ["stop"]}]},
    ],
    ids=str,
)
def test_a_piece_of_another_form_is_a_line(part: Any, start: Any) -> None:
    body = b"data: " + json.dumps(part).encode() + b"\n\n"
    done = extract(start(answering(response(200, body, "Content-Type: text/event-stream"))))
    assert done.code == 1


@pytest.mark.parametrize(
    "examples",
    [pytest.param(10, id="share"), pytest.param(500, marks=pytest.mark.abuse, id="whole")],
)
def test_any_bytes_from_a_server(examples: int, start: Any, tmp_path: Path) -> None:
    said: list[bytes] = [b""]
    server = start(answering(lambda connection: connection.sendall(said[0])))
    first = start(lambda head, connection: connection.sendall(said[0]))

    @attack(examples, answer=whole)
    def _(answer: bytes) -> None:
        said[0] = answer
        extract(server)
        extract(first)


def test_the_bound_on_pieces_is_far_above_an_answer() -> None:
    assert openai_call._PIECES_A_TOKEN >= 8

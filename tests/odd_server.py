"""A small HTTP server on loopback that speaks OpenAI's protocol, and behaves as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NOTHING_SPECIAL: Mapping[str, Any] = {"/v1/models": {"data": [{"id": "m", "owned_by": "x"}]}}
# What else can be done with a request than to answer it.
HANG_UP = object()


class Odd:
    """A server whose behaviour towards each request is a function of its count and its text.

    ``behave`` gives an answer's text; a status, headers and perhaps a message; or ``HANG_UP``.
    An answer that ends in ``<cut>`` breaks off. ``pages`` are what there is to GET; a number
    there is a status. ``pause`` is waited before each piece of an answer, in seconds.
    """

    def __init__(
        self,
        behave: Callable[[int, str], Any],
        pages: Mapping[str, Any] = NOTHING_SPECIAL,
        *,
        pause: float = 0.0,
    ) -> None:
        self.behave = behave
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                page = pages.get(self.path, pages.get("*", 404))
                if isinstance(page, int):
                    self.send(page, '{"error": {"message": "not now"}}')
                else:
                    self.send(200, json.dumps(page))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.paths.append(self.path)
                outer.headers.append(self.headers.get("Authorization", ""))
                chat = "messages" in body
                text = body["messages"][-1]["content"] if chat else str(body["prompt"])
                said = outer.behave(len(outer.asked), text)
                if said is HANG_UP:
                    self.close_connection = True
                elif isinstance(said, tuple):
                    status, headers, *message = said
                    error = {"message": message[0] if message else "no luck"}
                    self.send(status, json.dumps({"error": error}), **headers)
                else:
                    self.stream(said, chat=chat)

            def send(self, status: int, body: str, **headers: str) -> None:
                raw = body.encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def stream(self, said: str, *, chat: bool) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for piece in (said[:7], said[7:]):
                    time.sleep(pause)
                    part = {"delta": {"content": piece}} if chat else {"text": piece}
                    self.event({"choices": [{"index": 0, **part, "finish_reason": None}]})
                if not said.endswith("<cut>"):
                    end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
                    self.event({"choices": [{"index": 0, **end, "finish_reason": "stop"}]})
                    self.wfile.write(b"data: [DONE]\n\n")

            def event(self, value: Any) -> None:
                self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
                self.wfile.flush()

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A client that leaves is nothing to speak of."""

        self.http = Server(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def stop(self) -> None:
        """Answer nothing any more."""
        self.http.shutdown()
        self.http.server_close()

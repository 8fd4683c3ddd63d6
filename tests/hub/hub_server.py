"""A small hub on loopback: it speaks the part of the Hugging Face API that a download needs.

Faults are switched on by path: ``cut`` (bytes after which the connection ends, so many times),
``damage`` (so many answers come with a wrong byte), ``status`` (an error instead of an answer).
``redirects_to`` is another hub's address that large files are redirected to. ``authorizations``
holds that header of every request, ``log`` every request for a file as ``(path, first byte asked
for, bytes sent)``.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40
LARGE = 100_000


class HubServer:
    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commit = COMMIT
        self.cut: dict[str, list[int]] = {}
        self.damage: dict[str, int] = {}
        self.status: dict[str, tuple[int, dict[str, str]]] = {}
        self.silent = False
        self.ignores_range = False
        self.tells_nothing = False
        self.pause = 0.0
        self.token = ""
        self.redirects_to = ""
        self.authorizations: list[str | None] = []
        self.log: list[tuple[str, int, int]] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, repository: str, files: dict[str, bytes]) -> None:
        """Publish a repository: ``owner/name``, or ``datasets/owner/name``."""
        self.repositories[repository] = files

    def sent(self, path: str) -> int:
        return sum(count for name, _, count in self.log if name == path)

    def starts(self, path: str) -> list[int]:
        return [start for name, start, _ in self.log if name == path]

    def siblings(self, repository: str) -> list[dict[str, Any]]:
        rows = []
        for path, content in self.repositories[repository].items():
            row: dict[str, Any] = {"rfilename": path, "size": len(content)}
            if self.tells_nothing:
                rows.append({"rfilename": path})
                continue
            row["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if len(content) > LARGE:
                digest = hashlib.sha256(content).hexdigest()
                row["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
                row["blobId"] = "0" * 40
            rows.append(row)
        return rows


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if hub.silent:
                time.sleep(30)
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
            hub.authorizations.append(self.headers.get("Authorization"))
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.refuse(401, {"X-Error-Code": "GatedRepo"})
            if path.startswith("api/v1/"):
                return self.modelscope(path.removeprefix("api/v1/"))
            if path.startswith("api/"):
                kind, _, rest = path.removeprefix("api/").partition("/")
                repository = rest.partition("/revision/")[0]
                name = f"datasets/{repository}" if kind == "datasets" else repository
                return self.listing(name)
            if path.startswith("cdn/"):
                repository, _, file = path.removeprefix("cdn/").partition("/-/")
                return self.content(repository, file)
            repository, _, rest = path.partition("/resolve/")
            file = rest.partition("/")[2]
            if file in hub.status:
                return self.refuse(*hub.status[file])
            if len(hub.repositories[repository][file]) > LARGE:
                self.send_response(302)
                target = hub.redirects_to + urllib.parse.quote(f"/cdn/{repository}/-/{file}")
                self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.content(repository, file)

        def refuse(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": "0", **headers}.items():
                self.send_header(key, value)
            self.end_headers()

        def listing(self, repository: str) -> None:
            if repository in hub.status:
                return self.refuse(*hub.status[repository])
            if repository not in hub.repositories:
                return self.refuse(404, {"X-Error-Code": "RepoNotFound"})
            siblings = hub.siblings(repository)
            self.answer({"id": repository, "sha": hub.commit, "siblings": siblings})

        def answer(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def modelscope(self, path: str) -> None:
            """ModelScope's two addresses: the list of files, and one file by query."""
            kind, owner, name, *_ = path.split("/")
            repository = f"datasets/{owner}/{name}" if kind == "datasets" else f"{owner}/{name}"
            if repository not in hub.repositories:
                return self.refuse(404, {})
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            if "FilePath" in query:
                return self.content(repository, query["FilePath"][0])
            files = [
                {
                    "Path": file,
                    "Size": len(content),
                    "Sha256": hashlib.sha256(content).hexdigest(),
                    "Type": "blob",
                }
                for file, content in hub.repositories[repository].items()
            ]
            self.answer({"Code": 200, "Success": True, "Data": {"Files": files}})

        def content(self, repository: str, file: str) -> None:
            body = hub.repositories[repository][file]
            asked = "" if hub.ignores_range else self.headers.get("Range", "")
            start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
            with hub.lock:
                if hub.damage.get(file, 0):
                    hub.damage[file] -= 1
                    body = body[:-1] + bytes([body[-1] ^ 1])
                ends = hub.cut.get(file, [])
                end = ends.pop(0) if ends else len(body)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(body) - start))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            self.pour(file, body, start, end)
            if end < len(body):
                self.close_connection = True

        def pour(self, file: str, body: bytes, start: int, end: int) -> None:
            row = len(hub.log)
            hub.log.append((file, start, 0))
            step = 64 * 1024
            for place in range(start, end, step):
                block = body[place : min(place + step, end)]
                try:
                    self.wfile.write(block)
                except OSError:
                    self.close_connection = True
                    return
                hub.log[row] = (file, start, hub.log[row][2] + len(block))
                if hub.pause:
                    time.sleep(hub.pause)

    return Handler

"""Files elsewhere: by address, within bounds, each failure in one line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from iepile_cli import remote
from iepile_cli.errors import DataError, IEPileError
from iepile_cli.extraction.inputs import Document, read_documents
from iepile_cli.files import suffix
from iepile_cli.remote import find_remote

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for name, text in {"a.txt": "Ada", "sub/b.md": "*Tom*", "sub/c.png": "x"}.items():
        system.pipe(f"/shelf/{name}", text.encode())
    yield "memory://shelf"
    system.rm("/shelf", recursive=True)


class Server(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path not in ("/page.html", "/large", "/silent"):
            self.send_error(404)
            return
        self.send_response(200)
        data = b"<p>L&eacute;a in Lisbon" if path == "/page.html" else b"A" * 5000
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and path == "/silent":
            time.sleep(3)
        if body:
            self.wfile.write(data)

    def log_message(self, *about: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def read(*paths: str) -> tuple[list[Document], list[str]]:
    errors: list[IEPileError] = []
    documents = list(read_documents(list(paths), on_error=errors.append))
    return documents, [f"{error} ({error.hint})" for error in errors]


def test_files_folders_and_globs_elsewhere(memory: str) -> None:
    pytest.importorskip("markdown_it")
    texts = [("memory://shelf/a.txt", "Ada"), ("memory://shelf/sub/b.md", "Tom")]
    for given in ([memory], [f"{memory}/a.txt", f"{memory}/sub/*.md"], [f"{memory}/**/*.??*"]):
        documents, errors = read(*given)
        found = [(one.source.replace(":///", "://"), one.text) for one in documents]
        assert (found, errors) == (texts, [])


def test_what_is_not_there_is_named(memory: str) -> None:
    documents, errors = read(
        f"{memory}/none.txt", f"{memory}/*.none", f"{memory}/a.txt", "klingon://x"
    )
    assert [document.text for document in documents] == ["Ada"]
    assert ["none.txt: is not there" in errors[0], "no file is there" in errors[1]] == [True, True]
    assert errors[2].startswith("klingon://x: cannot be read: ")


def test_a_page_on_the_web(web: str) -> None:
    pytest.importorskip("lxml")
    documents, errors = read(f"{web}/page.html?a=*", f"{web}/none.txt")
    assert [document.text for document in documents] == ["Léa in Lisbon"]
    assert documents[0].source == f"{web}/page.html?a=*"
    assert [error.partition(": ")[0] for error in errors] == [f"{web}/none.txt"]


def test_a_file_on_the_web_is_bounded_in_size_and_time(
    web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_BYTES", 4000)
    assert "is larger than" in read(f"{web}/large")[1][0]
    monkeypatch.setattr(remote, "_SILENT_SECONDS", 1)
    begun = time.monotonic()
    assert "does not answer" in read(f"{web}/silent")[1][0]
    assert time.monotonic() - begun < 2.5


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    _, errors = read("http://127.0.0.1:9/x.txt")
    assert errors[0].startswith("http://127.0.0.1:9/x.txt: ")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(address: str) -> None:
        # As fsspec does.
        below = ModuleNotFoundError("No module named 's3fs'", name="s3fs")
        raise ImportError("Install s3fs to access S3") from below

    monkeypatch.setattr(remote, "_system", missing)
    with pytest.raises(DataError, match="s3:// is read with s3fs, which is not installed") as error:
        find_remote("s3://bucket/")
    assert "[remote]" in error.value.hint


def test_a_local_file_called_like_an_address_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("memory:").mkdir()
    Path("memory:/a.txt").write_text("here")
    assert read("memory://a.txt")[0][0].text == "here"
    assert suffix("https://example.org/a/B.HTML.gz?x=1.txt#y") == ".html"

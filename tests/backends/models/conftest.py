"""A web server with TLS that serves one file, by ranges, and breaks off where a test says so; and an empty store."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hybrid_llm.backends.edge import ModelStore
from hybrid_llm.backends.wire.certificates import issue, make_authority


class FileServer(ThreadingHTTPServer):
    """Serves *content* at every path.

    *cuts* are the numbers of bytes after which the next answers break off; *answers* are status codes that come first,
    and *location* is where a redirect leads. *ranges* has the `Range` of each request.
    """

    daemon_threads = True

    def __init__(self, tls: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "node.pem", tls / "node.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.content, self.etag = b"", '"1"'
        self.cuts: list[int] = []
        self.answers: list[int] = []
        self.location = ""
        self.ranges: list[str] = []
        self.length = True
        self.pause = threading.Event()
        self.pause.set()

    def url(self, name: str = "model.gguf") -> str:
        return f"https://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that leaves


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        server = self.server
        server.ranges.append(self.headers.get("Range", ""))
        if server.answers:
            self.send_response(server.answers.pop(0))
            self.send_header("Location", server.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = self._start()
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[:cut])
        self.wfile.flush()
        server.pause.wait(30)

    def _start(self) -> int:
        asked = self.headers.get("Range", "")
        same = self.headers.get("If-Range", self.server.etag) == self.server.etag
        return int(asked.removeprefix("bytes=").removesuffix("-")) if asked and same else 0

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def server_tls(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("server-tls")
    make_authority(folder)
    issue(folder, "node", kind="node", hosts=["127.0.0.1"])
    return folder


@pytest.fixture
def server(server_tls, monkeypatch):
    """A running server, whose authority this process and its children trust."""
    monkeypatch.setenv("SSL_CERT_FILE", str(server_tls / "ca.pem"))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with FileServer(server_tls) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.pause.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def store(tmp_path, monkeypatch) -> ModelStore:
    """An empty store, which is that of this process and its children."""
    monkeypatch.setenv("HYBRID_LLM_MODELS", str(tmp_path / "store"))
    return ModelStore()

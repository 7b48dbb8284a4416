"""`https:` sources go through the proxy that the environment names, with its password, except where it says not to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hybrid_llm.backends.models.sources import Wanted, parse_source
from hybrid_llm.backends.models.sources.source import FetchFailed

CONTENT = bytes(range(256)) * 1000
PASSWORD = "Basic " + base64.b64encode(b"anna:very-secret").decode()


class _Tunnel(BaseHTTPRequestHandler):
    """Answers CONNECT, as any HTTP proxy does: joins two sockets, and sees no more than encrypted bytes."""

    def do_CONNECT(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Proxy-Authorization")))
        if self.headers.get("Proxy-Authorization") != PASSWORD:
            self.send_error(407)
            return
        host, port = self.path.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as far:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_copy, args=(far, self.connection))
            back.start()
            _copy(self.connection, far)
            back.join()

    def log_message(self, *_: object) -> None:
        pass


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Tunnel) as running:
        running.daemon_threads, running.asked = True, []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def address(proxy, user="anna:very-secret@"):
    return f"http://{user}127.0.0.1:{proxy.server_address[1]}"


def fetched(server, folder) -> str:
    server.content = CONTENT
    folder.mkdir()
    return parse_source(server.url("m.gguf")).fetch(folder, Wanted(), lambda step, share: None).sha256


def test_a_download_goes_through_the_proxy_of_the_environment(server, proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", address(proxy))
    monkeypatch.setenv("no_proxy", "example.org")
    assert fetched(server, tmp_path / "d") == hashlib.sha256(CONTENT).hexdigest()
    assert proxy.asked == [(server.url("").removeprefix("https://").rstrip("/"), PASSWORD)]


def test_hosts_that_no_proxy_names_are_reached_directly(server, proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", address(proxy))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetched(server, tmp_path / "d")
    assert proxy.asked == []


def test_a_proxy_that_refuses_is_named_as_the_reason_without_the_password(server, proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", address(proxy, user="anna:wrong-secret@"))
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(FetchFailed, match="407") as caught:
        fetched(server, tmp_path / "d")
    assert "secret" not in str(caught.value)

"""Odd connections: old, pipelined, slow, endless and many; and how a gateway stops."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.backends.wire import issue, make_authority
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location
from hybrid_llm.gateway import GatewayConfig
from hybrid_llm.gateway.server import GatewayServer
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.config.gateway import TlsFiles
from tests.gateway.conftest import POLICY, Serve, fakes, served
from tests.gateway.test_http import ALONE, ASKED, CHAT, Slow, send

BODY = json.dumps(ASKED).encode()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    edge, _ = fakes()
    with served(HybridLLM([edge], parse_policy(ALONE, backends={"edge": Location.EDGE})), read_timeout_s=0.5) as base:
        yield base


def exchanged(url: str, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What the gateway answers to *pieces* until it closes the connection."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
        return answer


def head(url: str, *more: str, version: str = "1.1", body: bytes = BODY) -> bytes:
    lines = [f"POST {CHAT} HTTP/{version}", f"host: {urlsplit(url).netloc}", "content-type: application/json", *more]
    if not any(line.startswith("transfer-encoding") for line in more):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode()


class TestConnections:
    def test_an_old_client_is_answered_and_its_connection_closed(self, url: str) -> None:
        answer = exchanged(url, head(url, version="1.0") + BODY)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"transfer-encoding" not in answer.partition(b"\r\n\r\n")[0]

    def test_an_old_client_gets_a_stream_until_its_end(self, url: str) -> None:
        body = json.dumps(ASKED | {"stream": True}).encode()
        answer = exchanged(url, head(url, version="1.0", body=body) + body)
        assert answer.rstrip().endswith(b"data: [DONE]")

    def test_requests_in_a_row_are_answered_in_their_order(self, url: str) -> None:
        last = head(url, "connection: close", "x-hybrid-details: true") + BODY
        answer = exchanged(url, (head(url) + BODY) * 3 + last)
        assert answer.count(b"HTTP/1.1 200") == 4
        assert b'"hybrid"' in answer.split(b"HTTP/1.1 200")[4]
        assert b'"hybrid"' not in answer.split(b"HTTP/1.1 200")[3]

    def test_a_body_in_chunks_that_come_slowly(self, url: str) -> None:
        start = head(url, "transfer-encoding: chunked", "connection: close")
        chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (BODY[:9], BODY[9:])]
        assert exchanged(url, start, *chunks, b"0\r\n\r\n", pause=0.02).startswith(b"HTTP/1.1 200")

    @pytest.mark.parametrize("size", ["zz", "-1", "ffffffffffffffffff"])
    def test_chunks_of_no_size_are_refused(self, url: str, size: str) -> None:
        answer = exchanged(url, head(url, "transfer-encoding: chunked") + f"{size}\r\nx\r\n".encode())
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 408")) or not answer

    def test_a_length_and_chunks_at_once_are_refused(self, url: str) -> None:
        """Two lengths are how requests are smuggled past a proxy (RFC 9112, 6.1)."""
        both = head(url, "transfer-encoding: chunked", "content-length: 5")
        assert exchanged(url, both + b"0\r\n\r\n").startswith(b"HTTP/1.1 400")

    @pytest.mark.parametrize("header", ["x: " + "y" * 600_000, "\r\n".join(f"x-{n}: y" for n in range(60_000))])
    def test_a_head_without_an_end_is_refused(self, url: str, header: str) -> None:
        lines = f"POST {CHAT} HTTP/1.1\r\n{header}"
        pieces = [lines[at : at + 30_000].encode() for at in range(0, len(lines), 30_000)]
        try:
            answer = exchanged(url, *pieces)
        except (BrokenPipeError, ConnectionResetError):
            return
        assert answer == b"" or b" 431 " in answer or b" 400 " in answer

    @pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-"])
    def test_a_client_that_does_not_send_a_head_is_left(self, url: str, sent: bytes) -> None:
        before = time.monotonic()
        assert exchanged(url, sent) == b""
        assert time.monotonic() - before < 5

    def test_the_beginning_of_a_next_request_does_not_cut_an_answer(self, serve: Serve) -> None:
        url = serve(Slow(tokens=50), policy=ALONE, read_timeout_s=0.2)
        body = json.dumps(ASKED | {"stream": True}).encode()
        answer = exchanged(url, head(url, body=body) + body, b"POST /v1", pause=0.1)
        assert answer.count(b"word ") == 50
        assert b"[DONE]" in answer

    def test_tags_of_a_header_that_is_there_twice_are_joined(self, serve: Serve) -> None:
        policy = POLICY.replace("  public:", "  pii: {allow: [edge, cloud]}\n  public:")
        url = serve(*fakes(), policy=policy)
        more = ("x-hybrid-privacy: pii", "x-hybrid-privacy: phi", "x-hybrid-task: hard", "connection: close")
        answer = exchanged(url, head(url, *more) + BODY)
        assert b"x-hybrid-tags: phi,pii" in answer
        assert b"x-hybrid-backend: edge" in answer

    def test_head_and_options(self, url: str) -> None:
        assert (send(url, "/health", method="HEAD").status, send(url, "/health", method="HEAD").raw) == (200, b"")
        asked = {"origin": url, "access_control_request_method": "POST"}
        reply = send(url, CHAT, method="OPTIONS", **asked)
        assert reply.status == 405
        assert not [name for name in reply.headers if name.startswith("access-control")]

    def test_more_connections_than_allowed_are_refused_with_503(self, serve: Serve) -> None:
        url = serve(*fakes(), connections=8)
        address = urlsplit(url)
        idle = [socket.create_connection((address.hostname, address.port)) for _ in range(8)]
        try:
            time.sleep(0.1)
            assert send(url, CHAT, ASKED).status == 503
        finally:
            for each in idle:
                each.close()
        time.sleep(0.2)
        assert send(url, CHAT, ASKED).status == 200


class Stopping:
    """A gateway that is told to stop while it answers."""

    def __init__(self, drain_s: float, grace_s: float = 20.0) -> None:
        self.backend = Slow(tokens=100)
        client = HybridLLM([self.backend], parse_policy(ALONE, backends={"edge": Location.EDGE}))
        self.server = GatewayServer(client, GatewayConfig(listen="127.0.0.1:0", drain_s=drain_s, grace_s=grace_s))
        ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve(ready.set)))
        self.thread.start()
        assert ready.wait(20)
        self.url = f"http://127.0.0.1:{self.server.port}"

    def listens(self) -> bool:
        try:
            address = urlsplit(self.url)
            socket.create_connection((address.hostname, address.port)).close()
        except ConnectionRefusedError:
            return False
        return True

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=20)


class TestStopping:
    def test_running_streams_end_and_load_balancers_are_told(self) -> None:
        gateway = Stopping(drain_s=1.0)
        kept, running = gateway.connection(), gateway.connection()
        kept.request("GET", "/health")
        assert kept.getresponse().read() == b'{"status":"ok"}'
        headers = {"content-type": "application/json"}
        running.request("POST", CHAT, json.dumps(ASKED | {"stream": True}), headers)
        stream = running.getresponse()
        first = stream.read1(100)
        gateway.server.stop()
        time.sleep(0.4)
        kept.request("GET", "/health")
        health = kept.getresponse()
        assert (health.status, health.read()) == (503, b'{"status":"draining"}')
        assert (health.headers["connection"], health.headers["retry-after"]) == ("close", "1")
        late = send(gateway.url, CHAT, ASKED | {"stream": True})
        assert (late.status, late.headers["connection"]) == (200, "close")
        until = time.monotonic() + 10
        while gateway.listens():
            assert time.monotonic() < until
            time.sleep(0.1)
        rest = first + stream.read()
        assert rest.endswith(b"data: [DONE]\n\n")
        assert rest.count(b"word ") == 100
        gateway.thread.join(10)
        assert not gateway.thread.is_alive()

    def test_after_the_grace_an_answer_that_has_not_begun_is_an_error_and_one_that_has_is_cut(self) -> None:
        gateway = Stopping(drain_s=0.0, grace_s=1.0)
        whole, stream = gateway.connection(), gateway.connection()
        headers = {"content-type": "application/json"}
        whole.request("POST", CHAT, json.dumps(ASKED), headers)
        stream.request("POST", CHAT, json.dumps(ASKED | {"stream": True}), headers)
        cut = stream.getresponse()
        gateway.server.stop()
        failed = whole.getresponse()
        assert (failed.status, json.loads(failed.read())["error"]["code"]) == (503, "stopping")
        with pytest.raises(http.client.IncompleteRead):
            cut.read()
        gateway.thread.join(10)

    def test_an_idle_connection_does_not_hold_it(self) -> None:
        gateway = Stopping(drain_s=0.0)
        idle = gateway.connection()
        idle.request("GET", "/health")
        idle.getresponse().read()
        gateway.server.stop()
        gateway.thread.join(5)
        assert not gateway.thread.is_alive()


class TestTls:
    @pytest.fixture
    def pki(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("tls")
        make_authority(folder)
        for name in ("first", "second"):
            issue(folder, name, kind="node", hosts=["127.0.0.1", f"{name}.test"])
        return folder

    def names(self, pki: Path, url: str) -> list[str]:
        context = ssl.create_default_context(cafile=pki / "ca.pem")
        address = urlsplit(url)
        with (
            socket.create_connection((address.hostname, address.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            secured.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            assert secured.recv(1000).startswith(b"HTTP/1.1 200")
            return [value for kind, value in secured.getpeercert()["subjectAltName"] if kind == "DNS"]

    def test_files_that_are_replaced_hold_from_then_on(self, pki: Path, tmp_path: Path, serve: Serve) -> None:
        files = TlsFiles(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
        shutil.copy(pki / "first.pem", files.cert)
        shutil.copy(pki / "first.key", files.key)
        url = serve(*fakes(), tls=files)
        assert self.names(pki, url) == ["first.test"]
        for suffix, path in (("pem", files.cert), ("key", files.key)):
            new = tmp_path / "new"
            shutil.copy(pki / f"second.{suffix}", new)
            os.utime(new, (1, 1))
            new.replace(path)
        until = time.monotonic() + 20
        while self.names(pki, url) != ["second.test"]:
            assert time.monotonic() < until
            time.sleep(0.5)

    def test_files_that_are_none_are_said(self, tmp_path: Path) -> None:
        (tmp_path / "cert.pem").write_text("no certificate")
        edge, _ = fakes()
        client = HybridLLM([edge], parse_policy(ALONE))
        for name in ("cert.pem", "missing.pem"):
            files = TlsFiles(cert=tmp_path / name, key=tmp_path / "cert.pem")
            with client, pytest.raises(ConfigError, match=name):
                GatewayServer(client, GatewayConfig(listen="127.0.0.1:0", tls=files))

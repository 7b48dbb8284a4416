"""The shipped configuration of HAProxy, run by the real one on loopback in front of a real node."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import ExitStack

import pytest

from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.backends.wire.sealing.keys import write_key
from hybrid_llm.backends.wire.sealing.pins import SealedSpec
from hybrid_llm.backends.wire.sealing.suites import HYBRID
from hybrid_llm.core.errors import RequestRejected
from tests.backends.wire import fakes
from tests.chaos.haproxy import HAPROXY, haproxy, running
from tests.chaos.http2 import Connection, opened_and_reset

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed: apt-get install haproxy")


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("haproxy")
    make_authority(folder)
    issue(folder, "node", kind="node", hosts=["127.0.0.1"])
    issue(folder, "app")
    return {name: TLSFiles.from_dir(folder, name) for name in ("node", "app")}


@pytest.fixture
def front(pki, tmp_path):
    """A node behind HAProxy: the port that clients use, and the proxy's log."""
    log = tmp_path / "log"
    with fakes.Node(pki["node"]) as node, haproxy(node.target, log) as port:
        yield port, log


def _answers(port, pki):
    cloud = fakes.backend(f"127.0.0.1:{port}", pki["app"])
    try:
        return fakes.answer(cloud.stream(fakes.cleared("hi")))
    finally:
        cloud.close()


def test_client_and_node_authenticate_each_other_through_the_proxy_and_its_log_leads_to_the_client(front, pki):
    port, log = front
    assert _answers(port, pki) == "hello from the node"
    cloud = fakes.backend(f"127.0.0.1:{port}", pki["app"])
    assert cloud.probe().identity == "spiffe://hybrid-llm/client/app"
    cloud.close()
    fakes.eventually(lambda: "peer=127.0.0.1:" in log.read_text())


def test_one_address_has_no_more_than_its_connections_and_others_are_served(front, pki):
    port, _ = front
    with ExitStack() as stack:
        refused = 0
        for _ in range(70):
            try:
                stack.callback(Connection(port, pki["app"], source="127.0.0.2").close)
            except OSError:
                refused += 1
        assert refused == 6
        _assert_answers(port, pki)


def _assert_answers(port, pki):
    assert _answers(port, pki) == "hello from the node"


def test_one_address_does_not_reconnect_without_end(front, pki):
    port, _ = front
    refused = 0
    for _ in range(260):
        try:
            Connection(port, pki["app"], source="127.0.0.3").close()
        except OSError:
            refused += 1
    assert refused > 30
    _assert_answers(port, pki)


def test_an_address_that_floods_a_node_with_resets_is_refused_and_others_are_served(front, pki):
    """gRPC parses such frames before the node knows of a call, and the more slowly the longer a flood goes on."""
    port, _ = front
    frames = opened_and_reset(50_000)
    floods = sum(_flood(port, pki, frames) for _ in range(40))
    assert 5 < floods < 40
    _assert_answers(port, pki)
    assert not _flood(port, pki, frames), "it is refused for a minute"


def _flood(port, pki, frames):
    try:
        flood = Connection(port, pki["app"], source="127.0.0.4")
    except OSError:
        return False
    flood.send([frames])
    flood.close()
    return True


def test_an_address_that_sends_much_on_one_connection_is_served(front, pki):
    port, _ = front
    cloud = fakes.backend(f"127.0.0.1:{port}", pki["app"])
    for _ in range(12):  # the node reads it whole
        with pytest.raises(RequestRejected):
            fakes.answer(cloud.stream(fakes.cleared("x" * 1_000_000)))
    cloud.close()
    _assert_answers(port, pki)


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b""], ids=["plaintext", "silence"])
def test_what_is_no_handshake_never_reaches_a_node(front, first):
    port, _ = front
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), 20.0) as plain:
        plain.sendall(first)
        assert plain.recv(100) == b""
    assert time.monotonic() - began < 15.0


def test_a_handshake_without_http2_never_reaches_a_node(front, pki):
    context = ssl.create_default_context(cafile=str(pki["app"].ca))
    with socket.create_connection(("127.0.0.1", front[0]), 20.0) as plain, pytest.raises(OSError):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_proxy_that_ends_tls_passes_sealed_requests_on_and_refuses_strangers(tmp_path):
    """`sealed.cfg`: the node sees the proxy's certificate; a client of another authority reaches nothing."""
    tls, other = tmp_path / "tls", tmp_path / "other"
    for folder in (tls, other):
        make_authority(folder)
        issue(folder, "app")
    issue(tls, "node", kind="node", hosts=["node.example", "127.0.0.1"])
    issue(tls, "proxy", kind="node", hosts=["127.0.0.1"])
    issue(tls, "proxy-client")
    for name in ("proxy", "proxy-client"):
        both = (tls / f"{name}.pem").read_bytes() + (tls / f"{name}.key").read_bytes()
        (tls / f"{name}-both.pem").write_bytes(both)
    key = write_key(tmp_path / "sealing", "one", suite=HYBRID, days=2)
    (tmp_path / "pins").write_text(key.line())
    sealed = SealedSpec(keys=tmp_path / "pins")
    files = {"HYBRID_CA": "ca.pem", "HYBRID_CERT": "proxy-both.pem", "HYBRID_CLIENT_CERT": "proxy-client-both.pem"}
    places = {name: str(tls / file) for name, file in files.items()} | {"HYBRID_NODE_HOST": "node.example"}
    options = {"sealed": tmp_path / "sealing", "only_sealed": True}
    with (
        fakes.Node(TLSFiles.from_dir(tls, "node"), **options) as node,
        running("sealed.cfg", tmp_path / "log", HYBRID_NODE=node.target, **places) as port,
    ):
        app = fakes.backend(f"127.0.0.1:{port}", TLSFiles.from_dir(tls, "app"), sealed=sealed)
        assert fakes.answer(app.stream(fakes.cleared("hi"))) == "hello from the node"
        assert app.probe().identity == "spiffe://hybrid-llm/client/proxy-client"
        app.close()
        mixed = TLSFiles(ca=tls / "ca.pem", cert=other / "app.pem", key=other / "app.key")
        context = ssl.create_default_context(cafile=mixed.ca)
        context.load_cert_chain(mixed.cert, mixed.key)
        with (
            pytest.raises(OSError),  # in the handshake, or when it reads
            socket.create_connection(("127.0.0.1", port)) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as stranger,
        ):
            raise AssertionError(stranger.recv(1))
    assert "path=/hybrid_llm.v1.HybridLLM/Generate status=200" in (tmp_path / "log").read_text()

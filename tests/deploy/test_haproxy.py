"""The shipped configuration of HAProxy, run by the real one on loopback in front of a real node."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from tests.backends.wire import fakes
from tests.chaos.http2 import Connection

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
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
    with ExitStack() as stack:
        node = stack.enter_context(fakes.Node(pki["node"]))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        log = tmp_path / "log"
        environment = os.environ | {"HYBRID_LISTEN": f"127.0.0.1:{port}", "HYBRID_NODE": node.target}
        with log.open("wb") as sink:
            proxy = subprocess.Popen([HAPROXY, "-db", "-f", CONFIGURATION], env=environment, stdout=sink, stderr=sink)
        stack.callback(proxy.wait)
        stack.callback(proxy.terminate)
        fakes.eventually(lambda: _is_open(port), 20.0)
        yield port, log


def _is_open(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


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

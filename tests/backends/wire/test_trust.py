"""Which clients and nodes trust each other, and that each refusal names the fault."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import grpc
import pytest

from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
from hybrid_llm.backends.node.identity import peer_of
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.backends.wire.handshake import Address, tls_handshake
from hybrid_llm.core.errors import (
    AuthenticationFailed,
    BackendUnavailable,
    ConfigError,
    PermissionDenied,
    UntrustedPeer,
)
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.protos.hybrid_pb2_grpc import HybridLLMStub


def _refused(cloud, tools):
    with pytest.raises((AuthenticationFailed, UntrustedPeer, BackendUnavailable)) as sync:
        list(cloud.stream(tools.cleared("hi")))
    with pytest.raises(type(sync.value)) as other:
        asyncio.run(tools.collect(cloud.astream(tools.cleared("hi"))))
    assert str(sync.value) == str(other.value)
    cloud.close()
    return sync.value


@pytest.mark.parametrize(
    ("who", "error", "says"),
    [
        ("stranger", AuthenticationFailed, "somebody else's CA"),
        ("old_app", AuthenticationFailed, "expired"),
        ("early_app", AuthenticationFailed, "not yet valid"),
        ("foreign_app", UntrustedPeer, "another authority"),
    ],
)
def test_a_client_with_a_faulty_certificate_learns_the_fault(node, pki, tools, who, error, says):
    failure = _refused(tools.backend(node.target, getattr(pki, who)), tools)
    assert type(failure) is error
    assert says in str(failure)
    assert not node.engine.seen


@pytest.mark.parametrize(("who", "says"), [("old_node", "expired"), ("early_node", "not yet valid")])
def test_a_node_with_an_expired_or_future_certificate_does_not_start(pki, tools, who, says):
    node = tools.Node(getattr(pki, who))
    node.thread.start()
    with pytest.raises(ConfigError, match=says):
        node.do(node.server.start())
    node.loop.call_soon_threadsafe(node.loop.stop)
    node.thread.join(5)
    node.loop.close()


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("old_node", "has expired"),
        ("early_node", "not yet valid"),
        ("elsewhere", "does not name"),
        ("foreign_node", "another authority"),
    ],
)
def test_an_untrusted_node_gets_nothing(pki, tools, server, says):
    files = getattr(pki, server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    with _TLSServer(context) as port:
        failure = _refused(tools.backend(f"127.0.0.1:{port}", pki.app), tools)
    assert type(failure) is UntrustedPeer
    assert says in str(failure)


class _TLSServer:
    """Accepts TLS connections and sends nothing."""

    def __init__(self, context):
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self):
        threading.Thread(target=self._run, daemon=True).start()
        return self.listener.getsockname()[1]

    def _run(self):
        while True:
            try:
                plain, _ = self.listener.accept()
                with plain:
                    plain.settimeout(2)
                    self.context.wrap_socket(plain, server_side=True).close()
            except OSError as error:
                if not isinstance(error, ssl.SSLError | TimeoutError | ConnectionError):
                    return

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def test_a_node_for_another_host_name_is_named_by_server_name(pki, tools):
    with tools.Node(pki.elsewhere) as node:
        failure = _refused(tools.backend(node.target, pki.app), tools)
        assert isinstance(failure, UntrustedPeer)
        assert "127.0.0.1" in str(failure)
        cloud = tools.backend(node.target, pki.app, server_name="node.example.org")
        assert tools.answer(cloud.stream(tools.cleared("hi")))
        cloud.close()


def test_a_server_without_tls_13_gets_nothing(pki, tools):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki.node.cert, pki.node.key)
    with _TLSServer(context) as port:
        failure = _refused(tools.backend(f"127.0.0.1:{port}", pki.app), tools)
    assert isinstance(failure, UntrustedPeer)
    assert "TLS 1.3" in str(failure)


def test_a_server_without_tls_gets_nothing(pki, tools):
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    failure = _refused(tools.backend(f"127.0.0.1:{port}", pki.app), tools)
    server.stop(0)
    assert isinstance(failure, UntrustedPeer | BackendUnavailable)
    assert "TLS" in str(failure)


def test_nothing_listens(pki, tools):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    failure = _refused(tools.backend(f"127.0.0.1:{port}", pki.app), tools)
    assert isinstance(failure, BackendUnavailable)
    assert "nothing listens" in str(failure)


def test_a_listener_that_never_answers_is_given_up(pki, tools):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cloud = tools.backend(f"127.0.0.1:{silent.getsockname()[1]}", pki.app, connect_timeout=0.3)
        failure = _refused(cloud, tools)
    assert isinstance(failure, BackendUnavailable)
    assert "did not answer" in str(failure)


def _raw_context(pki, version, files=None):
    context = ssl.create_default_context(cafile=str(pki.app.ca))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if files is not None:
        context.load_cert_chain(files.cert, files.key)
    return context


def _raw_hello(port, context):
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.settimeout(5)
        return secure.recv(64)


@pytest.mark.parametrize("who", [None, "stranger", "old_app", "early_app"])
def test_the_node_sends_nothing_to_a_client_that_it_does_not_trust(node, pki, who):
    context = _raw_context(pki, ssl.TLSVersion.TLSv1_3, who and getattr(pki, who))
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        assert _raw_hello(node.port, context) == b""
    known = _raw_context(pki, ssl.TLSVersion.TLSv1_3, pki.app)
    assert _raw_hello(node.port, known), "a trusted one gets the first bytes"


def test_a_plaintext_client_is_refused(node):
    with grpc.insecure_channel(node.target) as channel:
        describe = HybridLLMStub(channel).Describe
        with pytest.raises(grpc.RpcError) as caught:
            describe(pb.DescribeRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_nodes_certificate_is_not_a_clients(pki):
    with pytest.raises(ConfigError, match="not a client's"):
        GrpcBackend(GrpcConfig(target="127.0.0.1:1", tls=pki.node))


@pytest.mark.parametrize(
    ("facts", "error", "says"),
    [
        ({"ssl_tls_version": [b"TLSv1.2"], "peer_uri": [b"spiffe://hybrid-llm/client/a"]}, AuthenticationFailed, "1.3"),
        ({}, AuthenticationFailed, "none"),
        ({"ssl_tls_version": [b"TLSv1.3"]}, AuthenticationFailed, "identity"),
        ({"ssl_tls_version": [b"TLSv1.3"], "peer_uri": [b"spiffe://evil/client/a"]}, AuthenticationFailed, "identity"),
        ({"ssl_tls_version": [b"TLSv1.3"], "peer_uri": [b"spiffe://hybrid-llm/node/a"]}, PermissionDenied, "client"),
    ],
)
def test_the_interceptor_refuses_what_tls_let_pass(facts, error, says):
    with pytest.raises(error, match=says):
        peer_of(facts)


def test_where_grpc_does_not_report_the_version_the_handshake_must_have_settled_it():
    facts = {"peer_uri": [b"spiffe://hybrid-llm/client/a"]}
    assert peer_of(facts, only_tls13=True).identity == "spiffe://hybrid-llm/client/a"
    with pytest.raises(AuthenticationFailed):
        peer_of({**facts, "ssl_tls_version": [b"TLSv1.2"]}, only_tls13=True)
    with pytest.raises(AuthenticationFailed):
        peer_of(facts)


def test_health_and_reflection_need_the_same_authentication(node, pki, tools):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    from hybrid_llm.backends.wire.channels import client_credentials

    with grpc.secure_channel(node.target, client_credentials(pki.app)) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for service in ("", "hybrid_llm.v1.HybridLLM"):
            assert check(health_pb2.HealthCheckRequest(service=service)).status == 1
        node.engine.healthy = False
        tools.eventually(lambda: check(health_pb2.HealthCheckRequest()).status == 2)
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        reply = next(ask(iter([reflection_pb2.ServerReflectionRequest(list_services="*")])))
        assert "hybrid_llm.v1.HybridLLM" in [each.name for each in reply.list_services_response.service]
    assert tools.backend(node.target, pki.app).probe().reason == "the engine is restarting"


def test_probe_describes_the_node_and_the_connection(node, pki, tools):
    cloud = tools.backend(node.target, pki.app)
    found = cloud.probe()
    cloud.close()
    assert (
        found.protocol,
        found.model,
        found.context_window,
        found.slots,
        found.ready,
    ) == (1, "fake-model", 4096, 2, True)
    assert (found.tls_version, found.identity) == ("TLSv1.3", "spiffe://hybrid-llm/client/app")
    assert found.tls_group or grpc.__version__ < "1.85"
    assert abs(found.clock_skew_s) < 1
    assert cloud.capabilities.model == "fake-model"
    assert cloud.state().rtt_ms < 1000


def test_certificates_are_replaced_without_a_restart(tmp_path, tools):
    make_authority(tmp_path)
    first = issue(tmp_path, "node", kind="node", hosts=["127.0.0.1"])
    issue(tmp_path, "app")
    files = TLSFiles.from_dir(tmp_path, "app")
    with tools.Node(TLSFiles.from_dir(tmp_path, "node")) as node:
        cloud = tools.backend(node.target, files)
        assert tools.answer(cloud.stream(tools.cleared("hi")))
        assert _serial(node.port, files) == first.serial
        (tmp_path / "node.pem").write_text("half a certificate")
        assert _serial(node.port, files) == first.serial, "a broken file is not used"
        second = issue(tmp_path, "node", kind="node", hosts=["127.0.0.1"])
        issue(tmp_path, "app")
        assert _serial(node.port, files) == second.serial != first.serial
        assert tools.answer(cloud.stream(tools.cleared("hi")))
        cloud.close()


def _serial(port, files):
    from cryptography import x509

    context = ssl.create_default_context(cafile=str(files.ca))
    context.load_cert_chain(files.cert, files.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        return f"{x509.load_der_x509_certificate(secure.getpeercert(binary_form=True)).serial_number:x}"


def test_an_expired_client_certificate_works_again_once_it_is_renewed(tmp_path, pki, tools, node):
    for name in ("ca.pem", "ca.key"):
        (tmp_path / name).write_bytes((pki.folder / name).read_bytes())
    from datetime import UTC, datetime, timedelta

    issue(tmp_path, "app", not_before=datetime.now(UTC) - timedelta(days=9), days=7)
    cloud = tools.backend(node.target, TLSFiles.from_dir(tmp_path, "app"))
    with pytest.raises(AuthenticationFailed, match="expired"):
        list(cloud.stream(tools.cleared("hi")))
    issue(tmp_path, "app")
    assert tools.answer(cloud.stream(tools.cleared("hi")))
    cloud.close()


def test_a_client_uses_its_renewed_certificate_from_the_next_call_on(tmp_path, tools):
    make_authority(tmp_path)
    issue(tmp_path, "node", kind="node", hosts=["127.0.0.1"])
    issue(tmp_path, "app")
    with tools.Node(TLSFiles.from_dir(tmp_path, "node")) as node:
        proxy = tools.Proxy(node.port)
        cloud = tools.backend(proxy.target, TLSFiles.from_dir(tmp_path, "app"))
        for _ in range(2):
            assert tools.answer(cloud.stream(tools.cleared("hi")))
        before = proxy.connections
        issue(tmp_path, "app")
        assert tools.answer(cloud.stream(tools.cleared("hi")))
        assert (before, proxy.connections) == (2, 4), "one handshake to prove, one for gRPC, each time"
        cloud.close()
        proxy.close()


def test_the_handshake_returns_the_version(node, pki):
    address = Address.parse(node.target)
    assert tls_handshake(address, pki.app, timeout=5, backend="cloud").version == "TLSv1.3"


def test_a_proxy_that_sends_nothing_before_the_client_begins_is_reached(pki):
    """As HAProxy does it, where it ends TLS before a node."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.node.cert, pki.node.key)
    context.load_verify_locations(pki.node.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    begun = []

    def proxy(listening):
        with context.wrap_socket(listening.accept()[0], server_side=True) as client:
            while len(b"".join(begun)) < 33:
                begun.append(client.recv(100))
            client.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor() as pool:
        served = pool.submit(proxy, listening)
        address = Address.parse(f"127.0.0.1:{listening.getsockname()[1]}")
        assert tls_handshake(address, pki.app, timeout=20, backend="cloud").version == "TLSv1.3"
        served.result()
    assert b"".join(begun).startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_connection_that_is_lost_as_it_begins_is_no_refusal_unless_the_next_one_is_too(pki, resets, lost):
    """A server that refuses a certificate may close without an alert, and so does a network that loses a connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.node.cert, pki.node.key)
    context.load_verify_locations(pki.node.ca)
    context.verify_mode = ssl.CERT_REQUIRED

    def serve(listening):
        for number in range(2):
            with context.wrap_socket(listening.accept()[0], server_side=True) as client:
                if number >= lost:
                    client.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
                elif resets:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor() as pool:
        served = pool.submit(serve, listening)
        address = Address.parse(f"127.0.0.1:{listening.getsockname()[1]}")
        refused = pytest.raises(
            AuthenticationFailed, match=r"(reset|closed) the connection when it saw our certificate"
        )
        with refused if lost == 2 else nullcontext():
            assert tls_handshake(address, pki.app, timeout=20, backend="cloud").version == "TLSv1.3"
        served.result()


@pytest.mark.parametrize("target", ["", "host", "host:", ":1", "host:0", "host:99999", "::1:7443", "a b:1", "h:1/x"])
def test_a_target_that_is_no_address_is_refused(pki, tools, target):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        tools.backend(target, pki.app)


def test_ipv6_is_spelled_in_brackets():
    address = Address.parse("[::1]:7443")
    assert (address.host, address.port, str(address)) == ("::1", 7443, "[::1]:7443")


def test_a_port_in_use_is_a_clear_error(node, pki, tools):
    second = tools.Node(pki.node, listen=node.target)
    second.thread.start()
    with pytest.raises(ConfigError, match="in use"):
        second.do(second.server.start())
    second.loop.call_soon_threadsafe(second.loop.stop)
    second.thread.join(5)
    second.loop.close()


def test_keys_are_for_their_owner_alone(pki):
    assert os.stat(pki.app.key).st_mode & 0o777 == 0o600
    assert os.stat(pki.folder / "ca.key").st_mode & 0o777 == 0o600
    assert not [name for name in os.listdir(pki.folder) if name.startswith(".")]

"""The health of a server over HTTP: its calls report it, and probes beside them find out what is wrong."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_llm.backends.http.backend import HttpBackend
from hybrid_llm.backends.wire.certificates import issue, make_authority
from hybrid_llm.core import errors
from hybrid_llm.core.protocols import Abortable, Backend, HealthAware, MultiEndpoint
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import Breaker, EndpointHealth
from tests.backends.http.server import CUT, HANG, WHOLE, Scripted, events, eventually, failed, head, scripted
from tests.backends.openai.test_backend import cleared, opened

ANSWER = [head(), events(*WHOLE)]


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted(ANSWER) as server:
        server.described = {"/v1/models": {"data": [{"id": "m"}]}}
        yield server


def health_of(backend: HttpBackend) -> EndpointHealth:
    return backend.members()[0].health


def fails(backend: HttpBackend, error: type[Exception] = errors.BackendError) -> None:
    with pytest.raises(error):
        list(backend.stream(cleared()))


def test_it_is_what_the_router_knows_how_to_use(server: Scripted) -> None:
    backend = opened(server.url)
    assert isinstance(backend, Backend)
    assert isinstance(backend, HealthAware)
    assert isinstance(backend, MultiEndpoint)
    assert isinstance(backend, Abortable)
    assert health_of(backend) is EndpointHealth.NEW
    list(backend.stream(cleared()))
    assert health_of(backend) is EndpointHealth.READY
    eventually(lambda: backend.state().serves)
    backend.close()
    assert health_of(backend) is EndpointHealth.CLOSED
    assert backend.state().reason == "closed"


def test_a_refused_connection_is_probed_until_the_server_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    backend = opened(f"http://127.0.0.1:{port}/v1")
    fails(backend)
    eventually(lambda: health_of(backend) is EndpointHealth.UNREACHABLE)
    assert (backend.members()[0].reason, backend.endpoint_health.breaker) == ("BackendUnavailable", Breaker.CLOSED)
    with scripted(ANSWER, port=port):
        eventually(lambda: backend.state().serves)
        assert len(list(backend.stream(cleared()))) > 1
    backend.close()


def test_failures_open_the_breaker_and_a_probe_that_succeeds_closes_it(server: Scripted) -> None:
    server.scripts = [failed(500, {}), failed(500, {}), ANSWER]
    server.described = {}
    backend = opened(server.url)
    backend.endpoint_health.configure(failures=2, open_s=60.0)
    seen: list[Breaker] = []
    for _ in range(2):
        fails(backend)
        seen.append(backend.endpoint_health.breaker)
    assert seen[0] is Breaker.CLOSED
    eventually(lambda: backend.endpoint_health.breaker is Breaker.CLOSED)
    assert len(list(backend.stream(cleared()))) > 1
    backend.close()


def test_a_server_that_breaks_off_every_answer_is_ejected_though_it_can_be_reached(server: Scripted) -> None:
    server.scripts = [[head(), events(*WHOLE[:2]), CUT]]
    backend = opened(server.url)
    backend.endpoint_health.configure(failures=2, open_s=60.0)
    opened_at = 0
    for at in range(1, 9):
        fails(backend, errors.StreamInterrupted)
        if backend.endpoint_health.breaker is Breaker.OPEN:
            opened_at = at
            break
    backend.close()
    assert 2 <= opened_at <= 4


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_loads_its_model_is_out_of_use_until_it_serves(server: Scripted, status: int) -> None:
    server.described = {"/v1/models": status}
    server.scripts = [failed(500, {}), ANSWER]
    backend = opened(server.url)
    fails(backend)
    eventually(lambda: health_of(backend) is EndpointHealth.UNREACHABLE)
    server.described = {"/v1/models": {"data": []}}
    eventually(lambda: backend.state().serves)
    backend.close()


def test_a_server_that_takes_calls_and_answers_nothing_is_ejected(server: Scripted) -> None:
    server.scripts = [[HANG]]
    server.described = {"/v1/models": 503}  # no probe is to close the breaker
    backend = opened(server.url, idle_timeout_s=0.1)
    backend.endpoint_health.configure(failures=2, open_s=60.0)
    for _ in range(2):
        fails(backend, errors.BackendUnavailable)
    assert backend.endpoint_health.breaker is Breaker.OPEN
    backend.close()


def test_retry_after_is_a_rest(server: Scripted) -> None:
    server.scripts = [failed(429, {}, retry_after="30")]
    backend = opened(server.url)
    fails(backend, errors.BackendOverloaded)
    assert health_of(backend) is EndpointHealth.RESTING
    backend.close()


def test_a_key_that_is_not_accepted_is_logged_once(server: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    server.scripts = [failed(401, {})]
    server.described = {"/v1/models": 401}
    backend = opened(server.url)
    with caplog.at_level(logging.WARNING, "hybrid_llm"):
        for _ in range(3):
            fails(backend, errors.AuthenticationFailed)
        with pytest.raises(errors.AuthenticationFailed):
            backend.probe()
    assert [record.getMessage() for record in caplog.records] == [
        "cloud answered 401: it does not accept the key; check `api_key`"
    ]
    assert backend.endpoint_health.breaker is Breaker.CLOSED
    backend.close()


def test_a_server_that_is_busy_is_not_taken_for_lost(server: Scripted) -> None:
    """Some servers answer nothing while they generate: that a connection can be made is enough."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        backend = opened(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        backend.probe(timeout=0.2)
        assert backend.state().ready
        backend.close()


def test_http_1_is_spoken_also_where_http_2_is_offered(tmp_path: Path) -> None:
    """Its client resets no stream that is left, so the server would go on generating."""
    make_authority(tmp_path)
    issue(tmp_path, "node", kind="node", hosts=["127.0.0.1"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "node.pem", tmp_path / "node.key")
    tls.set_alpn_protocols(["h2", "http/1.1"])
    with scripted([head(), events(*WHOLE[:2]), HANG], tls=tls) as server:
        backend = opened(f"https://127.0.0.1:{server.port}/v1", ca=tmp_path / "ca.pem")
        stream = backend.stream(cleared())
        assert next(stream).text == "one "
        stream.close()
        assert server.left.wait(5)
        backend.probe()
        backend.close()
    assert set(server.protocols) == {"http/1.1"}


def test_a_socket_of_this_machine_is_on_the_edge(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with scripted(ANSWER, path=str(path)) as server:
        server.described = {"/v1/models": {"data": [{"id": "m"}]}}
        backend = opened("http://localhost/v1", socket=path, location=Location.EDGE)
        assert len(list(backend.stream(cleared(Location.EDGE)))) > 1
        assert backend.probe().lists_model is True
        assert backend.members()[0].address == str(path)
        backend.close()
